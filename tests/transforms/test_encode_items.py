from __future__ import annotations

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders import ItemContent, TfidfEncoder
from alignrec_pyg.transforms import EncodeItems


class Lengths:
    """Length of the text and mean of the image; notes what it is asked."""

    cache_key = "lengths"

    def __init__(self, modalities=("text", "image"), value=0.0):
        self.modalities = modalities
        self.out_dim = 2
        self.value = value
        self.batches = []

    def __call__(self, items):
        self.batches.append(len(items))
        rows = torch.full((len(items), self.out_dim), self.value)
        for row in range(len(items)):
            if items.text is not None and items.text[row]:
                rows[row, 0] += len(items.text[row])
            if items.image is not None and items.image[row] is not None:
                rows[row, 1] += items.image[row].float().mean()
        return rows


@pytest.fixture
def data():
    data = HeteroData()
    data["item"].num_nodes = 5
    data["item"].text = ["abc", None, "", "a", "ab"]
    data["item"].image = [None, torch.full((3, 2, 2), 7, dtype=torch.uint8), None, None, None]
    return data


def test_sets_rows_and_mask_in_batches(data):
    encoder = Lengths()
    result = EncodeItems(encoder, "mm", batch_size=3)(data)
    assert result["item"].x_mm.tolist() == [[3, 0], [0, 7], [0, 0], [1, 0], [2, 0]]
    assert result["item"].mask_mm.tolist() == [False, False, True, False, False]
    assert result["item"].x_mm.dtype == torch.float32
    assert encoder.batches == [3, 1]
    assert "x_mm" not in data["item"]


def test_reads_only_what_the_encoder_asks_for(data):
    del data["item"].image
    result = EncodeItems(Lengths(("text",)), "text")(data)
    assert result["item"].mask_text.tolist() == [False, True, True, False, False]
    with pytest.raises(ValueError, match="'image' needs to be in"):
        EncodeItems(Lengths(), "mm")(data)


def test_fits_on_the_items_with_content():
    data = HeteroData()
    words = [f"word{n % 7} word{n % 5} word{n % 3}" for n in range(30)]
    data["item"].num_nodes = 32
    data["item"].text = [*words, None, " "]
    result = EncodeItems(TfidfEncoder(4), "text", batch_size=8)(data)
    expected = TfidfEncoder(4)
    expected.fit(ItemContent(text=words))
    torch.testing.assert_close(result["item"].x_text[:30], expected(ItemContent(text=words)))
    assert not result["item"].x_text[30:].any()
    assert result["item"].mask_text.tolist() == [False] * 30 + [True] * 2


def test_prints_nothing_without_a_terminal(data, capfd):
    EncodeItems(Lengths(), "mm", batch_size=1)(data)
    assert capfd.readouterr() == ("", "")


def test_content_that_does_not_fit(data):
    data["item"].text = ["too", "few"]
    with pytest.raises(ValueError, match="'text' needs one entry for each of the 5 items"):
        EncodeItems(Lengths(("text",)), "text")(data)
    data["item"].text = [None] * 5
    with pytest.raises(ValueError, match="no item has text"):
        EncodeItems(Lengths(("text",)), "text")(data)


def test_rows_that_do_not_fit(data):
    with pytest.raises(ValueError, match=r"finite rows.*items \[0, 1, 3, 4\]"):
        EncodeItems(Lengths(value=float("nan")), "mm")(data)
    encoder = Lengths()
    encoder.out_dim = 3
    encoder.__class__ = type("Narrow", (Lengths,), {"__call__": lambda self, items: torch.ones(1)})
    with pytest.raises(ValueError, match=r"rows of shape \(4, 3\) \(got \(1,\)\)"):
        EncodeItems(encoder, "mm")(data)


def test_rejects_arguments():
    with pytest.raises(ValueError, match="'batch_size'"):
        EncodeItems(Lengths(), "mm", batch_size=0)
    with pytest.raises(ValueError, match="'name'"):
        EncodeItems(Lengths(), "")
    for modalities in (("sound",), ()):
        with pytest.raises(ValueError, match="modalities among"):
            EncodeItems(Lengths(modalities), "mm")


def test_repr():
    assert repr(EncodeItems(TfidfEncoder(4), "text")) == (
        "EncodeItems(TfidfEncoder(out_dim=4), name='text')"
    )
