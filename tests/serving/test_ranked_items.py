import numpy as np
import torch

from alignrec_pyg.serving.ranked_items import RankedItems, frame_of, frame_of_neighbors, lists_of

IDS = np.array([10, 20, 30], dtype=np.int32)
ITEM = torch.tensor([[2, 0], [1, 3]])  # 3: nothing is left
SCORE = torch.tensor([[0.5, 0.25], [1.0, -torch.inf]])


def test_lists_and_frames_leave_out_what_is_no_item():
    first, second = lists_of(IDS, ITEM, SCORE)
    assert (first.item.tolist(), first.score.tolist()) == ([30, 10], [0.5, 0.25])
    assert (second.item.tolist(), second.score.tolist()) == ([20], [1.0])
    frame = frame_of(np.array(["ann", "bob"], dtype=object), IDS, ITEM, SCORE)
    rows = list(frame.itertuples(index=False, name=None))
    assert rows == [("ann", 1, 30, 0.5), ("ann", 2, 10, 0.25), ("bob", 1, 20, 1.0)]
    assert frame["item_id"].dtype == IDS.dtype


def test_neighbors_of_no_item_are_an_empty_frame_of_the_same_types():
    lists = [RankedItems(IDS[1:], np.array([0.9, 0.8])), RankedItems(IDS[:0], np.zeros(0))]
    frame = frame_of_neighbors(IDS[:2], IDS, lists, "cosine")
    rows = list(frame.itertuples(index=False, name=None))
    assert rows == [(10, 1, 20, 0.9), (10, 2, 30, 0.8)]
    empty = frame_of_neighbors(IDS[:0], IDS, [], "cosine")
    assert list(empty.columns) == ["similar_to", "rank", "item_id", "cosine"]
    assert empty.dtypes.equals(frame.dtypes)
    assert len(empty) == 0
