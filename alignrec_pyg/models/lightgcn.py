"""LightGCN: linear propagation of ID embeddings over the user-item graph."""

from __future__ import annotations

from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.nn import UserItemPropagation, batch_rows, bpr_loss, embedding_norm_loss


class LightGCN(Recommender):
    r"""`"LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation"
    <https://arxiv.org/abs/2002.02126>`_ (SIGIR 2020).

    The vectors are the mean over :math:`L` steps of weightless propagation (Eqs. 3, 4),

    .. math::
        X = \frac{1}{L+1} \sum_{l=0}^{L} \hat{A}^l E, \qquad \hat{y}_{ui} = x_u^\top x_i,

    and the loss is BPR on :math:`X` plus norms of the unpropagated rows,

    .. math::
        L = -\frac{1}{B} \sum_{(u,i,j)} \log(10^{-10} + \sigma(\hat{y}_{ui} - \hat{y}_{uj}))
        + \lambda \frac{\lVert e_u \rVert_F + \lVert e_i \rVert_F + \lVert e_j \rVert_F}{B}

    **Differs from the paper:** Xavier-uniform tables instead of N(0, 0.1) and un-squared norms, as
    in the code behind the published figures of multimodal papers.

    Args:
        data: Training graph; reads the sizes.
        embedding_dim: Width :math:`d` of the vectors.
        num_layers: Number of propagation layers :math:`L` (searched over 1 to 4).
        reg_weight: Weight :math:`\lambda` of the norms (searched over 1e-6 to 1e-2).

    Shapes:
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``num_layers`` is negative.
    """  # noqa: D205

    supports_neighbor_sampling = True

    def __init__(
        self,
        data: HeteroData,
        *,
        embedding_dim: int = 64,
        num_layers: int = 3,
        reg_weight: float = 1e-4,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        self.add_id_tables()
        self.propagation = UserItemPropagation(num_layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws both tables anew (Xavier-uniform)."""
        self.reset_id_tables()

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Propagates the tables over the known links."""
        user, item = self.propagation(*self.id_tables, self.user_item_graph(data), nodes=nodes)
        return user, item

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr`` on propagated rows and ``reg`` on unpropagated ones."""
        batch = batch.compact()
        return lightgcn_terms(batch, self(data, batch.nodes), self.id_rows(batch.nodes))


def lightgcn_terms(
    batch: InteractionBatch, vectors: tuple[Tensor, Tensor], ids: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """``bpr`` on the final rows and ``reg`` on the rows of the ID tables."""
    user, pos, neg = batch_rows(batch, *vectors)
    return {
        "bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1), 1e-10),
        "reg": embedding_norm_loss(*batch_rows(batch, *ids)),
    }
