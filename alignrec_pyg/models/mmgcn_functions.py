"""Memory-efficient autograd functions for the first layers of MMGCN.

They compute means over neighbours of wide tables and read each table once. Compositions of torch's
own functions give the same values and gradients, but create several tensors as large as the tables.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from alignrec_pyg.nn.csr import csr_matmul
from alignrec_pyg.nn.precision import in_float32
from alignrec_pyg.nn.propagation import Adjacency

_SLOPE = 0.01  # negative slope of the leaky ReLU
_BLOCK = 128  # number of columns


def normalized_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scales the rows to length 1, and computes the sum of squares of ``x``.

    Rows of zeros remain zero and have no gradient.

    Shapes:
        - **input:** x :math:`(N, D)`
        - **output:** rows :math:`(N, D)`, sum :math:`()`
    """
    rows, square = _NormalizedRows.apply(x)
    return rows, square


def unit_rows_linear_and_means(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Adjacency
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Of rows :math:`x_n` and :math:`\hat{x}_n = x_n / |x_n|`: :math:`V \hat{x}_n + a`, the means
    of :math:`\hat{x}` over neighbours on the other side and the sum of squares of :math:`x`.

    The normalised table is never held in memory. Rows of zeros remain zero and have no gradient.

    Shapes:
        - **input:** x :math:`(N, D)`, weight :math:`V (d, D)`, bias :math:`a (d)`, mean
          :math:`(M, N)`
        - **output:** :math:`(N, d)`, means :math:`(M, D)`, sum :math:`()`
    """  # noqa: D205
    own, means, square = _UnitRows.apply(x, weight, bias, *mean)
    return own, means, square


def leaky_means_linear(z: Tensor, weight: Tensor, bias: Tensor, mean: Adjacency) -> Tensor:
    r""":math:`G \, \phi(h_n) + b` for the means :math:`h_n` of :math:`z` over neighbours, with the
    leaky ReLU :math:`\phi` of slope 0.01.

    Shapes:
        - **input:** z :math:`(M, D)`, weight :math:`G (d, D)`, bias :math:`b (d)`, mean
          :math:`(N, M)`
        - **output:** :math:`(N, d)`
    """  # noqa: D205
    product: Tensor = _LeakyMeansLinear.apply(z, weight, bias, *mean)
    return product


class _NormalizedRows(torch.autograd.Function):
    """Computes both results, and both gradients, from the lengths in one pass over the table."""

    @staticmethod
    @in_float32
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        square, inverse = _squares(x)
        out = x * inverse.unsqueeze(1)
        ctx.save_for_backward(out, inverse, square)
        return out, square.sum()

    @staticmethod
    @once_differentiable
    @in_float32
    def backward(ctx: Any, grad: Tensor, grad_square: Tensor) -> Tensor:
        out, inverse, square = ctx.saved_tensors
        # d square / d x = 2 x = 2 square inverse out, so it joins the part along the row
        along = torch.einsum("nd,nd->n", out, grad) - 2 * grad_square * square
        return torch.addcmul(grad, out, along.unsqueeze(1), value=-1).mul_(inverse.unsqueeze(1))


class _UnitRows(torch.autograd.Function):
    """Scales the narrow product and the links by the lengths, instead of the table."""

    @staticmethod
    @in_float32
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, transpose: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        square, inverse = _squares(x)
        ctx.save_for_backward(x, weight, inverse)
        ctx.transpose = transpose
        own = functional.linear(x, weight).mul_(inverse.unsqueeze(1)).add_(bias)
        links = mean.values() * inverse[mean.col_indices()]
        return own, _weighted_sums(mean, links, x), square.sum()

    @staticmethod
    @once_differentiable
    @in_float32
    def backward(
        ctx: Any, grad_own: Tensor, grad_mean: Tensor, grad_square: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        grad_bias = grad_own.sum(0)
        grad_own = grad_own * inverse.unsqueeze(1)
        grad_weight = grad_own.t() @ x
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, grad_bias, None, None
        transpose = ctx.transpose
        links = transpose.values() * inverse.repeat_interleave(transpose.crow_indices().diff())
        # in one tensor: the gradient of the normalised row divided by the row's length, minus its
        # component along the row, and d square / d x = 2 x
        grad = _weighted_sums(transpose, links, grad_mean).addmm_(grad_own, weight)
        along = torch.einsum("nd,nd->n", x, grad) * inverse.square() - 2 * grad_square
        grad.addcmul_(x, along.unsqueeze(1), value=-1)
        return grad, grad_weight, grad_bias, None, None


class _LeakyMeansLinear(torch.autograd.Function):
    """Processes a few columns at a time: allocating large tensors costs more than filling them."""

    @staticmethod
    @in_float32
    def forward(
        ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, transpose: Tensor
    ) -> Tensor:
        out, parts = bias.repeat(mean.size(0), 1), []
        for z_part, weight_part in zip(z.split(_BLOCK, 1), weight.split(_BLOCK, 1), strict=True):
            h = functional.leaky_relu_(_weighted_sums(mean, mean.values(), z_part), _SLOPE)
            out.addmm_(h, weight_part.t())
            parts.append(h)
        ctx.save_for_backward(weight, *parts)
        ctx.transpose = transpose
        return out

    @staticmethod
    @once_differentiable
    @in_float32
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (weight, *parts), transpose = ctx.saved_tensors, ctx.transpose
        backward = torch.ops.aten.leaky_relu_backward.grad_input  # torch has no public one
        grad_z, grad_weight = [], []
        for h, weight_part in zip(parts, weight.split(_BLOCK, 1), strict=True):
            grad_weight.append(grad.t() @ h)
            grad_h = grad @ weight_part
            backward(grad_h, h, _SLOPE, self_is_result=True, grad_input=grad_h)
            grad_z.append(_weighted_sums(transpose, transpose.values(), grad_h))
        return torch.cat(grad_z, 1), torch.cat(grad_weight, 1), grad.sum(0), None, None


def _weighted_sums(matrix: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """Product of the CSR ``matrix`` with these values and ``x``."""
    return csr_matmul(matrix.crow_indices(), matrix.col_indices(), values, x)


def _squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared lengths of rows, and the factors that normalise them."""
    square = torch.linalg.vector_norm(x, dim=1).square_()
    # a row of zeros, of an item without features, remains zero and has no gradient
    return square, torch.where(square > 0, square.rsqrt(), 0)
