"""Message passing with learnable edge weights: weighted sums, inner products and edge softmax.

Values of edges are vectors in the order of :class:`EdgeStructure`. No tensor of size edges x width
is held in either pass: a weighted sum is a sparse-dense product whose gradient for the weights is a
sampled dense-dense product, and vice versa for the inner products of edges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from alignrec_pyg.nn.csr import csr_matmul, csr_matrix, csr_tensor, select_rows, transposed_csr
from alignrec_pyg.nn.precision import in_float32, widened


class EdgeStructure(NamedTuple):
    r"""The sparsity pattern of a graph, computed once for edge values that change in every step.

    Edges are sorted by target, then by source. Indices are int32, which the CPU kernels use
    without a copy.

    Shapes:
        - **row_pointer:** :math:`(N_\text{target} + 1)`, first edge of each target
        - **source, target:** :math:`(E)`, the nodes of each edge
        - **column_pointer:** :math:`(N_\text{source} + 1)`, first edge of each source in the
          transposed order (by source, then by target)
        - **transposed_target:** :math:`(E)`, the target of each edge in the transposed order
        - **to_transpose:** :math:`(E)`, the edge at each position of the transposed order
        - **from_transpose:** :math:`(E)`, the position of each edge in the transposed order
    """

    row_pointer: Tensor
    source: Tensor
    target: Tensor
    column_pointer: Tensor
    transposed_target: Tensor
    to_transpose: Tensor
    from_transpose: Tensor

    @classmethod
    def from_edges(cls, edge_index: Tensor, num_sources: int, num_targets: int) -> EdgeStructure:
        """Builds the structure of edges from ``edge_index[0]`` to ``edge_index[1]``, ``[2, E]``.

        Raises:
            ValueError: If an edge is repeated.
        """
        source, target = edge_index
        number = torch.arange(source.numel(), device=source.device)
        by_target = csr_matrix(target, source, number, (num_targets, num_sources))
        order = by_target.values()
        source, target = source[order], target[order]
        by_source = csr_matrix(source, target, number, (num_sources, num_targets))
        to_transpose = by_source.values()
        from_transpose = torch.empty_like(to_transpose)
        from_transpose[to_transpose] = number
        return cls(
            by_target.crow_indices(),
            source.int(),
            target.int(),
            by_source.crow_indices(),
            by_source.col_indices(),
            to_transpose.int(),
            from_transpose.int(),
        )

    @property
    def num_sources(self) -> int:
        """Number of source nodes."""
        return self.column_pointer.numel() - 1

    @property
    def num_targets(self) -> int:
        """Number of target nodes."""
        return self.row_pointer.numel() - 1

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return self.source.numel()

    def transposed(self) -> EdgeStructure:
        """The reversed edges, in the transposed order."""
        return EdgeStructure(
            self.column_pointer,
            self.transposed_target,
            self.source[self.to_transpose],
            self.row_pointer,
            self.source,
            self.from_transpose,
            self.to_transpose,
        )

    def rows(self, rows: Tensor) -> EdgeRows:
        """The edges to some targets, int64 ``[n]``."""
        pointer, position = select_rows(self.row_pointer, rows)
        source = self.source.index_select(0, position)
        number = torch.arange(position.numel(), device=rows.device)
        target = torch.arange(rows.numel(), dtype=torch.int32, device=rows.device)
        column_pointer, transposed_target, to_transpose = transposed_csr(
            pointer, source, number.int(), self.num_sources
        )
        from_transpose = torch.empty_like(to_transpose)
        from_transpose[to_transpose] = number.int()
        structure = EdgeStructure(
            pointer,
            source,
            target.repeat_interleave(pointer.diff()),
            column_pointer,
            transposed_target,
            to_transpose,
            from_transpose,
        )
        return EdgeRows(structure, position)

    def transpose_values(self, value: Tensor) -> Tensor:
        """Values of the edges ``[E]`` in the order of :meth:`transposed`; differentiable."""
        return value.index_select(0, self.to_transpose)


class EdgeRows(NamedTuple):
    r"""The edges to some targets, and their positions among all edges, int :math:`(E_n)`."""

    structure: EdgeStructure
    position: Tensor


def weighted_matmul(structure: EdgeStructure | EdgeRows, weight: Tensor, x: Tensor) -> Tensor:
    r"""Sums the weighted messages to each target; differentiable in the weights and ``x``.

    .. math::
        y_t = \sum_{e: s \to t} w_e x_s

    Shapes:
        - **input:** weight :math:`(E)`, of all edges, x :math:`(N_\text{source}, d)`
        - **output:** :math:`(N_\text{target}, d)` or, along :meth:`EdgeStructure.rows`,
          :math:`(n, d)`
    """
    if isinstance(structure, EdgeRows):
        structure, position = structure
        weight = weight.index_select(0, position)
    out: Tensor = _WeightedMatmul.apply(structure, weight, x)
    return out


def edge_dot(structure: EdgeStructure, target_x: Tensor, source_x: Tensor) -> Tensor:
    r"""Computes the inner product of the two nodes of each edge; differentiable in both.

    .. math::
        c_e = x_{t}^\top x'_{s}, \qquad e: s \to t

    Shapes:
        - **input:** target_x :math:`(N_\text{target}, d)`, source_x :math:`(N_\text{source}, d)`
        - **output:** :math:`(E)`
    """
    out: Tensor = _EdgeDot.apply(structure, target_x, source_x)
    return out


def segment_softmax(structure: EdgeStructure, logits: Tensor) -> Tensor:
    r"""Computes the softmax over the edges of each target; differentiable.

    .. math::
        \alpha_e = \frac{\exp(l_e - \max_{e'} l_{e'})}{\sum_{e'} \exp(l_{e'} - \max l)}

    Shapes:
        - **input:** finite logits :math:`(E)`
        - **output:** :math:`(E)`
    """
    out: Tensor = _SegmentSoftmax.apply(structure, logits)
    return out


class _WeightedMatmul(torch.autograd.Function):
    @staticmethod
    @in_float32
    def forward(ctx: Any, structure: EdgeStructure, weight: Tensor, x: Tensor) -> Tensor:
        ctx.structure = structure
        ctx.save_for_backward(weight, x)
        return _matmul(structure, weight, x)

    @staticmethod
    @once_differentiable
    @in_float32
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        weight, x = ctx.saved_tensors
        _, needs_weight, needs_x = ctx.needs_input_grad
        return (
            None,
            _sampled_matmul(ctx.structure, grad, x) if needs_weight else None,
            _transposed_matmul(ctx.structure, weight, grad) if needs_x else None,
        )


class _EdgeDot(torch.autograd.Function):
    @staticmethod
    @in_float32
    def forward(ctx: Any, structure: EdgeStructure, target_x: Tensor, source_x: Tensor) -> Tensor:
        ctx.structure = structure
        ctx.save_for_backward(target_x, source_x)
        return _sampled_matmul(structure, target_x, source_x)

    @staticmethod
    @once_differentiable
    @in_float32
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        target_x, source_x = ctx.saved_tensors
        _, needs_target, needs_source = ctx.needs_input_grad
        return (
            None,
            _matmul(ctx.structure, grad, source_x) if needs_target else None,
            _transposed_matmul(ctx.structure, grad, target_x) if needs_source else None,
        )


class _SegmentSoftmax(torch.autograd.Function):
    @staticmethod
    @in_float32
    def forward(ctx: Any, structure: EdgeStructure, logits: Tensor) -> Tensor:
        largest = torch.segment_reduce(logits, "max", offsets=structure.row_pointer)
        out = (logits - _of_targets(structure, largest)).exp_()
        out /= _of_targets(structure, _segment_sum(structure, out))
        ctx.structure = structure
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    @in_float32
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (out,) = ctx.saved_tensors
        product = out * grad
        total = _of_targets(ctx.structure, _segment_sum(ctx.structure, product))
        return None, product - out * total


def _segment_sum(structure: EdgeStructure, value: Tensor) -> Tensor:
    return torch.segment_reduce(value, "sum", offsets=structure.row_pointer)


def _of_targets(structure: EdgeStructure, value: Tensor) -> Tensor:
    """For each edge the value of its target."""
    return value.index_select(0, structure.target)  # a fifth of the time of brackets


def _matmul(structure: EdgeStructure, weight: Tensor, x: Tensor) -> Tensor:
    return csr_matmul(structure.row_pointer, structure.source, weight, x)


def _transposed_matmul(structure: EdgeStructure, weight: Tensor, x: Tensor) -> Tensor:
    weight = structure.transpose_values(weight)
    return csr_matmul(structure.column_pointer, structure.transposed_target, weight, x)


def _sampled_matmul(structure: EdgeStructure, target_x: Tensor, source_x: Tensor) -> Tensor:
    factors = widened(target_x).contiguous(), widened(source_x).contiguous().t()
    zeros = factors[0].new_zeros(structure.num_edges)
    pattern = csr_tensor(structure.row_pointer, structure.source, zeros, structure.num_sources)
    return torch.sparse.sampled_addmm(pattern, *factors, beta=0.0).values().to(target_x.dtype)
