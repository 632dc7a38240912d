"""Sparse propagation over the user-item graph and item graphs."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
import torch_geometric.nn
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch_geometric.typing import Adj

from alignrec_pyg.checks import check_integer
from alignrec_pyg.graph import symmetric_norm


class Adjacency(NamedTuple):
    r"""A constant sparse matrix in CSR format with its transpose, for fast training.

    The backward pass of :math:`Y = A X` is :math:`A^\top \partial Y`, which needs no conversion if
    the transpose is stored. Indices are int32, which the CPU kernels use without a copy.

    Shapes:
        - **matrix:** CSR :math:`(N_\text{target}, N_\text{source})`
        - **transpose:** CSR :math:`(N_\text{source}, N_\text{target})`; of a symmetric matrix, the
          same tensor
    """

    matrix: Tensor
    transpose: Tensor

    @classmethod
    def from_edges(
        cls, edge_index: Tensor, edge_weight: Tensor, num_sources: int, num_targets: int
    ) -> Adjacency:
        """Builds the matrix of messages from ``edge_index[0]`` to ``edge_index[1]``.

        Raises:
            ValueError: If an edge is repeated.
        """
        source, target = edge_index
        return cls(
            csr_matrix(target, source, edge_weight, (num_targets, num_sources)),
            csr_matrix(source, target, edge_weight, (num_sources, num_targets)),
        )

    def matmul(self, x: Tensor) -> Tensor:
        """Multiplies the matrix by ``x`` ``[num_sources, d]``; differentiable in ``x`` only."""
        out: Tensor = _SparseMatmul.apply(self.matrix, self.transpose, x)
        return out


class LGConv(torch_geometric.nn.LGConv):
    r"""PyG's light graph convolution :math:`\sum_j w_{ji} x_j` that also takes an `Adjacency`.

    ``edge_index`` may be an int64 edge list ``[2, E]`` (with ``edge_weight``), a ``torch_sparse``
    ``SparseTensor`` or a torch CSR matrix (both transposed, as usual in PyG), or an
    :class:`Adjacency`, which is the fastest. All give the same values and gradients.

    Source: `LightGCN <https://arxiv.org/abs/2002.02126>`_ (SIGIR 2020), Eq. 3.
    """

    def __init__(self) -> None:
        super().__init__(normalize=False)

    def forward(
        self, x: Tensor, edge_index: Adj | Adjacency, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Propagates ``x`` ``[N, d]`` one step along the weighted edges."""
        if isinstance(edge_index, Adjacency):
            return edge_index.matmul(x)
        # PyG reads the signature of propagate() from the next comment:
        # propagate_type: (x: Tensor, edge_weight: OptTensor)
        out: Tensor = self.propagate(edge_index, x=x, edge_weight=edge_weight)
        return out


class UserItemPropagation(nn.Module):
    r"""Propagation of LightGCN: the mean of all layers, including the input.

    .. math::
        \operatorname{LGC}_L(X) = \frac{1}{L+1} \sum_{l=0}^{L} \hat{A}^l X

    There are no weights, activations or dropout.
    Source: `LightGCN <https://arxiv.org/abs/2002.02126>`_ (SIGIR 2020), Eq. 4.

    Args:
        num_layers: Number of propagation layers :math:`L`.

    Raises:
        ValueError: If ``num_layers`` is negative.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.convs = _lgconv_stack(num_layers)

    def forward(
        self,
        user_x: Tensor,
        item_x: Tensor,
        adjacency: Adj | Adjacency,
        edge_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Propagates over the graph of all :math:`N` = users + items nodes, users first.

        Shapes:
            - **input:** user_x :math:`(|U|, d)`, item_x :math:`(|I|, d)`, adjacency over
              :math:`N` nodes (see :func:`user_item_edges`, :func:`user_item_adjacency`)
            - **output:** :math:`(|U|, d)`, :math:`(|I|, d)`
        """
        x = torch.cat([user_x, item_x])
        out = x
        for conv in self.convs:
            x = conv(x, adjacency, edge_weight)
            out = out + x
        out = out / (len(self.convs) + 1)
        return out[: user_x.size(0)], out[user_x.size(0) :]


class ItemPropagation(nn.Module):
    r"""Propagation of item vectors over an item graph: :math:`S^L X`, the last layer only.

    Args:
        num_layers: Number of propagation layers :math:`L`.

    Raises:
        ValueError: If ``num_layers`` is negative.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.convs = _lgconv_stack(num_layers)

    def forward(
        self, x: Tensor, adjacency: Adj | Adjacency, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Propagates ``x`` ``[num_items, d]`` through all layers."""
        for conv in self.convs:
            x = conv(x, adjacency, edge_weight)
        return x


def user_item_edges(edge_index: Tensor, num_users: int, num_items: int) -> tuple[Tensor, Tensor]:
    r"""Edge list and weights of :math:`\hat{A} = D^{-1/2} A D^{-1/2}` without self-loops.

    User :math:`u` is node :math:`u`, item :math:`i` is node :math:`|U| + i`; both directions of
    each link are listed.

    Shapes:
        - **input:** edge_index int64 :math:`(2, E)`, users in row 0
        - **output:** int64 :math:`(2, 2E)`, float32 :math:`(2E)`
    """
    weight = symmetric_norm(edge_index, num_users, num_items)
    user, item = edge_index[0], edge_index[1] + num_users
    both = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
    return both, torch.cat([weight, weight])


def user_item_adjacency(edge_index: Tensor, num_users: int, num_items: int) -> Adjacency:
    r"""The matrix :math:`\hat{A}` of :func:`user_item_edges`, which is symmetric and stored once.

    Raises:
        ValueError: If a link is repeated.
    """
    (source, target), weight = user_item_edges(edge_index, num_users, num_items)
    size = num_users + num_items
    matrix = csr_matrix(target, source, weight, (size, size))
    return Adjacency(matrix, matrix)


def item_to_user_adjacency(
    edge_index: Tensor, num_users: int, num_items: int, normalization: str = "symmetric"
) -> Adjacency:
    r"""The matrix :math:`\hat{R}` that aggregates item vectors for users.

    With ``normalization="symmetric"`` it is the upper right block of :math:`\hat{A}`,
    :math:`D_u^{-1/2} R D_i^{-1/2}`, with ``"row"`` the mean :math:`D_u^{-1} R`.

    Shapes:
        - **output:** matrix CSR :math:`(|U|, |I|)`

    Raises:
        ValueError: If ``normalization`` is unknown, or a link is repeated.
    """
    user, item = edge_index
    if normalization == "symmetric":
        weight = symmetric_norm(edge_index, num_users, num_items)
    elif normalization == "row":
        weight = torch.bincount(user, minlength=num_users).float()[user].reciprocal()
    else:
        raise ValueError(
            f"'normalization' needs to be 'symmetric' or 'row' (got {normalization!r})"
        )
    return Adjacency.from_edges(torch.stack([item, user]), weight, num_items, num_users)


def self_loop_adjacency(edge_index: Tensor, num_users: int, num_items: int) -> Adjacency:
    r"""The mean over each node and its neighbours, :math:`\tilde{D}^{-1} (A + I)`.

    :math:`\tilde{D}` includes the node itself, so that a node without links keeps its own vector.
    The matrix is not symmetric. Nodes are numbered as in :func:`user_item_edges`.

    Source: `LATTICE <https://arxiv.org/abs/2104.09036>`_ (MM 2021), in the authors' code.

    Shapes:
        - **input:** edge_index int64 :math:`(2, E)`, users in row 0
        - **output:** matrix CSR :math:`(N, N)` with :math:`2E + N` entries

    Raises:
        ValueError: If a link is repeated.
    """
    size = num_users + num_items
    user, item = edge_index[0], edge_index[1] + num_users
    node = torch.arange(size, device=edge_index.device)
    source, target = torch.cat([user, item, node]), torch.cat([item, user, node])
    weight = torch.bincount(target, minlength=size).float()[target].reciprocal()
    return Adjacency.from_edges(torch.stack([source, target]), weight, size, size)


class _SparseMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
        ctx.transpose = transpose
        return _matmul(matrix, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _matmul(ctx.transpose, grad)


def _matmul(matrix: Tensor, x: Tensor) -> Tensor:
    # The kernels need row-major operands; a gradient may be an expanded or transposed view.
    matrix, x = matrix.to(x.dtype), x.contiguous()
    if x.device.type != "cpu":
        return matrix @ x
    # `matrix @ x` would fill the output with zeros and copy it first, which takes twice the time.
    out = x.new_empty(matrix.size(0), x.size(1))
    return torch.addmm(out, matrix, x, beta=0, out=out)


def _lgconv_stack(num_layers: int) -> nn.ModuleList:
    check_integer("num_layers", num_layers, 0)
    return nn.ModuleList(LGConv() for _ in range(num_layers))


def csr_matrix(row: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    """A CSR matrix with int32 indices, sorted by row and column; a repeated entry is an error."""
    key, order = (row * size[1] + col).sort()
    if (key[1:] == key[:-1]).any():
        first = int(order[1:][key[1:] == key[:-1]][0])
        raise ValueError(
            f"'edge_index' needs to list every edge once (the edge at column {first} is a repeat): "
            "coalesce it, e.g. with torch_geometric.utils.coalesce"
        )
    row_pointer = torch.zeros(size[0] + 1, dtype=torch.int64, device=row.device)
    row_pointer[1:] = torch.bincount(row, minlength=size[0]).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            row_pointer.int(), col[order].int(), value[order], size, check_invariants=False
        )
