"""SLMRec: one propagation per modality, and contrastive learning along a chain of spaces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import HeteroData
from torch_geometric.nn.inits import reset

from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import FeatureTable, UserItemPropagation, info_nce_loss
from alignrec_pyg.train_config import TrainConfig


class SLMRec(Recommender):
    r"""`"Self-supervised Learning for Multimedia Recommendation"
    <https://doi.org/10.1109/TMM.2022.3187556>`_ (TMM 2022), with its task "fine and coarse" (FAC).

    Item IDs and every feature set :math:`m = 1, \dots, M` are propagated with the same user table,

    .. math::
        [U_0 ; I_0] = \operatorname{LGC}_L([E_U ; E_I]), \qquad
        [U_m ; I_m] = \operatorname{LGC}_L([E_U ; T_m \operatorname{norm}(F_m)]),

    and joined by one linear map for users and one for items,

    .. math::
        U = W_U [\, U_0 \Vert \dots \Vert U_M \,] + b_U, \qquad
        I = W_I [\, I_0 \Vert \dots \Vert I_M \,] + b_I, \qquad \hat{y}_{ui} = u^\top i .

    FAC leads the items of the batch from the ID space through one space per feature set, each
    reached from the one before, in the order of ``features`` (the published: image, then text):

    .. math::
        a_0 = i_0, \qquad a_m = g_m(a_{m-1}), \qquad
        \text{FAC} = \sum_{m=1}^{M} \operatorname{CE}_{\tau'}(a_m, g'_m(i_m)),

    where :math:`\operatorname{CE}_\tau(x, y)` is the cross-entropy of the logits
    :math:`x_a^\top y_b / \tau` with the diagonal as labels. :math:`\operatorname{NCE}` is the same
    with normalised rows; no sampled negatives are used:

    .. math::
        L = \operatorname{NCE}_\tau(u, i) + \lambda_{ssl} \, \text{FAC} .

    **Differs from the paper:** of its augmentations only FAC, the one behind the published figures
    of multimodal papers, and here for any number of feature sets. :math:`g'_m` has no bias: it
    would add the same to all logits of a row, which the softmax ignores. The published
    code's space of texts has two maps (of widths 64, 64 and 32), ours one. Scores come from the
    trained parameters, where that code takes those that its last training batch began with.
    Published with a weight decay of 1e-4.

    Args:
        data: Training graph; reads the sizes and the feature tables.
        features: Feature sets :math:`m`, in the order of FAC's spaces (default: all).
        embedding_dim: Width :math:`d` of all spaces.
        num_layers: Number of propagation layers :math:`L`.
        temperature: :math:`\tau` of the scores.
        ssl_temperature: :math:`\tau'` of FAC (searched over 0.1 to 1).
        ssl_weight: Weight :math:`\lambda_{ssl}` of FAC (searched over 0.01 to 1).
        freeze_features: Whether the feature tables stay as they are.

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features or a temperature is not positive.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate")
    supports_new_items = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 3,
        temperature: float = 0.2,
        ssl_temperature: float = 0.2,
        ssl_weight: float = 0.1,
        freeze_features: bool = True,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        self.add_id_tables()
        self.modalities = nn.ModuleList(
            _Modality(FeatureTable(table, trainable=not freeze_features), embedding_dim)
            for table in self.feature_tables(data)
        )
        width = (1 + len(self.features)) * embedding_dim
        self.user_fusion = nn.Linear(width, embedding_dim)
        self.item_fusion = nn.Linear(width, embedding_dim)
        self.propagation = UserItemPropagation(num_layers)
        self.reset_parameters()

    @classmethod
    def published_train_config(cls) -> TrainConfig:
        """As for other models, with a weight decay of 1e-4."""
        return super().published_train_config().with_changes(weight_decay=1e-4)

    def reset_parameters(self) -> None:
        """Draws tables and the weights of all maps (Xavier-uniform) anew, and their biases."""
        self.reset_id_tables()
        reset(self.modalities)
        for fusion in (self.user_fusion, self.item_fusion):
            fusion.reset_parameters()
            nn.init.xavier_uniform_(fusion.weight)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Joined vectors of all users and items."""
        users, items = self._spaces(data, nodes)
        return self.user_fusion(torch.cat(users, dim=1)), self.item_fusion(torch.cat(items, dim=1))

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``nce`` (users with their items) and ``ssl`` (FAC of the batch's items)."""
        batch = batch.compact()
        users, items = self._spaces(data, batch.nodes)
        user = torch.cat([functional.embedding(batch.user, x) for x in users], dim=1)
        item = torch.cat([functional.embedding(batch.pos_item, x) for x in items], dim=1)
        joined = self.user_fusion(user), self.item_fusion(item)
        return {
            "nce": info_nce_loss(*joined, self.temperature),
            "ssl": self._fine_and_coarse(items, batch),
        }

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight 1 for ``nce``, ``ssl_weight`` for ``ssl``."""
        return {"nce": 1.0, "ssl": self.ssl_weight}

    def _spaces(self, data: HeteroData, nodes: Nodes | None) -> tuple[list[Tensor], list[Tensor]]:
        """Users and items of every space, that of the IDs first."""
        # One by one: all spaces side by side in one wider product take longer, and more memory.
        inputs = [self.item_embedding.weight, *(modality() for modality in self.modalities)]
        graph = self.user_item_graph(data)
        user_x = self.user_embedding.weight
        spaces = [self.propagation(user_x, x, graph, nodes=nodes) for x in inputs]
        return [user for user, _ in spaces], [item for _, item in spaces]

    def _fine_and_coarse(self, item_x: list[Tensor], batch: InteractionBatch) -> Tensor:
        distinct, counts = batch.pos_item.unique(return_counts=True)
        path = functional.embedding(distinct, item_x[0])
        spaces = [functional.embedding(distinct, x) for x in item_x[1:]]
        loss = path.new_zeros(())
        for modality, x in zip(self.modalities, spaces, strict=True):
            assert isinstance(modality, _Modality)
            path = modality.path_head(path)
            loss = loss + info_nce_loss(
                path,
                modality.head(x),
                self.ssl_temperature,
                counts=counts,
                normalize=False,
            )
        return loss


class _Modality(nn.Module):
    """A feature set: its map :math:`T_m` and FAC's :math:`g_m` (path) and :math:`g'_m`."""

    def __init__(self, table: FeatureTable, embedding_dim: int) -> None:
        super().__init__()
        self.table = table
        self.linear = nn.Linear(table.dim, embedding_dim)
        self.path_head = nn.Linear(embedding_dim, embedding_dim)
        self.head = nn.Linear(embedding_dim, embedding_dim, bias=False)

    def reset_parameters(self) -> None:
        self.table.reset_parameters()
        for part in (self.linear, self.path_head, self.head):
            part.reset_parameters()
            nn.init.xavier_uniform_(part.weight)

    def forward(self) -> Tensor:
        """Mapped features of all items, ``[num_items, embedding_dim]``."""
        features = self.table()
        # T norm(F) = (T F) / |F|: no second table
        length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        # a row of zeros, of an item without features, stays one and gets no gradient
        inverse = torch.where(length > 0, length.clamp(min=1e-12).reciprocal(), 0)
        return functional.linear(features, self.linear.weight) * inverse + self.linear.bias
