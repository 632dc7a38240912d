"""MGCN: one view per modality, purified by behaviour and fused by what users attend to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn.inits import reset

from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.content import ContentRecommender, Representations
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import (
    ItemPropagation,
    UserItemPropagation,
    batch_rows,
    bpr_loss,
    l2_loss,
    node_info_nce_loss,
)
from alignrec_pyg.train_config import TrainConfig


class MGCN(ContentRecommender):
    r"""`"Multi-View Graph Convolutional Network for Multimedia Recommendation"
    <https://arxiv.org/abs/2308.03588>`_ (MM 2023).

    For each of the :math:`M` modalities :math:`m`, item IDs gated by projected features pass the
    item graph :math:`S_m` and are gathered into users; IDs pass the user-item graph:

    .. math::
        H_m &= E_I \odot g_m(T_m F_m), \\
        X_m &= [\hat{R} S_m^{L_s} H_m ; S_m^{L_s} H_m], \\
        C &= \operatorname{LGC}_L([E_U ; E_I]),

    with gates :math:`g_m` and :math:`q_m` (a linear layer and a sigmoid) and
    :math:`\hat{R} = D_u^{-1/2} R D_i^{-1/2}`. Attention finds what modalities have in common, gates
    let through what only one has:

    .. math::
        \omega = \operatorname{softmax}_m \left( a^\top \tanh(W X_m + b) \right), \quad
        X_c = \sum_m \omega_m X_m, \quad
        Z = \frac{1}{M + 1} \left( X_c + \sum_m q_m(C) \odot (X_m - X_c) \right), \quad
        H = C + Z .

    Scores are :math:`h_u^\top h_i`, and

    .. math::
        L = \operatorname{BPR}(h_u^\top h_i, h_u^\top h_j)
        + \lambda_{cl} \left[ \operatorname{NCE}_\tau(z_i, c_i)
        + \operatorname{NCE}_\tau(z_u, c_u) \right] + \lambda_2 \lVert h \rVert^2 / 2B .

    The published :math:`S_m` is ``KNNItemGraph(m, k=10, weighting="cosine")``.
    **Differs from the paper:** the equations are those of the authors' code, which has exactly two
    modalities. With a single one they say :math:`H = C + X / 2`, whatever attention and :math:`q`
    are, so these are then left out.

    Args:
        data: Training graph; reads the sizes, the feature tables and the item graphs.
        features: Feature sets :math:`m` (default: all).
        item_graphs: Name of :math:`S_m` for each of them (default: the feature sets' names).
        embedding_dim: Width :math:`d`.
        num_layers: Number of user-item layers :math:`L`.
        num_item_layers: Number of item graph layers :math:`L_s`.
        cl_weight: Weight :math:`\lambda_{cl}` of the contrastive term (searched over 1e-3 to 1e-1).
        l2_weight: Weight :math:`\lambda_2` of the L2 term.
        temperature: :math:`\tau` of the contrastive term.
        freeze_features: Whether the feature tables stay as they are
            (``None``: above a million items).

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features or a graph, or an option is out of range.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate", item_graph="per_table")
    supports_new_items = True
    supports_neighbor_sampling = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        item_graphs: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        cl_weight: float = 0.01,
        l2_weight: float = 1e-4,
        temperature: float = 0.2,
        freeze_features: bool | None = None,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        self.add_id_tables()
        self.modalities = self.feature_projections(data)
        self.gates = nn.ModuleList(sigmoid_gate(embedding_dim) for _ in self.features)
        self.fusion = _ModalityFusion(len(self.features), embedding_dim)
        self.propagation = UserItemPropagation(num_layers)
        self.item_propagation = ItemPropagation(num_item_layers)
        self.reset_parameters()

    @classmethod
    def published_train_config(cls) -> TrainConfig:
        """As for other models, with a learning rate that falls by 4 % in 50 epochs."""
        usual = super().published_train_config()
        return usual.with_changes(lr_decay=0.96, lr_decay_epochs=50)

    def reset_parameters(self) -> None:
        """Draws tables (Xavier-uniform) and linear layers anew, puts the features back."""
        self.reset_id_tables()
        self.modalities.reset_parameters()
        reset(self.gates)
        reset(self.fusion)

    def representations(self, data: HeteroData, nodes: Nodes | None = None) -> Representations:
        """Propagated IDs :math:`C` and the fused views :math:`Z`."""
        graph = self.user_item_graph(data)
        id_user, id_item = self.propagation(*self.id_tables, graph, nodes=nodes)
        to_users = self.item_to_user_aggregation(data, nodes)
        views = []
        for modality, gate, name in zip(self.modalities, self.gates, self.item_graphs, strict=True):
            flow = self.item_item_flow(data, name, self.num_item_layers, nodes, to_users.items)
            purified = self.item_ids(flow.source) * gate(modality(flow.source))
            views.append(self.item_propagation(purified, flow))
        user_views, item_views = to_users(torch.cat(views, dim=1))  # all modalities at once
        return Representations(
            id_user, id_item, self.fusion(user_views, id_user), self.fusion(item_views, id_item)
        )

    def terms(self, batch: InteractionBatch, x: Representations) -> dict[str, Tensor]:
        """``bpr``, ``cl`` (content with IDs) and ``l2``."""
        return mgcn_terms(batch, x, self.fuse(x), self.temperature)


def mgcn_terms(
    batch: InteractionBatch,
    x: Representations,
    vectors: tuple[Tensor, Tensor],
    temperature: float,
) -> dict[str, Tensor]:
    """``bpr`` and ``l2`` on the final rows, and ``cl``, the contrast of content with IDs."""
    user, pos, neg = batch_rows(batch, *vectors)
    return {
        "bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1)),
        "cl": node_info_nce_loss(batch.pos_item, x.content_item, x.id_item, temperature)
        + node_info_nce_loss(batch.user, x.content_user, x.id_user, temperature),
        "l2": l2_loss(user, pos, neg, batch_size=batch.full_size),
    }


class _ModalityFusion(nn.Module):
    """Fuses the views of the modalities: their common part, and what IDs let through of each."""

    def __init__(self, num_modalities: int, embedding_dim: int) -> None:
        super().__init__()
        several = num_modalities > 1  # of a single view, attention and gates could not change a bit
        self.attention = (
            nn.Sequential(
                nn.Linear(embedding_dim, embedding_dim),
                nn.Tanh(),
                nn.Linear(embedding_dim, 1, False),
            )
            if several
            else None
        )
        self.preferences = nn.ModuleList(
            sigmoid_gate(embedding_dim) for _ in range(num_modalities if several else 0)
        )

    def forward(self, views: Tensor, ids: Tensor) -> Tensor:
        r"""From views :math:`(N, M d)` and IDs :math:`(N, d)` to :math:`(N, d)`."""
        if self.attention is None:
            return views / 2
        stacked = views.unflatten(1, (len(self.preferences), -1))
        weight = self.attention(stacked).softmax(dim=1)
        common = (weight * stacked).sum(dim=1)
        own = [
            gate(ids) * (view - common)
            for gate, view in zip(self.preferences, stacked.unbind(1), strict=True)
        ]
        return (torch.stack(own).sum(0) + common) / (len(own) + 1)


def sigmoid_gate(embedding_dim: int) -> nn.Sequential:
    """A linear layer and a sigmoid."""
    return nn.Sequential(nn.Linear(embedding_dim, embedding_dim), nn.Sigmoid())
