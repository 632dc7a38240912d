from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from alignrec_pyg.transforms.subset import select_rows


def test_picks_rows_of_every_kind_and_leaves_the_rest():
    values = {
        "tensor": torch.arange(6).view(3, 2),
        "array": np.array(["a", "b", "c"]),
        "texts": ["x", None, "z"],
        "pair": (1, 2, 3),
        "scalar": torch.tensor(7),
        "count": 3,
        "label": "abc",
        "nothing": None,
    }
    picked = select_rows(values, torch.tensor([2, 0]), 3, "items")
    assert picked["tensor"].tolist() == [[4, 5], [0, 1]]
    assert picked["array"].tolist() == ["c", "a"]
    assert picked["texts"] == ["z", "x"]
    assert picked["pair"] == (3, 1)
    assert (picked["scalar"], picked["count"], picked["label"]) == (torch.tensor(7), 3, "abc")
    assert picked["nothing"] is None
    assert values["texts"] == ["x", None, "z"]


@pytest.mark.parametrize("value", [torch.zeros(2), np.zeros(4), ["a"]])
def test_rejects_another_number_of_rows(value):
    with pytest.raises(ValueError, match="'it' needs one row for each of the 3 items"):
        select_rows({"it": value}, torch.tensor([0]), 3, "items")


def test_sequences_never_become_one_array():
    """Texts would take (longest text * 4 bytes) each; images of several sizes make none."""
    values = {
        "text": ["x" * 100_000] + ["y"] * 199,
        "image": [np.zeros((2, 3)), None, torch.zeros(4, 4), *[None] * 197],
    }
    tracemalloc.start()
    try:
        picked = select_rows(values, torch.tensor([1, 0, 2]), 200, "items")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert picked["text"] == ["y", "x" * 100_000, "y"]
    assert picked["image"][0] is None
    assert [image.shape for image in picked["image"][1:]] == [(2, 3), (4, 4)]
    assert peak < 1_000_000
