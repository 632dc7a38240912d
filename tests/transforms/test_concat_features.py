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


def test_weights_make_the_cosine_a_weighted_mean():
    data = HeteroData()
    data["item"].num_nodes = 5
    for name, dim in (("text", 7), ("audio", 3), ("image", 4)):
        data["item"][f"x_{name}"] = torch.randn(
            5, dim, generator=torch.Generator().manual_seed(dim)
        )
    weights = {"text": 3.0, "audio": 0.0, "image": 1.0}
    fused = ConcatFeatures(["text", "audio", "image"], weights=weights)(data)["item"].x_mm
    assert fused.shape == (5, 11)  # audio is left out

    def cosines(name):
        rows = data["item"][f"x_{name}"]
        return torch.cosine_similarity(rows[:, None], rows[None], dim=-1)

    expected = 0.75 * cosines("text") + 0.25 * cosines("image")
    torch.testing.assert_close(torch.cosine_similarity(fused[:, None], fused[None], -1), expected)
    torch.testing.assert_close(fused.square().sum(1), torch.full((5,), 3.0))  # as with equal ones


def test_a_table_of_weight_0_gives_no_item_features(data):
    result = ConcatFeatures(["text", "audio"], weights={"text": 1, "audio": 0})(data)
    assert result["item"].mask_mm.tolist() == [False, True, True]


def test_rejects_arguments(data):
    for weights in ({"text": 1.0}, {"text": 1.0, "audio": -1.0}, {"text": 0.0, "audio": 0.0}):
        with pytest.raises(ValueError, match="'weights' needs"):
            ConcatFeatures(["text", "audio"], weights=weights)
    for names in ([], "text", ["text", "text"]):
        with pytest.raises(ValueError, match="'names'"):
            ConcatFeatures(names)
    with pytest.raises(ValueError, match="'name'"):
        ConcatFeatures(["text"], "text")
    with pytest.raises(ValueError, match="x_image is missing"):
        ConcatFeatures(["image"])(data)


def test_repr():
    assert repr(ConcatFeatures(["a", "b"])) == "ConcatFeatures(['a', 'b'], name='mm')"
