"""LATTICE: items also receive messages from their neighbours in a learned item graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.graph import (
    ADDED,
    ITEM,
    InteractionBatch,
    Nodes,
    added_items,
    content_hash,
    feature_mask,
    knn_edge_type,
)
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import (
    EdgeStructure,
    UserItemPropagation,
    batch_rows,
    bpr_loss,
    edge_dot,
    l2_loss,
    rows_of,
    self_loop_adjacency,
    weighted_matmul,
)
from alignrec_pyg.nn.knn_search import cosine_neighbors
from alignrec_pyg.train_config import TrainConfig

_NO_EPOCH = -1


class _ItemEdges(NamedTuple):
    """The union of all item graphs; ``learned`` holds the union's edge at ``[M, I, k]``."""

    structure: EdgeStructure
    learned: Tensor
    frozen: list[Tensor]


class LATTICE(Recommender):
    r"""`"Mining Latent Structures for Multimedia Recommendation"
    <https://arxiv.org/abs/2104.09036>`_ (MM 2021).

    Every feature set :math:`m` gives two item graphs: :math:`\tilde{A}_m` of its raw features,
    which stays as it is, and :math:`C_m`, the cosines of each item's :math:`k` nearest in the
    projected features :math:`T_m F_m`, which is learned. Softmax weights :math:`\omega` of the
    feature sets mix them:

    .. math::
        A = \lambda_f \sum_m \omega_m \tilde{A}_m
        + (1 - \lambda_f) \, D^{-1/2} \Big( \sum_m \omega_m C_m \Big) D^{-1/2},

    with :math:`D` the row sums of the matrix it normalises. IDs spread over the user-item graph,
    :math:`\tilde{D}^{-1}(R + I)`, and over :math:`A`:

    .. math::
        [U ; I'] = \operatorname{LGC}_L([E_U ; E_I]), \qquad
        I = I' + \operatorname{norm}(A^{L_s} E_I), \qquad \hat{y}_{ui} = u^\top i

    .. math::
        L = \operatorname{BPR}(\hat{y}_{ui}, \hat{y}_{uj})
        + \lambda \frac{\lVert u \rVert^2 + \lVert i \rVert^2 + \lVert j \rVert^2}{2B}

    :math:`A` is made anew in the first batch of every epoch, which alone trains :math:`T_m`,
    :math:`F_m` and :math:`\omega` (not through the choice of neighbours); it is a constant for the
    rest of the epoch, as in the authors' code. Inference computes it from the current weights, and
    caches it until they change. The state of a model includes the epoch's neighbours and cosines,
    so that training resumes exactly within an epoch.

    No matrix of items x items is held. A row sum that negative cosines pull to zero or below counts
    positive ones only. An item without a feature set (masked), or added after
    training, is its own only neighbour in :math:`C_m`.
    **Differs from the paper:** the user-item graph and the L2 of final rows are those of the
    authors' code.

    Args:
        data: Training graph; reads the sizes, the feature tables and their item graphs.
        features: Feature sets :math:`m` (default: all).
        item_graphs: Names of :math:`\tilde{A}_m`, one for each feature set (default: the names of
            the feature sets); the paper's are ``KNNItemGraph(name, k=10, weighting="cosine")``.
        embedding_dim: Width :math:`d`.
        num_layers: Number of user-item layers :math:`L`.
        num_item_layers: Number of item graph layers :math:`L_s`.
        num_neighbors: Neighbours :math:`k` of an item in :math:`C_m`, itself included; all items
            where there are fewer.
        frozen_share: Share :math:`\lambda_f` of the graphs of the raw features.
        l2_weight: Weight :math:`\lambda` of the L2 term (searched over 0 to 1e-3).
        freeze_features: Whether the feature tables stay as they are
            (``None``: above a million items).

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features or their graphs, or an argument is out of range.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate", item_graph="per_table")
    supports_new_items = True
    not_copied = ("_inference_inputs",)

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        item_graphs: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        num_neighbors: int = 10,
        frozen_share: float = 0.9,
        l2_weight: float = 1e-4,
        freeze_features: bool | None = None,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        check_integer("num_neighbors", num_neighbors, 1)
        check_number("frozen_share", frozen_share, least=0, most=1)
        self.add_id_tables()
        self.modalities = self.feature_projections(data)
        self.modality_logits = nn.Parameter(torch.empty(len(self.features)))
        self.propagation = UserItemPropagation(num_layers)
        lacking = torch.stack([feature_mask(data, name) for name in self.features])
        if ADDED in data[ITEM]:
            lacking = lacking | added_items(data)
        self.register_buffer("_lacking", lacking, persistent=False)
        # The epoch's graph: what batches after its first need, also when training is resumed there.
        size = (len(self.features), self.num_items, min(num_neighbors, self.num_items))
        self.register_buffer("_neighbors", torch.zeros(size, dtype=torch.int32))
        self.register_buffer("_cosines", torch.zeros(size))
        self.register_buffer("_shares", torch.zeros(len(self.features)))
        self.register_buffer("_epoch", torch.full((), _NO_EPOCH))
        self._batches_of_epoch = 0
        self._loaded = False
        self._inference_inputs: Tensor | None = None
        self._data_hashes["features lacking"] = content_hash(self._lacking)
        self.reset_parameters()

    @classmethod
    def published_train_config(cls) -> TrainConfig:
        """As for other models, with a learning rate that falls by 4 % in 50 epochs."""
        usual = super().published_train_config()
        return usual.with_changes(lr_decay=0.96, lr_decay_epochs=50)

    def reset_parameters(self) -> None:
        """Draws tables (Xavier-uniform) and projections anew; equal weights of feature sets."""
        self.reset_id_tables()
        nn.init.constant_(self.modality_logits, 0.5)
        self.modalities.reset_parameters()
        self._epoch.fill_(_NO_EPOCH)
        self._batches_of_epoch = 0

    def train(self, mode: bool = True) -> LATTICE:
        """Sets the mode; evaluation mode ends the epoch."""
        if not mode and int(self._epoch) != _NO_EPOCH:  # only what trains may be written to
            self._epoch.fill_(_NO_EPOCH)
            self._graphs.pop("epoch_items", None)
        super().train(mode)
        return self

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """As in torch; a state that was saved within an epoch continues that epoch."""
        self._loaded = True
        return super().load_state_dict(*arguments, **options)

    def on_epoch_start(self, data: HeteroData, generator: torch.Generator) -> None:
        """Begins an epoch; if restored within this epoch, keeps the restored item graph."""
        epoch = generator.initial_seed() & (2**63 - 1)
        resumed = self._loaded and int(self._epoch) == epoch
        self._loaded = False
        self._inference_inputs = None
        for past in ("items", "epoch_items"):
            self._graphs.pop(past, None)
        self._epoch.fill_(epoch)
        self._batches_of_epoch = 1 if resumed else 0

    def on_batch_start(self, generator: torch.Generator) -> None:
        """Counts the batches: the first one of an epoch makes the graph."""
        self._batches_of_epoch += 1

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Propagates over the known links and over the learned item graph."""
        graph = self.link_graph(data, self_loop_adjacency)
        user, item = self.propagation(*self.id_tables, graph, nodes=nodes)
        structure, weight = self._learned_item_graph(data)
        items, neighbors = None if nodes is None else nodes.item, self.item_embedding.weight
        for _ in range(self.num_item_layers - 1):
            neighbors = weighted_matmul(structure, weight, neighbors)
        if self.num_item_layers:
            last = structure if items is None else structure.rows(items)
            neighbors = weighted_matmul(last, weight, neighbors)
        else:
            neighbors = rows_of(neighbors, items)
        return user, item + normalize(neighbors)

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr`` and ``l2`` on the final rows of the batch."""
        batch = batch.compact()
        user, pos, neg = batch_rows(batch, *self(data, batch.nodes))
        return {
            "bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1)),
            "l2": l2_loss(user, pos, neg, batch_size=batch.full_size),
        }

    def _learned_item_graph(self, data: HeteroData) -> tuple[EdgeStructure, Tensor]:
        """The graph :math:`A` as edges and their weights."""
        graphs = [data[knn_edge_type(name)] for name in self.item_graphs]
        frozen = tuple(x for graph in graphs for x in (graph.edge_index, graph.edge_weight))
        if self.training and self._batches_of_epoch > 1:
            kept = (self._neighbors, self._cosines, self._shares)
            return self.prepared_graph(
                "epoch_items", (*kept, *frozen), lambda: self._kept_graph(data)
            )
        if self.training:
            return self._new_graph(data, self._projected(), keep=True)
        with torch.no_grad():
            projected = self._projected()
            # By content: a fused optimiser changes weights without raising their version.
            inputs = torch.cat(
                [*projected, self.modality_logits.expand(self.embedding_dim, -1).t()]
            )
            known = self._inference_inputs
            if known is None or known.device != inputs.device or not torch.equal(known, inputs):
                self._graphs.pop("items", None)
                self._inference_inputs = inputs
            return self.prepared_graph(
                "items", frozen, lambda: self._new_graph(data, projected, keep=False)
            )

    def _projected(self) -> list[Tensor]:
        """Every feature set in the model's width, ``[I, d]``."""
        return [modality() for modality in self.modalities]

    def _new_graph(
        self, data: HeteroData, projected: list[Tensor], *, keep: bool
    ) -> tuple[EdgeStructure, Tensor]:
        """:math:`A` from the current weights, differentiable."""
        neighbors = torch.stack(
            [self._nearest(x.detach(), m) for x, m in zip(projected, self._lacking, strict=True)]
        )
        edges = self._item_edges(data, neighbors)
        shares = self.modality_logits.softmax(0)
        learned = []
        for x, position in zip(projected, edges.learned, strict=True):
            unit = normalize(x)
            cosine = edge_dot(edges.structure, unit, unit)
            chosen = torch.zeros_like(cosine).index_fill(0, position.flatten(), 1.0)
            learned.append(cosine * chosen)
        if keep:
            with torch.no_grad():
                self._neighbors.copy_(neighbors)
                self._cosines.copy_(
                    torch.stack([c[p] for c, p in zip(learned, edges.learned, strict=True)])
                )
                self._shares.copy_(shares)
        return edges.structure, self._mixed(edges, learned, shares)

    def _kept_graph(self, data: HeteroData) -> tuple[EdgeStructure, Tensor]:
        """:math:`A` as computed in the first batch of the epoch, a constant."""
        edges = self._item_edges(data, self._neighbors.long())
        learned = []
        for cosine, position in zip(self._cosines, edges.learned, strict=True):
            value = cosine.new_zeros(edges.structure.num_edges)
            learned.append(value.index_copy_(0, position.flatten(), cosine.flatten()))
        return edges.structure, self._mixed(edges, learned, self._shares)

    def _nearest(self, x: Tensor, lacking: Tensor) -> Tensor:
        """Neighbours of each item, int64 ``[I, k]``, filled up with the item itself."""
        row = torch.arange(self.num_items, device=x.device)
        neighbors = row.unsqueeze(1).repeat(1, self._neighbors.size(2))
        present = (~lacking).nonzero()[:, 0]
        k = min(neighbors.size(1), present.numel())
        if k > 0:
            neighbors[present, :k] = present[cosine_neighbors(x[present], k)[0]]
        return neighbors

    def _item_edges(self, data: HeteroData, neighbors: Tensor) -> _ItemEdges:
        graphs = [data[knn_edge_type(name)] for name in self.item_graphs]
        row = torch.arange(self.num_items, device=neighbors.device)
        own = torch.stack([neighbors, row.unsqueeze(1).expand_as(neighbors)]).flatten(1)
        source, target = torch.cat([own, *(graph.edge_index for graph in graphs)], dim=1)
        key, position = (target * self.num_items + source).unique(return_inverse=True)
        edge_index = torch.stack([key % self.num_items, key // self.num_items])
        structure = EdgeStructure.from_edges(edge_index, self.num_items, self.num_items)
        sizes = [neighbors.numel(), *(graph.edge_weight.numel() for graph in graphs)]
        learned, *places = position.split(sizes)
        frozen = []
        for graph, place in zip(graphs, places, strict=True):
            weight = graph.edge_weight.to(self._cosines.dtype)
            frozen.append(weight.new_zeros(key.numel()).index_add_(0, place, weight))
        return _ItemEdges(structure, learned.view(neighbors.shape), frozen)

    def _mixed(self, edges: _ItemEdges, learned: list[Tensor], shares: Tensor) -> Tensor:
        structure = edges.structure
        cosine = torch.stack(learned, dim=1) @ shares
        one = cosine.new_ones(self.num_items, 1)
        row_sum = weighted_matmul(structure, cosine, one)
        positive_sum = weighted_matmul(structure, cosine.clamp(min=0), one)
        scale = torch.where(row_sum > 0, row_sum, positive_sum).rsqrt()
        normalized = cosine * edge_dot(structure, scale, scale)
        frozen = torch.stack(edges.frozen, dim=1) @ shares
        return self.frozen_share * frozen + (1 - self.frozen_share) * normalized
