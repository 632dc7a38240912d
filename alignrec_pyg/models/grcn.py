"""GRCN: propagation of IDs over links weighted by what users prefer of each feature set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, leaky_relu, normalize
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import (
    EdgeStructure,
    batch_rows,
    bpr_loss,
    edge_dot,
    rows_of,
    segment_softmax,
    weighted_matmul,
)


class GRCN(Recommender):
    r"""`"Graph-Refined Convolutional Network for Multimedia Recommendation with Implicit Feedback"
    <https://arxiv.org/abs/2111.02036>`_ (MM 2020).

    For each feature set :math:`m`, users have a preference :math:`p_u` (a row of :math:`P_m`) in
    the space of the projected features :math:`t_i`, both of length 1. Every routing turns it
    towards the user's items, weighted by how well they match:

    .. math::
        t_i = \operatorname{norm}(\operatorname{leaky}(W_m f_i + b_m)), \qquad
        p_u \leftarrow \operatorname{norm} \Big( p_u + \sum_{i \in N(u)}
        \operatorname{softmax}_{i}(p_u^\top t_i) \, t_i \Big)

    One more attention, in both directions, gives the content vectors and the affinities
    :math:`\alpha` of the links. A link from :math:`s` to :math:`t` weighs as much as its most
    confident feature set says, or nothing:

    .. math::
        \alpha_{m,st} = \operatorname{softmax}_{s}(x_{m,s}^\top x_{m,t}), \qquad
        c_{m,t} = x_{m,t} + \sum_s \alpha_{m,st} x_{m,s}, \qquad
        w_{st} = \operatorname{ReLU}(\max_m \alpha_{m,st} \, g_{m,s})

    with :math:`x = [p ; t]` and a trained confidence :math:`g`. IDs :math:`e`, of length 1, spread
    over these weights:

    .. math::
        h = \sum_{l=0}^{L} W^l \operatorname{norm}(e), \qquad
        z = [\, h \,\Vert\, c_1 \,\Vert\, \dots \,\Vert\, c_M \,], \qquad
        \hat{y}_{ui} = z_u^\top z_i

    .. math::
        L = \operatorname{BPR}(\hat{y}_{ui}, \hat{y}_{uj})
        + \lambda \big( \operatorname{mean}(e_u^2) + \operatorname{mean}(e_i^2, e_j^2)
        + \textstyle\sum_m \operatorname{mean}(p_{m,u}^2) \big)

    on the parameters :math:`e` and :math:`p_m` of the batch, before they get length 1.
    Features of width :math:`F_m` enter by their projections only, so any number of sets will do.

    **Differs from the paper:** the regulariser takes means, as in the authors' code. With
    ``faithful=True`` also what the published code does otherwise: messages of the routing run from
    users to items, where they are not used, so that preferences stay as they are and
    ``num_routings`` changes nothing (the loop is left out); and :math:`\lambda` also weighs
    :math:`\operatorname{mean}(P_1^2)` over all users, of the first set in ``features`` (there: the
    images). In any case scores come from the trained parameters, where that code takes those that
    its last training batch began with.

    Args:
        data: Training graph; reads the sizes and the feature tables.
        features: Feature sets :math:`m` (default: all).
        embedding_dim: Width :math:`d` of IDs, preferences and projections.
        num_layers: Number of ID layers :math:`L`.
        num_routings: Number of routings.
        reg_weight: Weight :math:`\lambda` (searched over 1e-5 to 1e-1).
        freeze_features: Whether the feature tables stay as they are.
        faithful: Whether to repeat the defects of the published code.

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, (1 + M) d)`, items :math:`(|I|, (1 + M) d)`

    Raises:
        ValueError: If ``data`` lacks the features, or a number of layers or routings is negative.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate")
    supports_new_items = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_routings: int = 3,
        reg_weight: float = 1e-3,
        freeze_features: bool = True,
        faithful: bool = False,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        self.add_id_tables()
        self.user_confidence = nn.Parameter(torch.empty(self.num_users, len(self.features)))
        self.item_confidence = nn.Parameter(torch.empty(self.num_items, len(self.features)))
        self.preferences = nn.ModuleList(
            nn.Embedding(self.num_users, embedding_dim) for _ in self.features
        )
        self.modalities = self.feature_projections(data)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws everything anew: Xavier-normal, users and items as one table; default biases."""
        for user, item in (
            (self.user_embedding.weight, self.item_embedding.weight),
            (self.user_confidence, self.item_confidence),
        ):
            std = (2 / (self.num_users + self.num_items + user.size(1))) ** 0.5
            nn.init.normal_(user, std=std)
            nn.init.normal_(item, std=std)
        for preference in self.preferences.parameters():
            nn.init.xavier_normal_(preference)
        for modality in self.modalities:
            modality.reset_parameters()
            nn.init.xavier_normal_(modality.linear.weight)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Refined ID vectors beside the content vectors of every feature set."""
        to_user, to_item = self.link_graph(data, _both_directions)
        users_asked, items_asked = (None, None) if nodes is None else (nodes.user, nodes.item)
        to_users_asked = to_user if users_asked is None else to_user.rows(users_asked)
        to_items_asked = to_item if items_asked is None else to_item.rows(items_asked)
        users, items, from_items, from_users = [], [], [], []
        preferences = self.preferences.parameters()
        for preference, modality in zip(preferences, self.modalities, strict=True):
            item = normalize(leaky_relu(modality()))
            user = normalize(preference)
            for _ in range(0 if self.faithful else self.num_routings):
                affinity = segment_softmax(to_user, edge_dot(to_user, user, item))
                user = normalize(user + weighted_matmul(to_user, affinity, item))
            logits = edge_dot(to_user, user, item)
            user_affinity = segment_softmax(to_user, logits)
            item_affinity = segment_softmax(to_item, to_user.transpose_values(logits))
            users.append(
                rows_of(user, users_asked) + weighted_matmul(to_users_asked, user_affinity, item)
            )
            items.append(
                rows_of(item, items_asked) + weighted_matmul(to_items_asked, item_affinity, user)
            )
            from_items.append(user_affinity)
            from_users.append(item_affinity)
        user_weight = _most_confident(from_items, self.item_confidence, to_user.source)
        item_weight = _most_confident(from_users, self.user_confidence, to_item.source)
        user, item = (normalize(x) for x in self.id_tables)
        id_user, id_item = rows_of(user, users_asked), rows_of(item, items_asked)
        for layer in range(1, self.num_layers + 1):
            last = layer == self.num_layers
            user, item = (
                weighted_matmul(to_users_asked if last else to_user, user_weight, item),
                weighted_matmul(to_items_asked if last else to_item, item_weight, user),
            )
            id_user = id_user + (user if last else rows_of(user, users_asked))
            id_item = id_item + (item if last else rows_of(item, items_asked))
        return torch.cat([id_user, *users], dim=1), torch.cat([id_item, *items], dim=1)

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr`` on the scores and ``reg`` on IDs and preferences."""
        numbered = batch.compact()
        user, pos, neg = batch_rows(numbered, *self(data, numbered.nodes))
        items = torch.cat([batch.pos_item, batch.neg_item])
        reg = self.user_embedding(batch.user).square().mean()
        reg = reg + self.item_embedding(items).square().mean()
        for preference in self.preferences:
            reg = reg + preference(batch.user).square().mean()
        if self.faithful:
            first = next(self.preferences.parameters())
            reg = reg + first.square().mean()
        bpr = bpr_loss((user * pos).sum(-1), (user * neg).sum(-1))
        return {"bpr": bpr, "reg": reg}


def _both_directions(
    edge_index: Tensor, num_users: int, num_items: int
) -> tuple[EdgeStructure, EdgeStructure]:
    """The known links from items to users, and from users to items."""
    to_user = EdgeStructure.from_edges(edge_index.flip(0), num_items, num_users)
    return to_user, to_user.transposed()


def _most_confident(affinities: list[Tensor], confidence: Tensor, source: Tensor) -> Tensor:
    """Edge weights ``[E]`` from the affinities of every feature set ``[E]``."""
    weighted = torch.stack(affinities, dim=1) * embedding(source, confidence)
    return weighted.amax(dim=1).relu()
