"""BM3: bootstrapped latent representations, without negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import (
    UserItemPropagation,
    cosine_alignment_loss,
    dropout,
)


class BM3(Recommender):
    r"""`"Bootstrap Latent Representations for Multi-modal Recommendation"
    <https://arxiv.org/abs/2207.05969>`_ (WWW 2023).

    Online vectors are LightGCN's, with the item's own vector added, and projected features,

    .. math::
        [U ; I'] = \operatorname{LGC}_L([E_U ; E_I]), \quad I = I' + E_I, \quad Z_m = T_m F_m .

    Targets are the same vectors under dropout and without gradient, written with a tilde;
    :math:`p` is a linear predictor; :math:`c` is the mean cosine over the batch's positive pairs:

    .. math::
        L = {} & [1 - c(p(u), \tilde{\imath})] + [1 - c(p(i), \tilde{u})] \\
        & + \lambda_{cl} \sum_m \left( [1 - c(p(z_m), \tilde{\imath})]
        + [1 - c(p(z_m), \tilde{z}_m)] \right)
        + \lambda \frac{\lVert U \rVert_F + \lVert I \rVert_F}{|I|}

    Scores are :math:`p(U) \, p(I)^\top`.
    **Differs from the paper:** the regulariser takes un-squared norms of the whole tables, as in
    the authors' code. Dropout is drawn for each row of the batch, so that a user who occurs twice
    gets two masks; drawn for whole tables it would be one. With sampled neighbourhoods the norms
    are estimated from the vectors of the batch.

    Args:
        data: Training graph; reads the sizes and the feature tables.
        features: Feature sets :math:`m` (default: all).
        embedding_dim: Width :math:`d`.
        num_layers: Number of propagation layers :math:`L` (1 or 2).
        dropout: Probability of zeroing an entry of a target (0.3 or 0.5).
        cl_weight: Weight :math:`\lambda_{cl}` of the modality alignment terms.
        reg_weight: Weight :math:`\lambda` of the norms (0.1 or 0.01).
        freeze_features: Whether the feature tables stay as they are
            (``None``: above a million items).

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features or ``dropout`` is outside [0, 1).
    """  # noqa: D205

    inputs = ModelInputs(tables="separate")
    supports_neighbor_sampling = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 1,
        dropout: float = 0.5,
        cl_weight: float = 2.0,
        reg_weight: float = 0.1,
        freeze_features: bool | None = None,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        self.add_id_tables()
        self.modalities = self.feature_projections(data)
        self.predictor = nn.Linear(embedding_dim, embedding_dim)
        self.propagation = UserItemPropagation(num_layers)
        self.reset_parameters()

    @classmethod
    def published_hparams(cls, data_name: str) -> dict[str, Any]:
        """The authors' best on each of their data sets."""
        return {
            "baby": {"num_layers": 1, "dropout": 0.5, "reg_weight": 0.1},
            "sports": {"num_layers": 1, "dropout": 0.5, "reg_weight": 0.01},
            "elec": {"num_layers": 2, "dropout": 0.3, "reg_weight": 0.1},
        }.get(data_name, {})

    def reset_parameters(self) -> None:
        """Draws tables (Xavier-uniform) and linear layers (Xavier-normal weights) anew."""
        self.reset_id_tables()
        for modality in self.modalities:
            modality.reset_parameters()
            nn.init.xavier_normal_(modality.linear.weight)
        self.predictor.reset_parameters()
        nn.init.xavier_normal_(self.predictor.weight)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Predicted vectors of all users and items."""
        user, item = self._online(data, nodes)
        return self.predictor(user), self.predictor(item)

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``ui`` (users with items), ``modality`` (features with items and themselves), ``reg``."""
        # The norms are of all vectors; of sampled neighbourhoods only the batch's are known.
        numbered = batch if batch.sampling is None else batch.compact()
        user_x, item_x = self._online(data, numbered.nodes)
        user, item = embedding(numbered.user, user_x), embedding(numbered.pos_item, item_x)
        generator = self.batch_generator(user.device)
        item_target = self._target(item, generator)
        modality = user.new_zeros(())
        for projected in self.modalities:
            feature = projected(batch.pos_item)
            predicted = self.predictor(feature)
            modality = (
                modality
                + cosine_alignment_loss(predicted, item_target)
                + cosine_alignment_loss(predicted, self._target(feature, generator))
            )
        return {
            "ui": cosine_alignment_loss(self.predictor(user), item_target)
            + cosine_alignment_loss(self.predictor(item), self._target(user, generator)),
            "modality": modality,
            "reg": self._norms(user_x, item_x),
        }

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight 1 for ``ui``, ``cl_weight`` for ``modality``, ``reg_weight`` for ``reg``."""
        return {"ui": 1.0, "modality": self.cl_weight, "reg": self.reg_weight}

    def _online(self, data: HeteroData, nodes: Nodes | None) -> tuple[Tensor, Tensor]:
        user, item = self.propagation(*self.id_tables, self.user_item_graph(data), nodes=nodes)
        return user, item + self.item_ids(None if nodes is None else nodes.item)

    def _norms(self, user_x: Tensor, item_x: Tensor) -> Tensor:
        """Of all users' and items' vectors, estimated where only some are given."""
        lengths = [
            torch.linalg.vector_norm(x) * (number / x.size(0)) ** 0.5
            for x, number in ((user_x, self.num_users), (item_x, self.num_items))
        ]
        return torch.stack(lengths).sum() / self.num_items

    def _target(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return dropout(x.detach(), self.dropout, generator)
