"""LightGCN with content: the simplest model whose content and IDs can be aligned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.content import ContentRecommender, Representations
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.models.lightgcn import lightgcn_terms
from alignrec_pyg.nn import FeatureTable, UserItemPropagation


class ContentLightGCN(ContentRecommender):
    r"""LightGCN plus projected features: a construction of ours, without published figures.

    It shows what alignment alone adds: it has content and ID vectors, and no term that aligns them.
    IDs are propagated as in `"LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation" <https://arxiv.org/abs/2002.02126>`_ (SIGIR 2020); the content of a user is
    gathered from the items, one step along the same normalised links:

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
    supports_neighbor_sampling = True

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
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        self.add_id_tables()
        tables = self.feature_tables(data)
        self.feature_table = FeatureTable(*tables, trainable=not freeze_features)
        self.projection = nn.Linear(self.feature_table.dim, embedding_dim)
        self.propagation = UserItemPropagation(num_layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws tables and projection (Xavier-uniform, zero bias) anew, puts the features back."""
        self.reset_id_tables()
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        self.feature_table.reset_parameters()

    def representations(self, data: HeteroData, nodes: Nodes | None = None) -> Representations:
        """Propagated IDs; projected features, and their sums over each user's items."""
        graph = self.user_item_graph(data)
        id_user, id_item = self.propagation(*self.id_tables, graph, nodes=nodes)
        to_users = self.item_to_user_aggregation(data, nodes)
        content = self.projection(self.feature_table(to_users.items))
        return Representations(id_user, id_item, *to_users(content))

    def terms(self, batch: InteractionBatch, x: Representations) -> dict[str, Tensor]:
        """``bpr`` on the fused rows and ``reg`` on the unpropagated ID rows."""
        return lightgcn_terms(batch, self.fuse(x), self.id_rows(batch.nodes))
