"""LightGCN: linear propagation of ID embeddings over the user-item graph."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import embedding
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.nn import UserItemPropagation, bpr_loss, embedding_norm_loss


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

    def __init__(
        self,
        data: HeteroData,
        *,
        embedding_dim: int = 64,
        num_layers: int = 3,
        reg_weight: float = 1e-4,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim)
        self.num_layers = num_layers
        self.reg_weight = reg_weight
        self.user_embedding = nn.Embedding(self.num_users, embedding_dim)
        self.item_embedding = nn.Embedding(self.num_items, embedding_dim)
        self.propagation = UserItemPropagation(num_layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws both tables anew (Xavier-uniform)."""
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        """Propagates the tables over the known links."""
        user, item = self.propagation(
            self.user_embedding.weight, self.item_embedding.weight, self.user_item_graph(data)
        )
        return user, item

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr`` on propagated rows and ``reg`` on unpropagated ones."""
        user_x, item_x = self(data)
        user = embedding(batch.user, user_x)
        pos, neg = embedding(batch.pos_item, item_x), embedding(batch.neg_item, item_x)
        return {
            "bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1), 1e-10, size=batch.size),
            "reg": embedding_norm_loss(
                self.user_embedding(batch.whole.user),
                self.item_embedding(batch.whole.pos_item),
                self.item_embedding(batch.whole.neg_item),
            )
            / batch.num_shares,
        }

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight 1 for ``bpr``, ``reg_weight`` for ``reg``."""
        return {"bpr": 1.0, "reg": self.reg_weight}
