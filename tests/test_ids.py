import numpy as np
import pytest
import torch

from alignrec_pyg import BPR, load
from alignrec_pyg.ids import (
    IdMap,
    UnknownItemError,
    UnknownUserError,
    as_id_list,
    item_ids,
    user_ids,
)


def test_ids_become_numbers_and_come_back(toy):
    users, items = IdMap(toy, "user"), IdMap(toy, "item")
    assert users.numbers(["cy", "ann", "cy"], "who").tolist() == [2, 0, 2]
    assert items.numbers(torch.tensor([40, 10]), "what").tolist() == [3, 0]
    assert items.numbers(20, "what").tolist() == [1]
    assert items.numbers([], "what").dtype == torch.int64
    assert users.find(["bob", 1, None, "ann"], "who").tolist() == [1, -1, -1, 0]
    assert user_ids(toy)[[2, 0]].tolist() == ["cy", "ann"]
    assert (len(users), len(items), items.ids.tolist()) == (3, 4, [10, 20, 30, 40])
    del toy["item"].id
    assert item_ids(toy).tolist() == [0, 1, 2, 3]
    assert IdMap(toy, "item").numbers(np.array([3]), "what").tolist() == [3]


class OnGPU(torch.Tensor):
    """A tensor that NumPy cannot read before it was copied."""

    def __array__(self, *_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_ids_that_moved_to_a_gpu_with_their_graph(toy, tmp_path):
    model = BPR(toy)
    toy["item"].id = torch.tensor([10, 20, 30, 40]).as_subclass(OnGPU)
    assert IdMap(toy, "item").numbers([30], "what").tolist() == [2]
    model.save_pretrained(tmp_path, toy)
    assert item_ids(load(tmp_path)[1]).tolist() == [10, 20, 30, 40]


def test_unknown_ids_are_named(toy):
    with pytest.raises(UnknownUserError, match=r"'who' .* 3 users.* 'ann' \(unknown: 'ANN', 1\)!"):
        IdMap(toy, "user").numbers(["ANN", 1, "bob"], "who", "!")
    with pytest.raises(UnknownItemError, match=r"4 items, .* like 10 \(unknown: '10'\)"):
        IdMap(toy, "item").numbers("10", "what")
    with pytest.raises(UnknownUserError, match=r"unknown: 'u0', 'u1', 'u2', 'u3', 'u4', \.\.\."):
        IdMap(toy, "user").numbers([f"u{n}" for n in range(7)], "who")


def test_ids_are_one_list():
    assert as_id_list("ab", "ids") == ["ab"]
    assert as_id_list((1, "a"), "ids") == [1, "a"]
    with pytest.raises(ValueError, match=r"'ids' needs to be one list of ids \(got shape \(1, 2\)"):
        as_id_list([[1, 2]], "ids")
