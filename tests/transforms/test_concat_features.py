from __future__ import annotations

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.transforms import ConcatFeatures


@pytest.fixture
def data():
    data = HeteroData()
    data["item"].num_nodes = 3
    data["item"].x_text = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    data["item"].mask_text = torch.tensor([False, True, True])
    data["item"].x_audio = torch.tensor([[2.0], [-5.0], [0.0]])
    data["item"].mask_audio = torch.tensor([False, False, True])
    return data


def test_normalised_parts_side_by_side(data):
    result = ConcatFeatures(["text", "audio"])(data)
    expected = torch.tensor([[0.6, 0.8, 1.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(result["item"].x_mm, expected)
    assert result["item"].mask_mm.tolist() == [False, False, True]
    assert "x_mm" not in data["item"]


def test_as_they_are_in_the_order_given(data):
    del data["item"].mask_audio
    result = ConcatFeatures(["audio", "text"], "both", normalize=False)(data)
    assert result["item"].x_both.tolist() == [[2.0, 3.0, 4.0], [-5.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert not result["item"].mask_both.any()


def test_rejects_arguments(data):
    for names in ([], "text", ["text", "text"]):
        with pytest.raises(ValueError, match="'names'"):
            ConcatFeatures(names)
    with pytest.raises(ValueError, match="'name'"):
        ConcatFeatures(["text"], "text")
    with pytest.raises(ValueError, match="x_image is missing"):
        ConcatFeatures(["image"])(data)


def test_repr():
    assert repr(ConcatFeatures(["a", "b"])) == "ConcatFeatures(['a', 'b'], name='mm')"
