"""LightGCN with content: the simplest model whose content and IDs can be aligned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import embedding
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import InteractionBatch, feature_table
from alignrec_pyg.models.content import ContentRecommender, Representations
from alignrec_pyg.models.inputs import ModelInputs, require_features
from alignrec_pyg.nn import FeatureTable, UserItemPropagation, bpr_loss, embedding_norm_loss


class ContentLightGCN(ContentRecommender):
    r"""LightGCN plus projected features: a construction of ours, without published figures.

    It exists to show what alignment alone adds: it has content and IDs and nothing that brings
    them together. IDs are propagated as in `"LightGCN: Simplifying and Powering Graph Convolution
    Network for Recommendation" <https://arxiv.org/abs/2002.02126>`_ (SIGIR 2020); the content of a
    user is gathered from the items, one step along the same normalised links:

    .. math::
        C = \operatorname{LGC}_L(E), \qquad M_I = F W^\top + b, \qquad M_U = \hat{R} M_I, \qquad
        X = C + [M_U ; M_I], \qquad \hat{y}_{ui} = x_u^\top x_i

    with :math:`\hat{R} = D_u^{-1/2} R D_i^{-1/2}`. The loss is LightGCN's,

    .. math::
        L = -\frac{1}{B} \sum_{(u,i,j)} \log(10^{-10} + \sigma(\hat{y}_{ui} - \hat{y}_{uj}))
        + \lambda \frac{\lVert e_u \rVert_F + \lVert e_i \rVert_F + \lVert e_j \rVert_F}{B}

    Args:
        data: Training graph; reads the sizes and the feature tables.
        features: Feature sets to concatenate, in this order (default: all).
        embedding_dim: Width :math:`d` of the vectors.
        num_layers: Number of propagation layers :math:`L`.
        reg_weight: Weight :math:`\lambda` of the norms.
        freeze_features: Whether the feature tables stay as they are.

    Shapes:
        - **input:** features :math:`(|I|, F)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features or ``num_layers`` is negative.
    """

    inputs = ModelInputs(tables="separate")
    supports_new_items = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 3,
        reg_weight: float = 1e-4,
        freeze_features: bool = True,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim)
        self.features = require_features(data, features, "ContentLightGCN")
        self.num_layers = num_layers
        self.reg_weight = reg_weight
        self.freeze_features = freeze_features
        self.user_embedding = nn.Embedding(self.num_users, embedding_dim)
        self.item_embedding = nn.Embedding(self.num_items, embedding_dim)
        self.feature_table = FeatureTable(
            *(feature_table(data, name) for name in self.features), trainable=not freeze_features
        )
        self.projection = nn.Linear(self.feature_table.dim, embedding_dim)
        self.propagation = UserItemPropagation(num_layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws tables and projection (Xavier-uniform, zero bias) anew, puts the features back."""
        nn.init.xavier_uniform_(self.user_embedding.weight)
        nn.init.xavier_uniform_(self.item_embedding.weight)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.feature_table.reset_parameters()

    def representations(self, data: HeteroData) -> Representations:
        """Propagated IDs; projected features, and their sums over each user's items."""
        id_user, id_item = self.propagation(
            self.user_embedding.weight, self.item_embedding.weight, self.user_item_graph(data)
        )
        content_item = self.projection(self.feature_table())
        content_user = self.item_to_user_graph(data).matmul(content_item)
        return Representations(id_user, id_item, content_user, content_item)

    def terms(self, batch: InteractionBatch, x: Representations) -> dict[str, Tensor]:
        """``bpr`` on the fused rows and ``reg`` on the unpropagated ID rows."""
        user_x, item_x = self.fuse(x)
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
