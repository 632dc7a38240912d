"""DualGNN: user preferences per modality, fused with the help of users who share items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import HeteroData
from torch_geometric.nn.inits import reset

from alignrec_pyg.checks import check_integer
from alignrec_pyg.graph import INTERACTS, InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.dualgnn_user_graph import (
    common_item_neighbors,
    polya_urn_counts,
    user_adjacency,
)
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import (
    Adjacency,
    FeatureTable,
    UserItemPropagation,
    batch_rows,
    bpr_loss,
    rows_of,
)


class DualGNN(Recommender):
    r"""`"DualGNN: Dual Graph Neural Network for Multimedia Recommendation"
    <https://doi.org/10.1109/TMM.2021.3138298>`_ (TMM 2023).

    Items have no vectors of their own. In every modality :math:`m`, preferences :math:`P_m` of the
    users and features :math:`F_m` of the items go through the user-item graph
    (:math:`\phi`: leaky ReLU of slope 0.01, norm: every row to length 1),

    .. math::
        X_m^0 = \operatorname{norm}([P_m ; \phi(F_m W_m + b_m) V_m + c_m]), \qquad
        X_m = \sum_{l=0}^{L} \hat{A}^l X_m^0,

    items add their modalities; users weight theirs by :math:`w_{um}` and receive messages from
    users :math:`v` who share items with them:

    .. math::
        x_i = \sum_m x_{m,i}, \qquad y_u = \sum_m w_{um} x_{m,u}, \qquad
        x_u = y_u + \sum_v s_{uv} y_v, \qquad \hat{y}_{ui} = x_u^\top x_i

    .. math::
        L = \operatorname{BPR}(\hat{y}_{ui}, \hat{y}_{uj}) + \lambda \Big[
        \sum_m \operatorname{mean}(P_{m,u}^2) + \operatorname{mean}(w^2) \Big],

    with means over the entries of the batch's rows of :math:`P_m` and of the whole :math:`w`, which
    starts as a softmax and is free then.

    **User graph.** Built from the links of the given graph: the ``num_neighbors`` users with the
    most common items, ties by the lower index; :math:`s_{uv}` is the softmax of the numbers of
    common items. In training, the list of a user with fewer neighbours is filled up, anew in each
    epoch, with uniform draws from the growing list, and the softmax is over the list with its
    repeats. Inference draws nothing: every neighbour is expected equally often in the filled list,
    so each counts once. The same holds in training mode before :meth:`on_epoch_start`, and on
    other data than the epoch's.

    **Differs from the paper:** softmax over raw counts, :math:`\hat{A}` without self-loops, and
    :math:`\lambda` weighs means of squares, as in the code behind the published figures. That code
    keeps 200 neighbours, of which it uses the first ``num_neighbors``. It also allocates three
    linear maps that it never uses and a weight per item and modality that is only regularised:
    neither changes a score, so neither is here. With a single feature set it has no :math:`w`;
    here a weight for each user is trained then, too.

    **Published defects** (``faithful=True``): (1) the sum over modalities overwrites the first of
    them, so that users fuse :math:`w_{u0} \sum_m x_{m,u} + \sum_{m>0} w_{um} x_{m,u}`; (2) BPR is
    in base-2 logarithms, which makes it :math:`1/\ln 2` times as large against :math:`\lambda`.
    In any case scores come from the trained parameters, where that code takes those that its last
    training batch began with.

    Args:
        data: Training graph; reads the sizes and the feature tables.
        features: Feature sets :math:`m`, the one to be overwritten first (default: all).
        embedding_dim: Width :math:`d`.
        num_layers: Number of user-item layers :math:`L`.
        latent_dim: Width between the two maps of the features.
        num_neighbors: Number of users that each user receives messages from.
        reg_weight: Weight :math:`\lambda` of the squares (searched over 1e-5 to 0.1).
        freeze_features: Whether the feature tables stay as they are.
        faithful: Whether to fuse and to scale the loss as the published code does.

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features, ``num_layers`` is negative, or ``latent_dim`` or
            ``num_neighbors`` is not positive.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate")
    supports_new_items = True
    not_copied = ("_drawn",)

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 2,
        latent_dim: int = 256,
        num_neighbors: int = 40,
        reg_weight: float = 0.1,
        freeze_features: bool = True,
        faithful: bool = False,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        check_integer("latent_dim", latent_dim, 1)
        check_integer("num_neighbors", num_neighbors, 1)
        # the P_m side by side: one propagation serves all modalities
        self.user_embedding = nn.Embedding(self.num_users, len(self.features) * embedding_dim)
        self.modality_weight = nn.Parameter(torch.empty(self.num_users, len(self.features)))
        self.modalities = nn.ModuleList(
            _Modality(FeatureTable(table, trainable=not freeze_features), latent_dim, embedding_dim)
            for table in self.feature_tables(data)
        )
        self.propagation = UserItemPropagation(num_layers)
        self._drawn: tuple[Tensor, Adjacency] | None = None  # of the epoch, and its links
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws preferences and weights (Xavier-normal; softmax of the weights) and maps anew."""
        with torch.no_grad():
            for preference in self.user_embedding.weight.split(self.embedding_dim, dim=1):
                nn.init.xavier_normal_(preference)
            nn.init.xavier_normal_(self.modality_weight)
            self.modality_weight.copy_(self.modality_weight.softmax(dim=1))
        reset(self.modalities)

    def on_epoch_start(self, data: HeteroData, generator: torch.Generator) -> None:
        """Fills up the neighbour lists of this epoch."""
        edge_index = data[INTERACTS].edge_index
        neighbors, counts = self._neighbors(edge_index)
        multiplicity = polya_urn_counts(counts, generator)
        self._drawn = edge_index, user_adjacency(neighbors, counts, multiplicity)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Propagates in both graphs; in training, over this epoch's neighbour lists."""
        edge_index = data[INTERACTS].edge_index
        if self.training and self._drawn is not None and self._drawn[0] is edge_index:
            drawn = self._drawn[1]
        else:
            drawn = self.prepared_graph(
                "users", (edge_index,), lambda: user_adjacency(*self._neighbors(edge_index))
            )
        users, asked = None, None
        if nodes is not None:  # users receive the vectors of others
            drawn, users = drawn.block(nodes.user, nodes.user)
            asked, nodes = torch.searchsorted(users, nodes.user), Nodes(users, nodes.item)
        shape = (len(self.features), self.embedding_dim)
        preference = functional.normalize(self.user_embedding.weight.unflatten(1, shape), dim=-1)
        content = [functional.normalize(modality(), dim=-1) for modality in self.modalities]
        user, item = self.propagation(
            preference.flatten(1),
            torch.cat(content, dim=-1),
            self.user_item_graph(data),
            nodes=nodes,
        )
        num_summed = self.num_layers + 1  # propagation gives the mean of the layers, we sum them
        weight = num_summed * rows_of(self.modality_weight, users)
        if self.faithful:
            weight = torch.cat([weight[:, :1], weight[:, 1:] + weight[:, :1]], dim=1)
        user = (weight.unsqueeze(1) @ user.unflatten(1, shape)).squeeze(1)
        item = num_summed * item.unflatten(1, shape).sum(1)
        return rows_of(user, asked) + drawn.matmul(user), item

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr`` on the scores and ``reg``, the means of squares."""
        numbered = batch.compact()
        user, pos, neg = batch_rows(numbered, *self(data, numbered.nodes))
        bpr = bpr_loss((user * pos).sum(-1), (user * neg).sum(-1))
        # the sum over all P_m side by side is that of their sums
        squares = self.user_embedding(batch.user).square().sum()
        return {
            "bpr": bpr / math.log(2) if self.faithful else bpr,
            "reg": squares / (batch.user.numel() * self.embedding_dim)
            + self.modality_weight.square().mean(),
        }

    def _neighbors(self, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        sizes = (self.num_users, self.num_items, self.num_neighbors)
        return self.prepared_graph(
            "neighbors", (edge_index,), lambda: common_item_neighbors(edge_index, *sizes)
        )


class _Modality(nn.Module):
    """The features of all items, mapped to the width of the model by two layers."""

    def __init__(self, table: FeatureTable, latent_dim: int, embedding_dim: int) -> None:
        super().__init__()
        self.table = table
        self.hidden = nn.Linear(table.dim, latent_dim)
        self.output = nn.Linear(latent_dim, embedding_dim)

    def forward(self) -> Tensor:
        out: Tensor = self.output(functional.leaky_relu(self.hidden(self.table())))
        return out
