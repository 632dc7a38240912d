"""Sparse propagation over the user-item graph and item graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch_geometric.nn
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch_geometric.typing import Adj

from alignrec_pyg.checks import check_integer
from alignrec_pyg.graph import NeighborSampling, Nodes, symmetric_norm
from alignrec_pyg.nn.csr import (
    csr_matmul,
    csr_matrix,
    csr_tensor,
    draw_entries,
    renumber,
    select_rows,
    transposed_csr,
)
from alignrec_pyg.nn.precision import in_float32

# To choose rows of a matrix with fewer entries takes longer than to compute all of its rows.
_FEW_ENTRIES = 50_000


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

    def rows(self, rows: Tensor) -> Adjacency:
        r"""The matrix of some rows: the messages to these targets.

        Shapes:
            - **input:** rows int64 :math:`(n)`
            - **output:** matrix CSR :math:`(n, N_\text{source})`
        """
        pointer, column, value = self._select(rows)
        num_sources = self.matrix.size(1)
        return Adjacency(
            csr_tensor(pointer, column, value, num_sources),
            csr_tensor(*transposed_csr(pointer, column, value, num_sources), rows.numel()),
        )

    def block(
        self,
        rows: Tensor,
        sources: Tensor,
        sampling: NeighborSampling | None = None,
        hop: int = 0,
    ) -> Block:
        r"""The matrix of some rows, with the columns in which they are not zero, and ``sources``.

        With ``sampling``, a row of :math:`n > k` entries keeps :math:`k` of them, drawn uniformly
        without replacement and weighted by :math:`n / k`: its product with a matrix is in
        expectation that of the full row.

        Shapes:
            - **input:** rows int64 :math:`(n)`, sources int64 :math:`(s)`
        """
        num_drawn = -1 if sampling is None else sampling.of_hop(hop)
        if sampling is None or num_drawn < 0:
            pointer, column, value = self._select(rows)
        else:
            pointer, column, value = self._draw(rows, num_drawn, sampling.generator)
        source, column = renumber(column, sources, self.matrix.size(1))
        adjacency = Adjacency(
            csr_tensor(pointer, column, value, source.numel()),
            csr_tensor(*transposed_csr(pointer, column, value, source.numel()), rows.numel()),
        )
        return Block(adjacency, source)

    def _select(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pointer, position = select_rows(self.matrix.crow_indices(), rows)
        return pointer, *self._entries(position)

    def _entries(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Columns and values of some entries."""
        # index_select takes a fifth of the time of brackets
        columns, values = self.matrix.col_indices(), self.matrix.values()
        return columns.index_select(0, position), values.index_select(0, position)

    def _draw(
        self, rows: Tensor, num_drawn: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        every = self.matrix.crow_indices()
        pointer, position = draw_entries(every, rows, num_drawn, generator=generator)
        count = pointer.diff()
        scale = (every[rows + 1] - every[rows]) / count.clamp(min=1)
        column, value = self._entries(position)
        return pointer, column, value * scale.repeat_interleave(count)


class Block(NamedTuple):
    r"""Messages to some nodes, and the nodes that they come from.

    Shapes:
        - **adjacency:** matrix CSR :math:`(n, m)`
        - **source:** int64 :math:`(m)`, ascending
    """

    adjacency: Adjacency
    source: Tensor


class ItemToUserAggregation(NamedTuple):
    r"""Users aggregate the vectors of their items, for all nodes or for some.

    Shapes:
        - **adjacency:** matrix CSR :math:`(n, m)` from ``items`` to the requested users
        - **items:** int64 :math:`(m)`, the items whose vectors it takes (``None``: all): the
          requested ones, and those of the users
        - **rows:** int64, the positions of the requested items among these (``None``: all)
    """

    adjacency: Adjacency
    items: Tensor | None = None
    rows: Tensor | None = None

    @classmethod
    def of_nodes(cls, adjacency: Adjacency, nodes: Nodes | None) -> ItemToUserAggregation:
        """The aggregation along ``adjacency`` for ``nodes``."""
        if nodes is None:
            return cls(adjacency)
        block = adjacency.block(nodes.user, nodes.item, nodes.sampling)
        return cls(*block, torch.searchsorted(block.source, nodes.item))

    def __call__(self, item_x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors of the requested users and items, from those of ``items``, ``[m, d]``."""
        return self.adjacency.matmul(item_x), rows_of(item_x, self.rows)


class MessageFlow(NamedTuple):
    r"""The part of a graph that each layer needs for the vectors of some nodes.

    Args:
        layers: For each layer the graph from the nodes before it to those after it.
        rows: For the input and the output of each layer, the positions of the requested nodes
            (``None``: all nodes are requested).
        source: The nodes whose input vectors are taken, int64, ascending (``None``: all).
    """

    layers: tuple[Adj | Adjacency, ...]
    rows: tuple[Tensor | None, ...]
    source: Tensor | None = None

    @classmethod
    def build(
        cls,
        adjacency: Adj | Adjacency,
        num_layers: int,
        rows: Tensor | None = None,
        sampling: NeighborSampling | None = None,
    ) -> MessageFlow:
        """The flow along ``adjacency`` to ``rows``, int64, ascending (``None``: all nodes).

        Without ``sampling`` all layers but the last compute all nodes, as does the last one of a
        small graph. With it, every layer computes those that the next one samples.
        """
        if isinstance(adjacency, Adjacency) and rows is not None:
            if sampling is not None:
                return cls._sampled(adjacency, num_layers, rows, sampling)
            if num_layers and adjacency.matrix.values().numel() >= _FEW_ENTRIES:
                last = adjacency.rows(rows)
                return cls((*(adjacency,) * (num_layers - 1), last), (*(rows,) * num_layers, None))
        return cls((adjacency,) * num_layers, (rows,) * (num_layers + 1))

    @classmethod
    def _sampled(
        cls, adjacency: Adjacency, num_layers: int, rows: Tensor, sampling: NeighborSampling
    ) -> MessageFlow:
        layers: list[Adjacency] = []
        nodes = [rows]
        for hop in range(num_layers):  # from the last layer to the first
            block = adjacency.block(nodes[0], nodes[0], sampling, hop)
            layers.insert(0, block.adjacency)
            nodes.insert(0, block.source)
        asked = [torch.searchsorted(before, rows) for before in nodes[:-1]]
        return cls(tuple(layers), (*asked, None), nodes[0])

    def outputs(
        self, convs: nn.ModuleList, x: Tensor, edge_weight: Tensor | None = None
    ) -> Iterator[Tensor]:
        """The requested rows of the input ``x`` and of the output of each layer."""
        yield rows_of(x, self.rows[0])
        for conv, layer, rows in zip(convs, self.layers, self.rows[1:], strict=True):
            x = conv(x, layer, edge_weight)
            yield rows_of(x, rows)


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
        *,
        nodes: Nodes | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Propagates over the graph of all :math:`N` = users + items nodes, users first.

        With ``nodes``, only their rows are computed in the last layer, and returned.

        Shapes:
            - **input:** user_x :math:`(|U|, d)`, item_x :math:`(|I|, d)`, adjacency over
              :math:`N` nodes (see :func:`user_item_edges`, :func:`user_item_adjacency`)
            - **output:** :math:`(|U|, d)`, :math:`(|I|, d)`, or a row for each of ``nodes``
        """
        first_item = num_asked = user_x.size(0)
        rows, sampling = None, None
        if nodes is not None:
            rows, sampling = torch.cat([nodes.user, nodes.item + first_item]), nodes.sampling
            num_asked = nodes.user.numel()
        flow = MessageFlow.build(adjacency, len(self.convs), rows, sampling)
        if flow.source is not None:  # of the tables only these rows get a gradient
            num_users = int(torch.searchsorted(flow.source, first_item))
            user_x = table_rows(user_x, flow.source[:num_users])
            item_x = table_rows(item_x, flow.source[num_users:] - first_item)
        out, *layers = flow.outputs(self.convs, torch.cat([user_x, item_x]), edge_weight)
        for x in layers:
            out = out + x
        out = out / (len(self.convs) + 1)
        return out[:num_asked], out[num_asked:]


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
        self,
        x: Tensor,
        graph: Adj | Adjacency | MessageFlow,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Propagates ``x`` ``[num_items, d]`` through all layers.

        Along a :class:`MessageFlow`, ``x`` has a row for each of its ``source``, and the result one
        for each of the requested items.
        """
        if not isinstance(graph, MessageFlow):
            graph = MessageFlow.build(graph, len(self.convs))
        *_, out = graph.outputs(self.convs, x, edge_weight)
        return out


def rows_of(x: Tensor, rows: Tensor | None) -> Tensor:
    """Some rows of ``x``, or ``x`` itself."""
    return x if rows is None else functional.embedding(rows, x)


def table_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Some rows of a table; the gradient of a parameter is sparse, with these rows alone."""
    return functional.embedding(rows, table, sparse=table.is_leaf)


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
    @in_float32
    def forward(ctx: Any, matrix: Tensor, transpose: Tensor, x: Tensor) -> Tensor:
        ctx.transpose = transpose
        return _matmul(matrix, x)

    @staticmethod
    @once_differentiable
    @in_float32
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _matmul(ctx.transpose, grad)


def _matmul(matrix: Tensor, x: Tensor) -> Tensor:
    return csr_matmul(matrix.crow_indices(), matrix.col_indices(), matrix.values(), x)


def _lgconv_stack(num_layers: int) -> nn.ModuleList:
    check_integer("num_layers", num_layers, 0)
    return nn.ModuleList(LGConv() for _ in range(num_layers))
