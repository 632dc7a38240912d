"""BPR: matrix factorisation with a pairwise ranking loss."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import USER, InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.nn import batch_rows, bpr_loss, embedding_norm_loss

_WIDTH = 64
_NORM_SHARE = 0.05


class BPR(Recommender):
    r"""Matrix factorisation from `"BPR: Bayesian Personalized Ranking from Implicit Feedback"
    <https://arxiv.org/abs/1205.2618>`_ (UAI 2009).

    The score is the inner product of a user's and an item's own vector,

    .. math::
        \hat{y}_{ui} = e_u^\top e_i, \qquad
        L = -\frac{1}{B} \sum_{(u,i,j)} \log(10^{-10} + \sigma(\hat{y}_{ui} - \hat{y}_{uj}))
        + \lambda \frac{\lVert e_u \rVert_F + \lVert e_i \rVert_F + \lVert e_j \rVert_F}{B}

    **Differs from the paper:** no biases, and the regulariser takes un-squared norms of the batch
    rows, as in the code behind the published figures of multimodal papers.

    Args:
        data: Training graph; reads the sizes.
        embedding_dim: Width :math:`d` of the vectors.
        reg_weight: Weight :math:`\lambda` of the norms (searched over 1e-5 to 2). By default
            :math:`0.05 \sqrt{B}\, n`, with the default batch size :math:`B` for ``data`` and the
            length :math:`n = \sqrt{128 / (|U| + 64)}` that a user's vector has at the beginning: in
            the first steps it then draws each vector to zero by a twentieth of its length where a
            triple draws it by up to half of another's, whatever the size of the data.

    Shapes:
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`
    """  # noqa: D205

    supports_neighbor_sampling = True

    def __init__(
        self, data: HeteroData, *, embedding_dim: int = _WIDTH, reg_weight: float | None = None
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        if reg_weight is None:
            self.reg_weight = self.default_hparams(data)["reg_weight"]
        self.add_id_tables()
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
        """Draws both tables anew (Xavier-normal)."""
        for table in self.id_tables:
            nn.init.xavier_normal_(table)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """The two tables."""
        return self.id_rows(nodes)

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr`` and ``reg``."""
        batch = batch.compact()
        return bpr_terms(*batch_rows(batch, *self.id_rows(batch.nodes)))


def default_norm_weight(model: type[Recommender], data: HeteroData) -> float:
    r"""The default :math:`\lambda`, for vectors of width 64.

    The gradient of :math:`\lambda \lVert e_u \rVert_F / B` in a row of length n is
    :math:`\lambda / (\sqrt{B}\, n)` of the row, each time it occurs. With twice the default, all
    vectors shrink to nothing on some data before the links are learnt.
    """
    length = math.sqrt(2 * _WIDTH / (int(data[USER].num_nodes) + _WIDTH))
    weight = _NORM_SHARE * math.sqrt(model.complete_config(data).batch_size) * length
    return float(f"{weight:.3g}")


def bpr_terms(user: Tensor, pos: Tensor, neg: Tensor) -> dict[str, Tensor]:
    """``bpr`` and ``reg`` from the rows of the batch."""
    return {
        "bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1), 1e-10),
        "reg": embedding_norm_loss(user, pos, neg),
    }
