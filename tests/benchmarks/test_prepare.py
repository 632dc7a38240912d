import numpy as np
import pytest
import torch

from alignrec_pyg.graph import INTERACTS, feature_names, feature_table, knn_edge_type
from alignrec_pyg.transforms import ConcatFeatures, KNNItemGraph
from benchmarks.prepare import prepare
from benchmarks.presets import PAPER
from benchmarks.settings import SettingsError


def edges(data, name):
    store = data[knn_edge_type(name)]
    return store.edge_index, store.edge_weight


def test_every_model_reads_what_it_is_made_for(tiny_folder):
    data = prepare(str(tiny_folder), PAPER)
    assert data.inputs == {
        "AlignRec": {"features": ["mm"], "item_graph": "cosine"},
        "BPR": {},
        "LightGCN": {},
        "VBPR": {"features": ["image", "text"]},
        "BM3": {"features": ["image", "text"]},
        "FREEDOM": {"features": ["image", "text"], "item_graph": "binary"},
    }
    assert data.not_run == {}
    fused = ConcatFeatures(["image", "text"])(data.train)
    assert torch.equal(feature_table(data.train, "mm"), feature_table(fused, "mm"))
    expected = {
        "cosine": KNNItemGraph("mm", weighting="cosine", name="cosine"),
        "binary": KNNItemGraph({"image": 0.1, "text": 0.9}, weighting="binary", name="binary"),
    }
    for name, transform in expected.items():
        for part in (data.train, data.val, data.test):
            for ours, theirs in zip(
                edges(part, name), edges(transform(data.train), name), strict=True
            ):
                assert torch.equal(ours, theirs)
    assert data.split_rule == "labels"
    assert data.train[INTERACTS].edge_index.size(1) == 24 * 6
    assert [report.name for report in data.report.features] == ["image", "mm", "text"]


def test_one_feature_set_is_read_as_it_is(tiny_folder):
    data = prepare(str(tiny_folder), PAPER, features=["text"])
    assert data.inputs["AlignRec"]["features"] == ["text"]
    assert feature_names(data.train) == ["text"]
    assert "KNNItemGraph({'text': 1.0}" in data.item_graphs["binary"]


def test_other_feature_sets_weigh_the_same(tmp_path, write_folder):
    folder = write_folder(tmp_path / "audio", features=("text", "whisper"), labels=False)
    data = prepare(str(folder), PAPER)
    assert "{'text': 0.5, 'whisper': 0.5}" in data.item_graphs["binary"]
    assert data.split_rule == "random"


def test_neighbours_take_the_place_of_the_search(tiny_folder, tmp_path, write_neighbors):
    lists = {
        "image": write_neighbors(tmp_path / "image.npz", k=4),
        "text": write_neighbors(tmp_path / "text.npz", k=3, shift=7),
    }
    data = prepare(str(tiny_folder), PAPER, neighbors=lists)
    edge_index, weight = edges(data.train, "binary")
    of_first = {
        source: value
        for source, target, value in zip(*edge_index.tolist(), weight.tolist(), strict=True)
        if target == 0
    }
    assert of_first == pytest.approx(
        {0: 0.1 / 4 + 0.9 / 3, 1: 0.1 / 4, 2: 0.1 / 4, 3: 0.1 / 4, 7: 0.9 / 3, 14: 0.9 / 3}
    )
    assert "{'image': 0.5, 'text': 0.5}, weighting='cosine'" in data.item_graphs["cosine"]


def test_neighbours_without_cosines_are_too_little_for_alignrec(
    tiny_folder, tmp_path, write_neighbors
):
    path = write_neighbors(tmp_path / "text.npz", cosine=False)
    data = prepare(str(tiny_folder), PAPER, neighbors={"text": path})
    assert list(data.not_run) == ["AlignRec"]
    assert "cosines" in data.not_run["AlignRec"]
    assert list(data.item_graphs) == ["binary"]


def test_only_what_is_asked_for_is_built(tiny_folder):
    data = prepare(str(tiny_folder), {"BPR": PAPER["BPR"]})
    assert data.item_graphs == {}
    assert feature_names(data.train) == ["image", "text"]


def test_problems_come_together(tiny_folder, tmp_path):
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with pytest.raises(SettingsError) as caught:
        prepare(
            str(tiny_folder),
            PAPER,
            features=["imgae", "txt"],
            neighbors={"text": tmp_path / "a.npz"},
        )
    assert len(caught.value.problems) == 3
