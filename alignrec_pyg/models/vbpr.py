"""VBPR: matrix factorisation with projected item features beside the item's own vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.bpr import bpr_terms, default_norm_weight
from alignrec_pyg.models.content import ContentRecommender, Representations
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import FeatureTable, batch_rows


class VBPR(ContentRecommender):
    r"""`"VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback"
    <https://arxiv.org/abs/1510.01784>`_ (AAAI 2016), with any features.

    An item is its own vector beside a projection of its concatenated features :math:`f_i`,

    .. math::
        h_i = [\, e_i \,\Vert\, W f_i + b \,], \qquad \hat{y}_{ui} = e_u^\top h_i, \quad
        e_u \in \mathbb{R}^{2d},

    .. math::
        L = -\frac{1}{B} \sum_{(u,i,j)} \log(10^{-10} + \sigma(\hat{y}_{ui} - \hat{y}_{uj}))
        + \lambda \frac{\lVert e_u \rVert_F + \lVert h_i \rVert_F + \lVert h_j \rVert_F}{B}

    **Differs from the paper:** no global, user, item or visual bias and un-squared norms, as in the
    code behind the published figures of multimodal papers.

    Args:
        data: Training graph; reads the sizes and the feature tables.
        features: Feature sets to concatenate, in this order (default: all).
        embedding_dim: Width :math:`d` of an item's own vector and of the projection.
        reg_weight: Weight :math:`\lambda` of the norms (searched over 1e-5 to 2); by default that
            of :class:`~alignrec_pyg.models.BPR`.
        freeze_features: Whether the feature tables stay as they are.

    Shapes:
        - **input:** features :math:`(|I|, F)`
        - **output:** users :math:`(|U|, 2d)`, items :math:`(|I|, 2d)`

    Raises:
        ValueError: If ``data`` lacks the features.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate")
    supports_new_items = True
    supports_neighbor_sampling = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        embedding_dim: int = 64,
        reg_weight: float | None = None,
        freeze_features: bool = True,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        if reg_weight is None:
            self.reg_weight = self.default_hparams(data)["reg_weight"]
        self.user_embedding = nn.Embedding(self.num_users, 2 * embedding_dim)
        self.item_embedding = nn.Embedding(self.num_items, embedding_dim)
        tables = self.feature_tables(data)
        self.feature_table = FeatureTable(*tables, trainable=not freeze_features)
        self.projection = nn.Linear(self.feature_table.dim, embedding_dim)
        self.reset_parameters()

    @classmethod
    def default_hparams(cls, data: HeteroData) -> dict[str, Any]:
        """The weight of the norms."""
        return {"reg_weight": default_norm_weight(cls, data)}

    @classmethod
    def published_hparams(cls, data_name: str) -> dict[str, Any]:
        """A weight of 0.01 for all data: which of those searched gave the figures is unknown."""
        return {"reg_weight": 0.01}

    def reset_parameters(self) -> None:
        """Draws tables (Xavier-uniform) and projection (Xavier-normal, zero bias) anew."""
        self.reset_id_tables()
        nn.init.xavier_normal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.feature_table.reset_parameters()

    def representations(self, data: HeteroData, nodes: Nodes | None = None) -> Representations:
        """ID vectors and, of items, projected features; a user's vector is cut into the two."""
        user, id_item = self.id_rows(nodes)
        id_user, content_user = user.chunk(2, dim=1)
        content_item = self.projection(self.feature_table(None if nodes is None else nodes.item))
        return Representations(id_user, id_item, content_user, content_item)

    def fuse(self, x: Representations) -> tuple[Tensor, Tensor]:
        """ID and content side by side."""
        return torch.cat([x.id_user, x.content_user], 1), torch.cat([x.id_item, x.content_item], 1)

    def terms(self, batch: InteractionBatch, x: Representations) -> dict[str, Tensor]:
        """``bpr`` and ``reg``."""
        return bpr_terms(*batch_rows(batch, *self.fuse(x)))
