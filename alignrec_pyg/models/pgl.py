"""PGL: users and content pass messages along a part of the links, drawn for each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_number
from alignrec_pyg.graph import INTERACTS, InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import (
    ItemPropagation,
    LinkPruning,
    UserItemPropagation,
    batch_rows,
    bpr_loss,
    dropout,
    info_nce_loss,
    unit_rows,
)
from alignrec_pyg.train_config import TrainConfig


class PGL(Recommender):
    r"""`"Mind Individual Information! Principal Graph Learning for Multimedia Recommendation"
    <https://doi.org/10.1609/aaai.v39i12.33429>`_ (AAAI 2025), with its local-aware extraction.

    Items have no vectors of their own: they are their projected features side by side, and users
    have a free vector :math:`P_m` for each of the :math:`M` feature sets,

    .. math::
        E_I = [\operatorname{norm}(T_1 F_1) \Vert \dots \Vert \operatorname{norm}(T_M F_M)], \qquad
        E_U = [P_1 \Vert \dots \Vert P_M] .

    In training, messages pass along the principal subgraph: every epoch keeps a share of the links,
    drawn without replacement, each with probability proportional to :math:`1/\sqrt{d_u d_i}`, and
    normalises them anew (:math:`A^*`; the full :math:`\hat{A}` at inference). Items also receive
    messages from their neighbours in the frozen item graph :math:`S`:

    .. math::
        [U ; I'] = \operatorname{LGC}_L([E_U ; E_I]), \qquad I = I' + S^{L_s} E_I, \qquad
        \hat{y}_{ui} = u^\top i

    .. math::
        L = \operatorname{BPR}(u^\top i, u^\top j) + \frac{\lambda}{2} \left[
        \operatorname{NCE}_\tau(\delta(u), \delta'(u))
        + \operatorname{NCE}_\tau(\delta(i), \delta'(i)) \right],

    with two dropouts :math:`\delta, \delta'` of the final rows of the batch; a user or an item that
    occurs twice has a mask for each time, and is a negative of its other rows.
    The published :math:`S` is ``KNNItemGraph({"image": 0.1, "text": 0.9}, weighting="binary")``.

    **Differs from the paper:** the equations are those of the authors' code, whose logs end in the
    published figures. The paper's other, global-aware extraction, from a decomposition of the
    user-item graph, is not here; it is ahead in one of the twelve published figures. Scores are
    of width :math:`M d`, where most baselines have :math:`d`.

    Args:
        data: Training graph; reads the sizes, the feature tables and the item graph.
        features: Feature sets :math:`m` (default: all).
        item_graph: Name of :math:`S` (default: the only one).
        embedding_dim: Width :math:`d` of each feature set.
        num_layers: Number of user-item layers :math:`L`.
        num_item_layers: Number of item graph layers :math:`L_s`.
        link_share: Share of the links kept in an epoch (a constant of the authors' code).
        dropout: Probability of zeroing an entry in :math:`\delta` (0.05 to 0.2).
        cl_weight: Weight :math:`\lambda` of the contrastive term (0.05 to 0.5).
        temperature: :math:`\tau` of the contrastive term.
        freeze_features: Whether the feature tables stay as they are
            (``None``: above a million items).

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, M d)`, items :math:`(|I|, M d)`

    Raises:
        ValueError: If ``data`` lacks the features or the graph, ``link_share`` is outside (0, 1]
            or ``dropout`` outside [0, 1).
    """  # noqa: D205

    inputs = ModelInputs(
        tables="separate",
        item_graph="one",
        weighting="binary",
        table_weights={"image": 0.1, "text": 0.9},
    )
    supports_new_items = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        item_graph: str | None = None,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        link_share: float = 0.3,
        dropout: float = 0.2,
        cl_weight: float = 0.05,
        temperature: float = 0.2,
        freeze_features: bool | None = None,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        check_number("link_share", link_share, above=0, most=1)
        # the P_m side by side, as the items: one propagation serves all feature sets
        self.user_embedding = nn.Embedding(self.num_users, len(self.features) * embedding_dim)
        self.modalities = self.feature_projections(data)
        self.propagation = UserItemPropagation(num_layers)
        self.item_propagation = ItemPropagation(num_item_layers)
        self.pruning = LinkPruning(link_share)
        self.reset_parameters()

    @classmethod
    def published_train_config(cls) -> TrainConfig:
        """As for other models, with a learning rate that falls by 4 % in 50 epochs."""
        usual = super().published_train_config()
        return usual.with_changes(lr_decay=0.96, lr_decay_epochs=50)

    @classmethod
    def published_hparams(cls, data_name: str) -> dict[str, Any]:
        """Those of the authors' logs."""
        return {
            "baby": {"dropout": 0.2, "cl_weight": 0.05},
            "sports": {"dropout": 0.05, "cl_weight": 0.1},
            "clothing": {"dropout": 0.1, "cl_weight": 0.5},
        }.get(data_name, {})

    def reset_parameters(self) -> None:
        """Draws each :math:`P_m` (Xavier-uniform) and the projections anew."""
        with torch.no_grad():
            for preference in self.user_embedding.weight.split(self.embedding_dim, dim=1):
                nn.init.xavier_uniform_(preference)
        self.modalities.reset_parameters()

    def on_epoch_start(self, data: HeteroData, generator: torch.Generator) -> None:
        """Draws the links of this epoch."""
        links = data[INTERACTS].edge_index
        self.pruning.draw(links, self.num_users, self.num_items, generator)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Propagates over this epoch's links in training on its data, over all otherwise."""
        content = torch.cat([unit_rows(modality()) for modality in self.modalities], dim=1)
        graph = self.pruning(data[INTERACTS].edge_index)
        graph = self.user_item_graph(data) if graph is None else graph
        user, item = self.propagation(self.user_embedding.weight, content, graph, nodes=nodes)
        flow = self.item_item_flow(data, self.item_graph, self.num_item_layers, nodes)
        return user, item + self.item_propagation(content, flow)

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr`` on the scores and ``cl``, the contrast of two dropouts."""
        batch = batch.compact()
        user, pos, neg = batch_rows(batch, *self(data, batch.nodes))
        generator = self.batch_generator(user.device)
        contrasts = [self._contrast(x, generator) for x in (user, pos)]
        return {
            "bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1)),
            "cl": torch.stack(contrasts).mean(),
        }

    def _contrast(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        first, second = (dropout(x, self.dropout, generator) for _ in range(2))
        return info_nce_loss(first, second, self.temperature)
