import re
import shutil
from dataclasses import replace

import pytest
import torch

from alignrec_pyg import BPR, TrainConfig, rank, table_weights
from alignrec_pyg.experiments import prepared_data
from alignrec_pyg.experiments.cells import Cell, data_version
from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.experiments.prepared_data import val_known_at_test
from alignrec_pyg.experiments.settings import SettingsError, package_models
from alignrec_pyg.graph import INTERACTS, feature_names, feature_table, knn_edge_type
from alignrec_pyg.nn import faiss_search
from alignrec_pyg.transforms import ConcatFeatures, KNNItemGraph

MODELS = package_models()


def edges(data, name):
    store = data[knn_edge_type(name)]
    return store.edge_index, store.edge_weight


def test_every_model_reads_what_it_is_made_for(tiny_folder):
    data = prepare(str(tiny_folder))
    assert {name: data.inputs(model) for name, model in MODELS.items()} == {
        "AlignRec": {"features": ["image+text"], "item_graph": "cosine+image+text"},
        "WeightedAlignRec": {
            "features": ["weighted+image+text"],
            "item_graph": "weighted+cosine+image+text",
        },
        "BPR": {},
        "LightGCN": {},
        "VBPR": {"features": ["image", "text"]},
        "BM3": {"features": ["image", "text"]},
        "FREEDOM": {"features": ["image", "text"], "item_graph": "binary+image+text"},
        "PGL": {"features": ["image", "text"], "item_graph": "binary+image+text"},
        "MENTOR": {"features": ["image", "text"], "item_graph": "binary+image+text"},
        "ContentLightGCN": {"features": ["image", "text"]},
        "MMGCN": {"features": ["image", "text"]},
        "GRCN": {"features": ["image", "text"]},
        "DualGNN": {"features": ["image", "text"]},
        "SLMRec": {"features": ["image", "text"]},
        "LGMRec": {"features": ["image", "text"]},
        "MGCN": {"features": ["image", "text"], "item_graphs": ["image", "text"]},
        "LATTICE": {"features": ["image", "text"], "item_graphs": ["image", "text"]},
        "SMORE": {"features": ["image", "text"], "item_graphs": ["image", "text"]},
        "ContentKNN": {"features": ["image", "text"]},
        **{name: {} for name in ("ALS", "EASE", "ItemKNN", "Popularity")},
    }
    assert all(data.why_not(model) is None for model in MODELS.values())
    fused = ConcatFeatures(["image", "text"], normalize=False)(data.train)
    assert torch.equal(feature_table(data.train, "image+text"), feature_table(fused, "mm"))
    expected = {
        "cosine+image+text": KNNItemGraph(
            "image+text", weighting="cosine", name="cosine+image+text"
        ),
        "weighted+cosine+image+text": KNNItemGraph(
            "weighted+image+text", weighting="cosine", name="weighted+cosine+image+text"
        ),
        "binary+image+text": KNNItemGraph(
            {"image": 0.1, "text": 0.9}, weighting="binary", name="binary+image+text"
        ),
        "text": KNNItemGraph("text", weighting="cosine"),
    }
    for name, transform in expected.items():
        for part in (data.train, data.val, data.test):
            for ours, theirs in zip(
                edges(part, name), edges(transform(data.train), name), strict=True
            ):
                assert torch.equal(ours, theirs)
    assert data.split_rule == "labels"
    assert data.train[INTERACTS].edge_index.size(1) == 24 * 6
    tables = ["image", "image+text", "text", "weighted+image+text"]
    assert [report.name for report in data.report.features] == tables


def test_known_pairs_are_ranked_on_the_test_links_unless_they_are_left_out(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / tiny_folder.name)
    usual = prepare(str(folder))
    inter = next(folder.glob("*.inter"))
    inter.with_suffix(".known").write_text("userID\titemID\n0\t1\n1\t0\n2\t3\n3\t5\n")
    data = prepare(str(folder), exclude_known_pairs=True)
    assert data.hashes[""] != usual.hashes[""]
    cell = Cell(row="BPR", model=BPR, hparams={}, config=TrainConfig())
    model = cell.build(data.train)
    ranking = data.parts.ranked(cell, model, "test", data.test)
    assert ranking.item.equal(rank(model, data.test, exclude_known_pairs=True).item)
    parts = prepare(str(folder)).parts
    assert parts.ranked(cell, model, "test", data.test).item.equal(rank(model, data.test).item)
    assert len({data_version(cell, part) for part in (data.parts, parts, usual.parts)}) == 3


def test_another_number_of_neighbours_makes_graphs_of_other_names(tiny_folder):
    data = prepare(str(tiny_folder), item_neighbors=3)
    beside = replace(data, item_neighbors=10)
    names = {
        "AlignRec": ("item_graph", "cosine+image+text+k3", "cosine+image+text"),
        "FREEDOM": ("item_graph", "binary+image+text+k3", "binary+image+text"),
        "MGCN": ("item_graphs", ["image+k3", "text+k3"], ["image", "text"]),
    }
    for model, (argument, few, usual) in names.items():
        assert data.inputs(MODELS[model])[argument] == few
        assert beside.inputs(MODELS[model])[argument] == usual
    expected = KNNItemGraph("image+text", 3, weighting="cosine", name="cosine+image+text+k3")
    for part in (data.train, data.val, data.test):
        index, weight = edges(part, "cosine+image+text+k3")
        theirs = edges(expected(data.train), "cosine+image+text+k3")
        assert torch.equal(index, theirs[0])
        assert torch.equal(weight, theirs[1])
    assert "k=3" in data.item_graphs["cosine+image+text+k3"]
    assert "k=3" in data.item_graphs["image+k3"]


def test_approximate_item_graphs_tell_their_recall(tiny_folder, monkeypatch):
    pytest.importorskip("faiss", reason="faiss (extra 'serving') is missing")
    data = prepare(str(tiny_folder), features=["text"], neighbor_recall=0.01)
    told = data.item_graphs[data.inputs(MODELS["AlignRec"])["item_graph"]]
    assert re.search(r"backend='faiss', min_recall=0.01, .*, recall [01]\.\d{4}, hash", told)
    monkeypatch.setattr(faiss_search, "_recall", lambda *_: 0.3434)
    data = prepare(str(tiny_folder), features=["text"], neighbor_recall=0.95)
    told = "--item-neighbors, --neighbor-recall: 'min_recall' needs to be at most 0.343 .* exact"
    with pytest.raises(SettingsError, match=told):
        data.inputs(MODELS["AlignRec"])


def test_exact_graphs_of_many_items_are_told_to_take_long(tiny_folder, monkeypatch):
    monkeypatch.setattr(prepared_data, "_MANY_ITEMS", 1)
    data = prepare(str(tiny_folder), features=["text"])
    data.inputs(MODELS["LightGCN"])
    with pytest.warns(UserWarning, match="the exact neighbours of .*: --neighbor-recall 0.95"):
        data.inputs(MODELS["AlignRec"])


def test_tables_weigh_what_item_cf_says_of_them_on_training_links(tiny_folder):
    data = prepare(str(tiny_folder))
    inputs = data.inputs(MODELS["WeightedAlignRec"])
    found = table_weights(data.train, ["image", "text"])
    weights = {name: round(weight, 2) for name, weight in found.items()}
    assert weights != {"image": 0.5, "text": 0.5}
    assert data.fused_weights == {"weighted+image+text": weights}
    fused = ConcatFeatures(["image", "text"], "fused", False, weights=weights)(data.train)
    graph = KNNItemGraph("fused", name="g")(fused)
    for part in (data.train, data.val, data.test, data.known):
        assert torch.equal(feature_table(part, inputs["features"][0]), fused["item"].x_fused)
        for tensor, expected in zip(
            edges(part, inputs["item_graph"]), edges(graph, "g"), strict=True
        ):
            torch.testing.assert_close(tensor, expected)
    # The tables of equal weights stand beside them.
    assert data.inputs(MODELS["AlignRec"])["features"] == ["image+text"]


def test_one_feature_set_is_read_as_it_is(tiny_folder):
    data = prepare(str(tiny_folder), features=["text"])
    for model in ("AlignRec", "WeightedAlignRec"):
        inputs = {"features": ["text"], "item_graph": "cosine+text"}
        assert data.inputs(MODELS[model]) == inputs
    assert data.fused_weights == {}
    data.inputs(MODELS["FREEDOM"])
    assert feature_names(data.train) == ["text"]
    assert "KNNItemGraph({'text': 1.0}" in data.item_graphs["binary+text"]


def test_other_feature_sets_weigh_the_same(tmp_path, write_folder):
    folder = write_folder(tmp_path / "audio", features=("text", "whisper"), labels=False)
    data = prepare(str(folder))
    data.inputs(MODELS["FREEDOM"])
    assert "{'text': 0.5, 'whisper': 0.5}" in data.item_graphs["binary+text+whisper"]
    assert data.split_rule == "random"


def test_neighbours_take_the_place_of_the_search(tiny_folder, tmp_path, write_neighbors):
    lists = {
        "image": write_neighbors(tmp_path / "image.npz", k=4),
        "text": write_neighbors(tmp_path / "text.npz", k=3, shift=7),
    }
    data = prepare(str(tiny_folder), neighbors=lists)
    for name in ("FREEDOM", "AlignRec"):
        data.inputs(MODELS[name])
    edge_index, weight = edges(data.train, "binary+image+text")
    of_first = {
        source: value
        for source, target, value in zip(*edge_index.tolist(), weight.tolist(), strict=True)
        if target == 0
    }
    assert of_first == pytest.approx(
        {0: 0.1 / 4 + 0.9 / 3, 1: 0.1 / 4, 2: 0.1 / 4, 3: 0.1 / 4, 7: 0.9 / 3, 14: 0.9 / 3}
    )
    assert (
        "{'image': 0.5, 'text': 0.5}, weighting='cosine'" in data.item_graphs["cosine+image+text"]
    )


def test_neighbours_without_cosines_are_too_little_for_alignrec(
    tiny_folder, tmp_path, write_neighbors
):
    path = write_neighbors(tmp_path / "text.npz", cosine=False)
    data = prepare(str(tiny_folder), neighbors={"text": path})
    reasons = {name: data.why_not(model) for name, model in MODELS.items()}
    cosine = {"AlignRec", "WeightedAlignRec", "MGCN", "LATTICE", "SMORE"}
    assert {name for name, reason in reasons.items() if reason} == cosine
    assert "cosines" in reasons["AlignRec"]


def test_only_what_is_asked_for_is_built_and_once(tiny_folder):
    data = prepare(str(tiny_folder))
    data.inputs(MODELS["BPR"])
    assert data.item_graphs == {}
    assert feature_names(data.train) == ["image", "text"]
    data.inputs(MODELS["AlignRec"])
    graph = edges(data.train, "cosine+image+text")[0]
    data.inputs(MODELS["AlignRec"])
    assert (
        edges(data.train, "cosine+image+text")[0]
        is edges(data.val, "cosine+image+text")[0]
        is graph
    )


def test_some_of_the_feature_sets_have_graphs_and_tables_of_their_own(tmp_path, write_folder):
    folder = write_folder(tmp_path / "three", features=("audio", "image", "text"))
    data = prepare(str(folder))
    assert data.inputs(MODELS["AlignRec"], ["image", "text"]) == {
        "features": ["image+text"],
        "item_graph": "cosine+image+text",
    }
    assert data.inputs(MODELS["FREEDOM"], ["text"]) == {
        "features": ["text"],
        "item_graph": "binary+text",
    }
    assert data.inputs(MODELS["MGCN"], ["text"])["item_graphs"] == ["text"]
    fused = ConcatFeatures(["image", "text"], normalize=False)(data.train)
    assert torch.equal(feature_table(data.test, "image+text"), feature_table(fused, "mm"))


def test_a_list_of_a_table_is_its_graph(tiny_folder, tmp_path, write_neighbors):
    lists = {"text": write_neighbors(tmp_path / "text.npz", k=3, shift=7)}
    data = prepare(str(tiny_folder), neighbors=lists)
    assert data.inputs(MODELS["MGCN"])["item_graphs"] == ["image", "text"]
    assert "ItemGraphFromNeighbors" in data.item_graphs["text"]
    assert "KNNItemGraph" in data.item_graphs["image"]
    edge_index, _ = edges(data.train, "text")
    assert sorted(edge_index[0][edge_index[1] == 0].tolist()) == [0, 7, 14]


def test_known_validation_links_are_in_the_graph_of_the_test(tiny_folder):
    data = prepare(str(tiny_folder))
    test = val_known_at_test(data)
    known, val = test[INTERACTS].edge_index, data.val[INTERACTS].edge_label_index
    assert known.size(1) == 24 * 6 + val.size(1)
    assert torch.equal(known[:, 24 * 6 :], val)
    assert data.test[INTERACTS].edge_index.size(1) == 24 * 6
    assert torch.equal(test[INTERACTS].edge_label_index, data.test[INTERACTS].edge_label_index)


def test_a_part_of_the_features_reads_no_list_of_the_others(tiny_folder, tmp_path, write_neighbors):
    lists = {"text": write_neighbors(tmp_path / "text.npz", k=3, shift=7)}
    data = prepare(str(tiny_folder), neighbors=lists)
    freedom = MODELS["FREEDOM"]
    of_all = data.inputs(freedom)["item_graph"]
    without_text = data.inputs(freedom, ["image"])["item_graph"]
    assert "ItemGraphFromNeighbors" in data.item_graphs[of_all]
    assert "KNNItemGraph({'image': 1.0}" in data.item_graphs[without_text]
    assert data.inputs(freedom, ["text"])["item_graph"] == of_all == "binary+text"


def test_lists_of_other_names_than_the_tables_serve_all_of_them(
    tiny_folder, tmp_path, write_neighbors
):
    lists = {"published": write_neighbors(tmp_path / "text.npz", k=3, shift=7)}
    data = prepare(str(tiny_folder), neighbors=lists)
    assert data.inputs(MODELS["FREEDOM"])["item_graph"] == "binary+published"
    assert data.inputs(MODELS["FREEDOM"], ["text"])["item_graph"] == "binary+text"
    assert "KNNItemGraph" in data.item_graphs["binary+text"]


def test_a_table_named_like_two_others_is_not_taken_for_them(tmp_path, write_folder):
    folder = write_folder(tmp_path / "joint", features=("image", "image_text", "mm", "text"))
    data = prepare(str(folder))
    alone = data.inputs(MODELS["AlignRec"], ["image_text"])
    both = data.inputs(MODELS["AlignRec"], ["image", "text"])
    assert alone == {"features": ["image_text"], "item_graph": "cosine+image_text"}
    assert both == {"features": ["image+text"], "item_graph": "cosine+image+text"}
    found = [edges(data.train, name["item_graph"])[0] for name in (alone, both)]
    assert not torch.equal(*found)
    (fused,) = data.inputs(MODELS["AlignRec"])["features"]
    assert feature_table(data.train, fused).size(1) == 6 + 7 + 8 + 9
