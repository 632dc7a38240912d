import pytest
import torch
from torch.nn import functional

from alignrec_pyg.models import mmgcn_functions
from alignrec_pyg.models.mmgcn_functions import (
    leaky_means_linear,
    normalized_rows,
    unit_rows_linear_and_means,
)
from alignrec_pyg.nn import item_to_user_adjacency


@pytest.mark.parametrize("trainable", [True, False])
def test_normalized_rows_and_their_squares(trainable):
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=trainable)
    if trainable:
        assert torch.autograd.gradcheck(normalized_rows, (x,))
    rows, square = normalized_rows(x)
    torch.testing.assert_close(rows, functional.normalize(x))
    torch.testing.assert_close(square, (x**2).sum())


@pytest.mark.parametrize("trainable", [True, False])
def test_unit_rows_through_a_linear_map_and_their_means(trainable):
    mean = item_to_user_adjacency(torch.tensor([[0, 0, 1, 3], [0, 4, 1, 2]]), 4, 5, "row")
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=trainable)
    weight = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: unit_rows_linear_and_means(*inputs, mean), (x, weight, bias)
    )
    own, means, square = unit_rows_linear_and_means(x, weight, bias, mean)
    unit = functional.normalize(x)
    torch.testing.assert_close(own, unit @ weight.t() + bias)
    torch.testing.assert_close(means[0], (unit[0] + unit[4]) / 2)
    assert means[2].tolist() == [0, 0, 0]
    torch.testing.assert_close(square, (x**2).sum())


def test_rows_of_zeros_have_no_gradient():
    mean = item_to_user_adjacency(torch.tensor([[0, 1], [0, 1]]), 2, 3, "row")
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    weight, bias = torch.randn(2, 2), torch.zeros(2)
    own, means, square = unit_rows_linear_and_means(x, weight, bias, mean)
    assert own[0].tolist() == [0, 0]
    torch.testing.assert_close(means.detach(), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    (own.sum() + means[:, 0].sum() + square).backward()
    assert x.grad[[0, 2]].tolist() == [[0, 0], [0, 0]]
    assert x.grad[1].abs().min() > 0


def test_linear_map_of_leaky_means(monkeypatch):
    monkeypatch.setattr(mmgcn_functions, "_BLOCK", 2)
    mean = item_to_user_adjacency(torch.tensor([[0, 0, 1, 3], [0, 2, 1, 2]]), 4, 3, "row")
    z = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: leaky_means_linear(*inputs, mean), (z, weight, bias)
    )
    means = torch.stack([(z[0] + z[2]) / 2, z[1], torch.zeros(5), z[2]])
    expected = functional.leaky_relu(means) @ weight.t() + bias
    torch.testing.assert_close(leaky_means_linear(z, weight, bias, mean), expected)
