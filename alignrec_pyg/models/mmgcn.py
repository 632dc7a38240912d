"""MMGCN: one graph convolution network per modality, tied together by the ID vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import HeteroData
from torch_geometric.nn.inits import reset

from alignrec_pyg.checks import check_integer
from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.models.mmgcn_functions import (
    leaky_means_linear,
    normalized_rows,
    unit_rows_linear_and_means,
)
from alignrec_pyg.nn import (
    Adjacency,
    FeatureTable,
    batch_rows,
    bpr_loss,
    item_to_user_adjacency,
    rows_of,
)
from alignrec_pyg.nn.precision import in_float32


class MMGCN(Recommender):
    r"""`"MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of
    Micro-video" <https://doi.org/10.1145/3343031.3351034>`_ (MM 2019).

    Every feature set :math:`m` has a network of its own, over its features :math:`F_m` and what
    users prefer in it, :math:`P_m`. A node takes the mean of its neighbours, without itself, beside
    its own vector; all layers of all networks add the same ID table :math:`E`. With
    :math:`\phi` the leaky ReLU of slope 0.01 and :math:`\lVert` the concatenation,

    .. math::
        X^0 &= \operatorname{norm}([P_m ; T_m]), \\
        h_n &= \phi \Big( \tfrac{1}{|N(n)|} \sum_{j \in N(n)} W_l \, x_j^{l-1} \Big), \qquad
        \hat{x}_n = \phi(V_l \, x_n^{l-1} + a_l) + e_n, \\
        x_n^l &= \phi(G_l \, [\, h_n \,\Vert\, \hat{x}_n \,] + b_l), \qquad
        x_n = \tfrac{1}{M} \sum_m x_{m,n}^L, \qquad \hat{y}_{ui} = x_u^\top x_i,

    where norm is that of every row and :math:`T_m` is :math:`F_m` itself or, for a table wider than
    ``max_feature_dim``, a linear map of it to ``latent_dim``. On a batch of :math:`B` triplets

    .. math::
        L = \operatorname{BPR}(\hat{y}_{ui}, \hat{y}_{uj}) + \lambda \Big[
        \operatorname{mean}(E_u^2) + \operatorname{mean}(E_{ij}^2)
        + \sum_m \operatorname{mean}(P_m^2) \Big],

    with means over the entries of the batch's rows of :math:`E` and of the whole :math:`P_m`.

    **Differs from the paper:** of its ways to combine :math:`h` and :math:`\hat{x}` only the
    concatenation, networks are averaged rather than added, and :math:`\lambda` weighs means of
    squares, all as in the authors' code. There the image table, 4,096 wide, was mapped to 256 and
    the text table, 384 wide, was not; a rule by width does the same for tables of any name.

    **Published defect** (``faithful=True``): :math:`E` and :math:`P_m` stay as they were drawn, and
    only the :math:`P_m` of the first feature set is in the regulariser, which is a constant then:
    ``reg_weight`` has no effect. They are buffers, saved with the model but no parameters. The
    published figures were made so. In any case scores come from the trained parameters, where the
    authors' code takes those that its last training batch began with.

    Args:
        data: Training graph; reads the sizes and the feature tables.
        features: Feature sets :math:`m` (default: all).
        embedding_dim: Width :math:`d` of :math:`E` and of all layers' outputs.
        num_layers: Number of layers :math:`L` of each network.
        latent_dim: Width that wide tables are mapped to.
        max_feature_dim: Widest table that is taken as it is.
        reg_weight: Weight :math:`\lambda` of the squares (no published value: it had no effect).
        freeze_features: Whether the feature tables stay as they are.
        faithful: Whether :math:`E` and :math:`P_m` are random and fixed, as in the published code.

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features, ``num_layers`` or ``latent_dim`` is not positive
            or ``max_feature_dim`` is negative.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate")
    supports_new_items = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 3,
        latent_dim: int = 256,
        max_feature_dim: int = 384,
        reg_weight: float = 1e-4,
        freeze_features: bool = True,
        faithful: bool = False,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        check_integer("num_layers", num_layers, 1)
        check_integer("latent_dim", latent_dim, 1)
        self.user_embedding = _table(self.num_users, embedding_dim, trainable=not faithful)
        self.item_embedding = _table(self.num_items, embedding_dim, trainable=not faithful)
        self.modalities = nn.ModuleList()
        for features_of_items in self.feature_tables(data):
            table = FeatureTable(features_of_items, trainable=not freeze_features)
            width = latent_dim if table.dim > max_feature_dim else table.dim
            preference = _table(self.num_users, width, trainable=not faithful)
            self.modalities.append(_ModalityNetwork(table, preference, embedding_dim, num_layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws tables (Xavier-normal, users and items as one table) and networks anew."""
        std = (2 / (self.num_users + self.num_items + self.embedding_dim)) ** 0.5
        for table in self.id_tables:
            nn.init.normal_(table, std=std)
        reset(self.modalities)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """The mean of all networks' last layers."""
        all_sides, asked = self._sides(data, nodes)
        user_x, item_x, _ = self._embed(*all_sides, *asked)
        return user_x, item_x

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr`` on the scores and ``reg``, a constant if ``faithful``."""
        batch = batch.compact()
        all_sides, asked = self._sides(data, batch.nodes)
        user_x, item_x, preference_squares = self._embed(*all_sides, *asked)
        user, pos, neg = batch_rows(batch, *(side.id_x for side in asked))
        reg = user.square().mean() + (pos.square().mean() + neg.square().mean()) / 2
        for square in preference_squares[:1] if self.faithful else preference_squares:
            reg = reg + square
        user, pos, neg = batch_rows(batch, user_x, item_x)
        bpr = bpr_loss((user * pos).sum(-1), (user * neg).sum(-1))
        return {"bpr": bpr, "reg": reg}

    def _sides(
        self, data: HeteroData, nodes: Nodes | None
    ) -> tuple[tuple[_Side, _Side], tuple[_Side, _Side]]:
        """All users and items, and the requested ones."""
        user = _Side(self.user_embedding.weight, self.item_to_user_graph(data, "row"), None)
        to_items = self.link_graph(data, _user_to_item_adjacency)
        item = _Side(self.item_embedding.weight, to_items, None)
        if nodes is None:
            return (user, item), (user, item)
        return (user, item), (user.of(nodes.user), item.of(nodes.item))

    def _embed(
        self, all_users: _Side, all_items: _Side, user: _Side, item: _Side
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        user_x, item_x, preference_squares = zip(
            *(network(all_users, all_items, user, item) for network in self.modalities),
            strict=True,
        )
        return torch.stack(user_x).mean(0), torch.stack(item_x).mean(0), preference_squares


def _user_to_item_adjacency(edge_index: Tensor, num_users: int, num_items: int) -> Adjacency:
    # users are what "items" are to the reversed links
    return item_to_user_adjacency(edge_index.flip(0), num_items, num_users, "row")


class _Side(NamedTuple):
    """Users or items: the requested rows (None: all), their ID vectors, and neighbours' means."""

    id_x: Tensor
    mean: Adjacency
    rows: Tensor | None

    def of(self, rows: Tensor) -> _Side:
        return _Side(functional.embedding(rows, self.id_x), self.mean.rows(rows), rows)


class _ModalityNetwork(nn.Module):
    """The network of one feature set, from its features and preferences to the last layer."""

    def __init__(
        self, table: FeatureTable, preference: nn.Embedding, embedding_dim: int, num_layers: int
    ) -> None:
        super().__init__()
        width = preference.embedding_dim
        self.table = table
        self.preference = preference
        self.projection = nn.Linear(table.dim, width) if table.dim != width else None
        self.layers = nn.ModuleList(
            _Layer(embedding_dim if layer else width, embedding_dim) for layer in range(num_layers)
        )

    def reset_parameters(self) -> None:
        self.table.reset_parameters()
        nn.init.xavier_normal_(self.preference.weight)
        reset(self.projection)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            layer.reset_parameters(first=number == 0)

    def forward(
        self, all_users: _Side, all_items: _Side, user: _Side, item: _Side
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New vectors of ``user`` and ``item``, and the mean of the preferences' squares."""
        preference = self.preference.weight
        content = self.table() if self.projection is None else self.projection(self.table())
        first, *others = self.layers
        assert isinstance(first, _Layer)
        if preference.size(0) >= content.size(0):
            user_x, item_x, square, _ = first.of_tables(preference, content, all_users, all_items)
        else:
            item_x, user_x, _, square = first.of_tables(content, preference, all_items, all_users)
        square = square / preference.numel()
        if not others:
            return rows_of(user_x, user.rows), rows_of(item_x, item.rows), square
        *inner, last = others
        for layer in inner:
            user_x, item_x = layer(user_x, item_x, all_users), layer(item_x, user_x, all_items)
        return last(user_x, item_x, user), last(item_x, user_x, item), square


class _Layer(nn.Module):
    """Mean of the neighbours beside the node's own vector, combined to a new one."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.neighbors = nn.Linear(in_dim, in_dim, bias=False)
        self.own = nn.Linear(in_dim, out_dim)
        self.combine = nn.Linear(in_dim + out_dim, out_dim)

    def reset_parameters(self, first: bool) -> None:
        for linear in self.children():
            reset(linear)
        nn.init.xavier_normal_(self.neighbors.weight)
        nn.init.xavier_normal_(self.own.weight)
        if first:  # later layers keep torch's own draw here
            nn.init.xavier_normal_(self.combine.weight)

    def of_tables(
        self, large: Tensor, small: Tensor, large_side: _Side, small_side: _Side
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As the first layer: new vectors of both sides from their tables, and sums of squares."""
        small_x, small_square = normalized_rows(small)
        large_own, small_mean, large_square = unit_rows_linear_and_means(
            large, self.own.weight, self.own.bias, small_side.mean
        )
        large_part = self._of_products(self.neighbors(small_x), large_side)
        new_large = self._combined(large_part, large_own, large_side.id_x)
        small_part = self._of_means(small_mean)
        new_small = self._combined(small_part, self.own(small_x), small_side.id_x)
        return new_large, new_small, large_square, small_square

    def forward(self, x: Tensor, neighbor_x: Tensor, side: _Side) -> Tensor:
        """New vectors of the requested rows of ``x``, whose neighbours are on the other side."""
        # W mean(x) = mean(W x): the product is taken where there are fewer rows
        if side.rows is None and neighbor_x.size(0) <= x.size(0):
            neighbors_part = self._of_products(self.neighbors(neighbor_x), side)
        else:
            neighbors_part = self._of_means(side.mean.matmul(neighbor_x))
        return self._combined(neighbors_part, self.own(rows_of(x, side.rows)), side.id_x)

    def _of_products(self, z: Tensor, side: _Side) -> Tensor:
        weight = self.combine.weight[:, : z.size(1)]
        return leaky_means_linear(z, weight, self.combine.bias, side.mean)

    def _of_means(self, mean: Tensor) -> Tensor:
        h = functional.leaky_relu(self.neighbors(mean), inplace=True)
        return functional.linear(h, self.combine.weight[:, : h.size(1)], self.combine.bias)

    @in_float32  # autocast leaves addmm_ alone
    def _combined(self, neighbors_part: Tensor, own: Tensor, id_x: Tensor) -> Tensor:
        # G [h | x] = G_1 h + G_2 x: the concatenation is never held
        weight = self.combine.weight[:, self.neighbors.out_features :]
        own = functional.leaky_relu(own, inplace=True) + id_x
        return functional.leaky_relu(neighbors_part.addmm_(own, weight.t()), inplace=True)


def _table(num_rows: int, dim: int, *, trainable: bool) -> nn.Embedding:
    """A table that is a parameter or, fixed as it was drawn, a buffer of the ``state_dict``."""
    table = nn.Embedding(num_rows, dim)
    if not trainable:
        weight = table.weight.detach()
        del table.weight
        table.register_buffer("weight", weight)
    return table
