from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignrec_pyg.encoders import (
    FittedItemEncoder,
    ItemContent,
    ItemEncoder,
    PatchPCAEncoder,
    Precomputed,
    TfidfEncoder,
)
from alignrec_pyg.encoders.base import needs_fit


def test_content_row_by_row():
    paths = [Path("a.jpg"), None, Path("c.jpg")]
    items = ItemContent(["one", " ", None], paths)
    assert len(items) == 3
    assert items.has("text").tolist() == [True, False, False]
    assert items.has("image").tolist() == [True, False, True]
    part = items.select([2, 0])
    assert part.text == [None, "one"]
    assert part.image == [Path("c.jpg"), Path("a.jpg")]


def test_content_of_one_kind():
    pixels = torch.arange(3 * 3 * 2 * 2, dtype=torch.uint8).view(3, 3, 2, 2)
    items = ItemContent(image=pixels)
    assert items.has("image").all()
    assert not items.has("text").any()
    assert torch.equal(items.select([1]).image, pixels[1:2])
    assert ItemContent(text=["a"]).select([0]) == ItemContent(text=["a"])
    assert len(items.select([])) == 0


def test_content_rejects_lengths():
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        ItemContent(["a"], [None, None])
    with pytest.raises(ValueError, match="one of them is required"):
        ItemContent()


def test_content_by_id():
    items = ItemContent(id=["a", "b"])
    assert items.has("id").all()
    assert not items.has("text").any()
    assert items.select([1]).id == ["b"]
    assert ItemContent(["x", None], id=[1, 2]).select([1]) == ItemContent([None], id=[2])
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        ItemContent(["a"], id=[1, 2])


def test_protocols_tell_encoders_apart():
    class Constant:
        modalities = ("text",)
        out_dim = 1
        cache_key = "constant"

        def __call__(self, items):
            return torch.ones(len(items), 1)

    assert isinstance(Constant(), ItemEncoder)
    assert not isinstance(Constant(), FittedItemEncoder)
    assert isinstance(TfidfEncoder(), FittedItemEncoder)
    assert isinstance(PatchPCAEncoder(), FittedItemEncoder)
    assert isinstance(Precomputed([[1.0]]), FittedItemEncoder)
    assert needs_fit(TfidfEncoder())
    assert not needs_fit(Constant())
