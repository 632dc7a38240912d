"""FREEDOM: a frozen item graph and a denoised user-item graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import (
    ItemPropagation,
    LinkPruning,
    UserItemPropagation,
    batch_rows,
    bpr_loss,
)


class FREEDOM(Recommender):
    r"""`"A Tale of Two Graphs: Freezing and Denoising Graph Structures for Multimodal
    Recommendation" <https://arxiv.org/abs/2211.06924>`_ (MM 2023).

    Every epoch keeps a share :math:`1-\rho` of the links, drawn without replacement, each with
    probability proportional to :math:`1/\sqrt{d_u d_i}`, and normalises them anew
    (:math:`\hat{A}_\rho`; the full :math:`\hat{A}` at inference). Items also receive messages from
    their neighbours in the frozen graph :math:`S`:

    .. math::
        [U ; I'] = \operatorname{LGC}_L([E_U ; E_I]), \qquad I = I' + S^{L_s} E_I, \qquad
        \hat{y}_{ui} = u^\top i

    .. math::
        L = \operatorname{BPR}(u^\top i, u^\top j)
        + \lambda \sum_m \operatorname{BPR}(u^\top T_m f_i, u^\top T_m f_j)

    Features enter the score through :math:`S` only, so the model also runs without feature tables.
    The published :math:`S` is ``KNNItemGraph({"image": 0.1, "text": 0.9}, weighting="binary")``.
    **Differs from the paper:** none known; the last term has the form of the authors' code.

    Args:
        data: Training graph; reads the sizes, the feature tables and the item graph.
        features: Feature sets :math:`m` of the last term (default: all; none drops the term).
        item_graph: Name of :math:`S` (default: the only one).
        embedding_dim: Width :math:`d`.
        num_layers: Number of user-item layers :math:`L`.
        num_item_layers: Number of item graph layers :math:`L_s`.
        dropout: Share :math:`\rho` of the links left out in an epoch (0.8 or 0.9).
        reg_weight: Weight :math:`\lambda` of the feature terms (searched over 0 to 0.07).
        freeze_features: Whether the feature tables stay as they are
            (``None``: above a million items).

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features or the graph, or ``dropout`` is outside [0, 1).
    """  # noqa: D205

    inputs = ModelInputs(
        tables="optional",
        item_graph="one",
        weighting="binary",
        table_weights={"image": 0.1, "text": 0.9},
    )
    supports_new_items = True
    supports_neighbor_sampling = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        item_graph: str | None = None,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        dropout: float = 0.8,
        reg_weight: float = 0.001,
        freeze_features: bool | None = None,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        self.add_id_tables()
        self.modalities = self.feature_projections(data)
        self.propagation = UserItemPropagation(num_layers)
        self.item_propagation = ItemPropagation(num_item_layers)
        self.pruning = LinkPruning(1 - dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws tables (Xavier-uniform) and projections anew."""
        self.reset_id_tables()
        self.modalities.reset_parameters()

    def on_epoch_start(self, data: HeteroData, generator: torch.Generator) -> None:
        """Draws the links of this epoch."""
        links = data[INTERACTS].edge_index
        self.pruning.draw(links, self.num_users, self.num_items, generator)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Propagates over this epoch's links in training on its data, over all otherwise."""
        graph = self.pruning(data[INTERACTS].edge_index)
        graph = self.user_item_graph(data) if graph is None else graph
        user, item = self.propagation(*self.id_tables, graph, nodes=nodes)
        flow = self.item_item_flow(data, self.item_graph, self.num_item_layers, nodes)
        return user, item + self.item_propagation(self.item_ids(flow.source), flow)

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr`` on the scores and, with features, ``reg`` on the projected features."""
        batch = batch.compact()
        user_x, item_x = self(data, batch.nodes)
        user, pos, neg = batch_rows(batch, user_x, item_x)
        terms = {"bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1))}
        if self.features:
            reg = user.new_zeros(())
            for projected in self.modalities:
                feature_x = projected(None if batch.nodes is None else batch.nodes.item)
                _, pos_x, neg_x = batch_rows(batch, user_x, feature_x)
                reg = reg + bpr_loss((user * pos_x).sum(-1), (user * neg_x).sum(-1))
            terms["reg"] = reg
        return terms

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight 1 for ``bpr`` and, with features, ``reg_weight`` for ``reg``."""
        return {"bpr": 1.0, "reg": self.reg_weight} if self.features else {"bpr": 1.0}
