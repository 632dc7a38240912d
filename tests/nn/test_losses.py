import math

import pytest
import torch
from torch.nn import functional

from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.nn import (
    batch_rows,
    bpr_loss,
    cosine_alignment_loss,
    embedding_norm_loss,
    info_nce_loss,
    l2_loss,
    node_info_nce_loss,
    similarity_loss,
    table_info_nce_loss,
    unit_rows,
)

# float64: the identities hold exactly, so tolerances can be tight
torch_double = {"dtype": torch.float64}


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, **torch_double)


def repeated(x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(counts, dim=0)


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, inputs))


def test_bpr_by_hand():
    pos, neg = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 0.5])
    expected = -(math.log(1 / (1 + math.exp(-1.0))) + math.log(1 / (1 + math.exp(0.5)))) / 2
    assert bpr_loss(pos, neg).item() == pytest.approx(expected)
    assert bpr_loss(pos, neg, eps=1e-10).item() == pytest.approx(expected)


def test_bpr_eps_bounds_the_loss():
    pos, neg = torch.tensor([0.0], **torch_double), torch.tensor([200.0], **torch_double)
    assert bpr_loss(pos, neg).item() == pytest.approx(200.0)
    assert bpr_loss(pos, neg, eps=1e-10).item() == pytest.approx(10 * math.log(10))


def test_embedding_norm_is_unsquared_over_the_rows_of_the_last():
    x, y, z = rows(3, 2), rows(3, 4, seed=1), rows(5, 2, seed=2)
    expected = sum(math.sqrt(sum(v * v for v in m.flatten().tolist())) for m in (x, y, z)) / 5
    assert embedding_norm_loss(x, y, z).item() == pytest.approx(expected)


def test_l2_divides_by_the_configured_batch_size():
    x = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    y = torch.tensor([[2.0, 0.0]])
    assert l2_loss(x, y, batch_size=8).item() == pytest.approx((14 + 4) / 16)


def test_cosine_alignment_by_hand():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    assert cosine_alignment_loss(x, y).item() == pytest.approx(1 - math.sqrt(0.5) / 2)


@pytest.mark.parametrize("normalize", [True, False])
def test_info_nce_is_cross_entropy_with_diagonal_labels(normalize):
    x, y = rows(6, 4).requires_grad_(), rows(6, 4, seed=1).requires_grad_()
    a, b = (functional.normalize(x), functional.normalize(y)) if normalize else (x, y)
    expected = functional.cross_entropy(a @ b.t() / 0.2, torch.arange(6))
    loss = info_nce_loss(x, y, 0.2, normalize=normalize)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, x, y), gradients(expected, x, y))


def test_info_nce_counts_equal_repeated_rows():
    x, y = rows(4, 3).requires_grad_(), rows(4, 3, seed=1).requires_grad_()
    counts = torch.tensor([1, 3, 2, 1])
    expected = info_nce_loss(repeated(x, counts), repeated(y, counts))
    loss = info_nce_loss(x, y, counts=counts)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, x, y), gradients(expected, x, y))


def test_info_nce_gradient_numerically():
    x, y = rows(4, 3).requires_grad_(), rows(4, 3, seed=1).requires_grad_()
    counts = torch.tensor([1, 3, 2, 1])
    assert torch.autograd.gradcheck(lambda x, y: info_nce_loss(x, y, 0.5, counts=counts), (x, y))


def test_info_nce_survives_large_inner_products():
    x = 100 * torch.eye(3)
    assert info_nce_loss(x, x, 0.2, normalize=False).item() == pytest.approx(0.0, abs=1e-6)
    assert info_nce_loss(x, -x, 0.2, normalize=False).item() == pytest.approx(50_000, rel=1e-4)


def slow_similarity(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.linalg.matrix_norm(x @ x.t() - target @ target.t()) / x.size(0)


@pytest.mark.parametrize("width", [2, 5, 40])  # below, near and above the number of rows
def test_similarity_equals_the_full_matrix_form(width):
    x = rows(7, 5).requires_grad_()
    target = functional.normalize(rows(7, width, seed=1))
    expected = slow_similarity(x, target)
    loss = similarity_loss(x, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, x), gradients(expected, x))
    mse = similarity_loss(x, target, reduction="mse")
    torch.testing.assert_close(mse, expected**2)
    torch.testing.assert_close(gradients(mse, x), gradients(slow_similarity(x, target) ** 2, x))


def test_similarity_counts_equal_repeated_rows():
    x = rows(4, 3).requires_grad_()
    target = functional.normalize(rows(4, 6, seed=1))
    counts = torch.tensor([1, 3, 2, 1])
    expected = slow_similarity(repeated(x, counts), repeated(target, counts))
    loss = similarity_loss(x, target, counts=counts)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, x), gradients(expected, x))


def test_similarity_does_not_change_scale_with_the_batch():
    x, target = rows(5, 3), functional.normalize(rows(5, 4, seed=1))
    once = similarity_loss(x, target)
    torch.testing.assert_close(similarity_loss(x.repeat(3, 1), target.repeat(3, 1)), once)


def test_similarity_in_float32_is_close_where_the_terms_nearly_cancel():
    target = functional.normalize(rows(500, 64) + 3)  # cosines near 0.9, like transformer features
    x = target + 3e-4 * rows(500, 64, seed=1)
    expected = slow_similarity(x, target).item()  # 4e-4, from terms of about 0.8
    loss = similarity_loss(x.float(), target.float()).item()
    assert loss == pytest.approx(expected, rel=0.02)


def test_similarity_target_gets_no_gradient():
    x, target = rows(4, 3).requires_grad_(), rows(4, 3, seed=1).requires_grad_()
    similarity_loss(x, target).backward()
    assert x.grad is not None
    assert target.grad is None


def test_similarity_of_equal_rows_has_a_finite_gradient():
    x = rows(4, 3).requires_grad_()
    loss = similarity_loss(x, x.detach())
    assert loss.item() < 1e-6
    assert torch.isfinite(gradients(loss, x)[0]).all()


def test_similarity_rejects_an_unknown_reduction():
    with pytest.raises(ValueError, match="'reduction' needs to be one of .'rms', 'mse'"):
        similarity_loss(rows(2, 2), rows(2, 2), reduction="sum")


def test_rows_of_zeros_stay_and_get_no_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]], requires_grad=True)
    found = unit_rows(x)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]]))
    (found * torch.tensor([[1.0, 2.0], [5.0, 7.0], [3.0, 1.0]])).sum().backward()
    expected = x.detach().clone().requires_grad_()
    row = expected[[0, 2]]
    unit = row / row.norm(dim=1, keepdim=True)
    (unit * torch.tensor([[1.0, 2.0], [3.0, 1.0]])).sum().backward()
    torch.testing.assert_close(x.grad, expected.grad)
    assert not x.grad[1].any()


def test_batch_rows_are_those_of_users_positive_and_negative_items():
    users, items = rows(3, 2), rows(4, 2, seed=1)
    batch = InteractionBatch(*torch.tensor([[2, 0], [3, 3], [1, 0]]))
    user, pos, neg = batch_rows(batch, users, items)
    assert torch.equal(user, users[[2, 0]])
    assert torch.equal(pos, items[[3, 3]])
    assert torch.equal(neg, items[[1, 0]])


def test_table_info_nce_by_hand():
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    anchor, positive = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    expected = math.log(1 + math.exp(-5) + math.exp(-10))
    assert expected == pytest.approx(0.0067604, abs=1e-7)
    found = table_info_nce_loss(anchor, table, positive)
    assert found.item() == pytest.approx(expected, rel=1e-4)
    twice = table_info_nce_loss(anchor, table, positive, counts=torch.tensor([2]))
    assert twice.item() == pytest.approx(2 * expected, rel=1e-4)


@pytest.mark.parametrize("at_a_time", [1, 14, 1 << 22])
def test_table_info_nce_equals_the_cross_entropy_of_all_rows(monkeypatch, at_a_time):
    monkeypatch.setattr(
        "alignrec_pyg.nn.losses._LOGITS_AT_A_TIME", at_a_time
    )  # blocks of 1, 2 or all rows
    x, table = rows(7, 4).requires_grad_(), rows(11, 4, seed=1)
    table[3] = 0  # a candidate with the cosine 0
    table.requires_grad_()
    counts, positive = torch.tensor([1, 3, 1, 2, 1, 1, 4]), torch.tensor([0, 2, 10, 2, 5, 6, 7])
    found = table_info_nce_loss(x, table, positive, 0.3, counts=counts)
    unit = table / table.norm(dim=1, keepdim=True).clamp(min=1e-9)
    logits = functional.normalize(x) @ unit.t() / 0.3
    expected = functional.cross_entropy(
        repeated(logits, counts), repeated(positive, counts), reduction="sum"
    )
    torch.testing.assert_close(found, expected)
    known = torch.arange(11) != 3  # the row of zeros gets no gradient
    for a, b in zip(gradients(found, x, table), gradients(expected, x, table), strict=True):
        keep = known if len(a) == 11 else slice(None)
        torch.testing.assert_close(a[keep], b[keep])


def test_node_info_nce_counts_a_repeated_node_as_often_as_it_occurs():
    x, y, nodes = rows(5, 4), rows(5, 4, seed=1), torch.tensor([3, 0, 3, 4])
    torch.testing.assert_close(
        node_info_nce_loss(nodes, x, y, 0.3), info_nce_loss(x[nodes], y[nodes], 0.3)
    )
