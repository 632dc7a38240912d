import pytest
import torch
from torch import nn

from alignrec_pyg import BPR
from alignrec_pyg.serving import vectors as module
from alignrec_pyg.serving.vectors import Vectors


def with_items(toy, rows):
    rows = torch.as_tensor(rows, dtype=torch.float32)
    toy["item"].num_nodes = len(rows)
    model = BPR(toy, embedding_dim=rows.size(1))
    model.item_embedding.weight = nn.Parameter(rows)
    return Vectors(model, toy)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
@pytest.mark.parametrize("block", [1, 1 << 24])
def test_nearest_items_are_those_of_all_cosines(toy, monkeypatch, scale, block):
    monkeypatch.setattr(module, "_BLOCK_SCORES", block)
    rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    rows[50:120] = rows[40] * torch.linspace(1, 5, 70).unsqueeze(1)  # all alike
    rows[7] = 0
    vectors = with_items(toy, scale * rows)
    blocked = torch.zeros(200, dtype=torch.bool)
    blocked[[3, 60]] = True
    x = rows.double()
    unit = x / x.norm(dim=1, keepdim=True)
    asked = torch.tensor([40, 3, 7, 199, 40])
    found = list(vectors.nearest(asked, 12, blocked))
    for item, (others, cosines) in zip(asked.tolist(), found, strict=True):
        if item == 7:
            assert others.numel() == cosines.numel() == 0
            continue
        exact = (unit @ unit[item]).mul(2**20).round().tolist()
        left = [o for o in range(200) if o not in (item, 3, 60, 7)]
        assert others.tolist() == sorted(left, key=lambda o: (-exact[o], o))[:12]
        assert cosines.tolist() == pytest.approx((unit @ unit[item])[others].tolist(), abs=1e-6)


def test_ties_go_by_number_and_lists_may_be_short(toy):
    vectors = with_items(toy, torch.ones(4, 2))
    rows = list(vectors.nearest(torch.tensor([1, 3]), 2, None))
    assert [others.tolist() for others, _ in rows] == [[0, 2], [0, 1]]
    ((others, _),) = vectors.nearest(torch.tensor([1]), 9, None)
    assert others.tolist() == [0, 2, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_half_precision_becomes_single_and_double_stays(toy, dtype):
    model = BPR(toy, embedding_dim=3).to(dtype)
    vectors = Vectors(model, toy)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {vectors.user_x.dtype, vectors.item_x.dtype} == {expected}
    assert torch.equal(vectors.item_x, model.item_embedding.weight.to(expected))
