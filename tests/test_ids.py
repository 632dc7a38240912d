import numpy as np
import pytest
import torch

from alignrec_pyg.ids import (
    UnknownItemError,
    UnknownUserError,
    as_id_list,
    item_ids,
    item_indices,
    user_ids,
    user_indices,
)


def test_ids_become_numbers_and_come_back(toy):
    assert user_indices(toy, ["cy", "ann", "cy"], "who").tolist() == [2, 0, 2]
    assert item_indices(toy, torch.tensor([40, 10]), "what").tolist() == [3, 0]
    assert item_indices(toy, 20, "what").tolist() == [1]
    assert item_indices(toy, [], "what").dtype == torch.int64
    assert user_ids(toy)[[2, 0]].tolist() == ["cy", "ann"]
    del toy["item"].id
    assert item_ids(toy).tolist() == [0, 1, 2, 3]
    assert item_indices(toy, np.array([3]), "what").tolist() == [3]


def test_unknown_ids_are_named(toy):
    with pytest.raises(UnknownUserError, match=r"'who' .* 3 users, .* 'ann' \(unknown: 'ANN', 1\)"):
        user_indices(toy, ["ANN", 1, "bob"], "who")
    with pytest.raises(UnknownItemError, match=r"4 items, .* like 10 \(unknown: '10'\)"):
        item_indices(toy, "10", "what")


def test_ids_are_one_list():
    assert as_id_list("ab", "ids") == ["ab"]
    assert as_id_list((1, "a"), "ids") == [1, "a"]
    with pytest.raises(ValueError, match=r"'ids' needs to be one list of ids \(got shape \(1, 2\)"):
        as_id_list([[1, 2]], "ids")
