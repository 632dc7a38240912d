from __future__ import annotations

import functools
import re
import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA

from alignrec_pyg.encoders import state_hash, weights_hash


def test_weights_follow_every_bit_and_not_the_order():
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5)}
    key = weights_hash(weights)
    assert key == weights_hash({"b": weights["b"], "a": weights["a"].clone()})
    changed = weights["a"].clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    others = [
        {**weights, "a": changed},
        {**weights, "a": weights["a"].view(3, 2)},
        {**weights, "a": weights["a"].to(torch.float64)},
        {**weights, "c": weights["b"]},
        {"a": weights["a"], "c": weights["b"]},
    ]
    assert len({key, *map(weights_hash, others)}) == 6


def test_weights_of_any_type_and_views():
    half = torch.arange(6.0).bfloat16()
    assert weights_hash({"a": half[::2]}) == weights_hash({"a": half[::2].clone()})
    assert weights_hash({"a": half}) != weights_hash({"a": half.half()})
    assert weights_hash({}) == weights_hash({})


@dataclass
class Settings:
    size: int = 3
    names: tuple[str, ...] = ("a",)


def doubled(factor):
    return lambda value, more=0: factor * value + more


def trained(seed):
    rows = np.random.default_rng(seed).normal(size=(9, 4))
    return PCA(2, random_state=0).fit(rows)


class Old:
    def transform(self, rows):
        return rows


class New:
    def transform(self, rows):
        return rows + 1


New.__name__ = New.__qualname__ = "Old"


DIFFERENT = [
    [None, True, 1, 1.0, "1", b"1", (1,), [1], {1}, {1: 1}, np.int64(1), np.float32(1)],
    [np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.ones(4), np.zeros(4, object)],
    [torch.zeros(4), torch.ones(4), torch.zeros(2, 2), torch.zeros(4).bfloat16()],
    [{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 1}],
    [Settings(), Settings(4), Settings(names=("b",))],
    [doubled(2), doubled(3), lambda value, more=1: value, lambda value, more=0: value],
    [functools.partial(max, 1), functools.partial(max, 2), functools.partial(min, 1)],
    [PCA(2), PCA(3), trained(0), trained(1)],
    [re.compile("a"), re.compile("b"), re.compile("a", re.IGNORECASE)],
    [np.random.RandomState(0), np.random.RandomState(1)],
    [csr_matrix([[1, 0]]), csr_matrix([[0, 1]])],
    [len, max, np.log, np.exp, str.split, str.strip],
    [Old, New],  # of one name, with other code
]


@pytest.mark.parametrize("values", DIFFERENT)
def test_other_state_has_another_hash(values):
    assert len({state_hash(value) for value in values}) == len(values)


def test_equal_state_has_an_equal_hash():
    assert [*{0, 8}] != [*{8, 0}]  # sets keep the order of what collides
    assert state_hash({"a": 1, "b": {0, 8}}) == state_hash({"b": {8, 0}, "a": 1})
    assert state_hash(doubled(2)) == state_hash(doubled(2))
    assert state_hash(trained(0)) == state_hash(trained(0))
    assert state_hash(Settings()) == state_hash(Settings())
    assert state_hash(np.arange(6)[::2]) == state_hash(np.array([0, 2, 4]))
    assert state_hash("a", "b") != state_hash("ab")


def test_what_refers_to_itself_has_an_end():
    own: list = [1]
    own.append(own)
    again: list = [1]
    again.append(again)
    assert state_hash(own) == state_hash(again) != state_hash([1, [1]])


def test_what_cannot_be_taken_apart_is_named():
    with pytest.raises(ValueError, match=r"a cache key cannot be made of <unlocked _thread.lock"):
        state_hash({"lock": threading.Lock()})
