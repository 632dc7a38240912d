import numpy as np
import pandas as pd
import pytest

from alignrec_pyg.datasets import InteractionDataset, Synthetic, from_frames
from alignrec_pyg.datasets.interactions import interaction_graph
from alignrec_pyg.graph import INTERACTS

USER = np.array([0, 1, 0, 1])
ITEM = np.array([0, 0, 0, 2])
TIME = np.array([10, 20, 30, 40])


def build(keep="first", split=None):
    notes: list[str] = []
    data, dropped = interaction_graph(
        USER,
        ITEM,
        np.array(["a", "b"], dtype=object),
        np.arange(3),
        notes,
        rating=np.array([1.0, 2.0, 3.0, 4.0]),
        time=TIME,
        split=split,
        keep=keep,
    )
    return data, dropped, notes


@pytest.mark.parametrize(
    ("keep", "links", "times"),
    [
        ("first", [[0, 1, 1], [0, 0, 2]], [10, 20, 40]),
        ("last", [[1, 0, 1], [0, 0, 2]], [20, 30, 40]),
    ],
)
def test_repeated_pairs_are_dropped_and_counted(keep, links, times):
    data, dropped, _ = build(keep)
    assert dropped == 1
    assert data[INTERACTS].edge_index.tolist() == links
    assert data[INTERACTS].time.tolist() == times
    assert data[INTERACTS].rating.tolist() == [t / 10 for t in times]


def test_pair_in_train_and_test_is_noted():
    split = np.array([0, 0, 2, 1], dtype=np.int8)
    data, _, notes = build(split=split)
    assert data[INTERACTS].split.tolist() == [0, 0, 1]
    assert any("1 repeated pairs carry another split label" in note for note in notes)


def test_contract():
    data, _, notes = build()
    assert data.node_types == ["user", "item"]
    assert data["user"].id.tolist() == ["a", "b"]
    assert (data["user"].num_nodes, data["item"].num_nodes) == (2, 3)
    assert str(data[INTERACTS].edge_index.dtype) == "torch.int64"
    assert str(data[INTERACTS].rating.dtype) == "torch.float32"
    assert "split" not in data[INTERACTS]
    assert notes == ["1 of 3 items have no interaction"]


def test_keep_is_checked():
    with pytest.raises(ValueError, match="'keep' needs to be one of .'first', 'last'"):
        build(keep="any")


def test_every_dataset_has_data_and_report_and_says_its_size():
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5]})
    for dataset in (from_frames(frame), Synthetic(4, 6, 20, num_topics=2, image_size=4)):
        assert isinstance(dataset, InteractionDataset)
        assert dataset.report.interactions == dataset.data["user", "item"].edge_index.size(1)
    assert repr(from_frames(frame)) == "InteractionDataset(users=2, items=2, interactions=3)"


def test_user_nodes_come_first():
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5]})
    assert from_frames(frame).data.node_types == ["user", "item"]
