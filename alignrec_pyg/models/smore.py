"""SMORE: feature sets filtered in the Fourier domain, and a view of what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn.inits import reset
from torch_geometric.utils import coalesce

from alignrec_pyg.graph import InteractionBatch, Nodes, knn_edge_type
from alignrec_pyg.models.content import ContentRecommender, Representations
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.models.mgcn import mgcn_terms, sigmoid_gate
from alignrec_pyg.nn import (
    Adjacency,
    ItemPropagation,
    MessageFlow,
    UserItemPropagation,
    dropout,
)
from alignrec_pyg.nn.precision import in_float32, widened
from alignrec_pyg.train_config import TrainConfig


class SMORE(ContentRecommender):
    r"""`"Spectrum-based Modality Representation Fusion Graph Convolutional Network for Multimodal
    Recommendation" <https://arxiv.org/abs/2412.14978>`_ (WSDM 2025).

    **Spectrum modality fusion.** Every one of the :math:`M` feature sets is projected, and its
    spectrum :math:`\mathcal{F}`, the real Fourier transform along the :math:`d` entries of a row
    with "ortho" scaling, passes a filter :math:`w_m` that all items share; the product of all
    spectra passes another one, :math:`w_f`:

    .. math::
        X_m = T_m F_m, \qquad
        Y_m = \mathcal{F}^{-1}(w_m \odot \mathcal{F} X_m), \qquad
        Y_f = \mathcal{F}^{-1}\Big(w_f \odot \prod_m \mathcal{F} X_m\Big) .

    **Multi-modal graph learning.** Item IDs gated by each of the :math:`M + 1` views pass its item
    graph and are gathered into users; IDs pass the user-item graph:

    .. math::
        K_v = E_I \odot g_v(Y_v), \qquad
        \bar{X}_v = [\hat{R} S_v^{L_s} K_v ; S_v^{L_s} K_v], \qquad
        C = \operatorname{LGC}_L([E_U ; E_I]),

    with gates :math:`g_v` and :math:`q_v` (a linear layer and a sigmoid) and
    :math:`\hat{R} = D_u^{-1/2} R D_i^{-1/2}`. The edges of :math:`S_f` are those of all
    :math:`S_m`, each with the largest of its weights.

    **Modality-aware preference.** The fusion view attends to the entries of the others, and gates
    computed from the IDs weight each of them (:math:`\delta`: dropout):

    .. math::
        \alpha_m = \operatorname{softmax}_{1..d}\left( W'_m \tanh(W_m \bar{X}_f + b_m) \right),
        \quad
        Z = \frac{1}{M + 1} \Big( \delta(q_f(C)) \odot \bar{X}_f
        + \sum_m \delta(q_m(C)) \odot \alpha_m \odot \bar{X}_m \Big), \quad H = C + Z .

    Scores are :math:`h_u^\top h_i`, and the loss is :class:`MGCN`'s,

    .. math::
        L = \operatorname{BPR}(h_u^\top h_i, h_u^\top h_j)
        + \lambda_{cl} \left[ \operatorname{NCE}_\tau(z_i, c_i)
        + \operatorname{NCE}_\tau(z_u, c_u) \right] + \lambda_2 \lVert h \rVert^2 / 2B .

    The published :math:`S_m` is ``KNNItemGraph(m, k, weighting="cosine")`` with a :math:`k` for
    each feature set: of images and texts 40 and 15 on Baby, 10 and 10 on Sports, 40 and 10 on
    Clothing. Comparisons and sweeps build all graphs with one :math:`k`.

    **Differs from the paper:** the equations are those of the authors' code, whose attention is a
    softmax over the :math:`d` entries of a row: a feature set's view enters about :math:`d` times
    smaller than the fusion view at first. It has exactly two feature sets; here the product, the
    largest weight and the mean are over any number. Imaginary parts of the first bin, and for even
    :math:`d` of the last, have no effect. Dropout masks are drawn for the nodes that a batch reads.

    Args:
        data: Training graph; reads the sizes, the feature tables and the item graphs.
        features: Feature sets :math:`m` (default: all).
        item_graphs: Name of :math:`S_m` for each of them (default: the feature sets' names).
        embedding_dim: Width :math:`d`.
        num_layers: Number of user-item layers :math:`L` (3 or 4).
        num_item_layers: Number of item graph layers :math:`L_s`.
        dropout: Probability of zeroing an entry of a gate :math:`q` (0 or 0.1).
        cl_weight: Weight :math:`\lambda_{cl}` of the contrastive term.
        l2_weight: Weight :math:`\lambda_2` of the L2 term (1e-5 or 1e-4).
        temperature: :math:`\tau` of the contrastive term.
        freeze_features: Whether the feature tables stay as they are
            (``None``: above a million items).

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features or a graph, or an option is out of range.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate", item_graph="per_table")
    supports_new_items = True
    supports_neighbor_sampling = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        item_graphs: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 3,
        num_item_layers: int = 1,
        dropout: float = 0.0,
        cl_weight: float = 0.01,
        l2_weight: float = 1e-4,
        temperature: float = 0.2,
        freeze_features: bool | None = None,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        self.add_id_tables()
        self.modalities = self.feature_projections(data)
        num_views = len(self.features) + 1  # the fusion view is the last
        # real and imaginary parts
        self.filters = nn.Parameter(torch.empty(num_views, embedding_dim // 2 + 1, 2))
        self.gates = nn.ModuleList(sigmoid_gate(embedding_dim) for _ in range(num_views))
        self.preferences = nn.ModuleList(sigmoid_gate(embedding_dim) for _ in range(num_views))
        self.attentions = nn.ModuleList(_attention(embedding_dim) for _ in self.features)
        self.propagation = UserItemPropagation(num_layers)
        self.item_propagation = ItemPropagation(num_item_layers)
        self.reset_parameters()

    @classmethod
    def published_train_config(cls) -> TrainConfig:
        """As for other models, with a learning rate that falls by 4 % in 50 epochs."""
        usual = super().published_train_config()
        return usual.with_changes(lr_decay=0.96, lr_decay_epochs=50)

    @classmethod
    def published_hparams(cls, data_name: str) -> dict[str, Any]:
        """The authors' settings of Table 2, but for the neighbours in the item graphs."""
        return {
            "baby": {"num_layers": 4, "dropout": 0.1},
            "sports": {"cl_weight": 0.03},
            "clothing": {"l2_weight": 1e-5},
        }.get(data_name, {})

    def reset_parameters(self) -> None:
        """Draws tables (Xavier-uniform), filters (normal) and linear layers anew."""
        self.reset_id_tables()
        nn.init.normal_(self.filters)
        for part in (self.modalities, self.gates, self.preferences, self.attentions):
            reset(part)

    def representations(self, data: HeteroData, nodes: Nodes | None = None) -> Representations:
        """Propagated IDs :math:`C` and the fused views :math:`Z`."""
        graph = self.user_item_graph(data)
        id_user, id_item = self.propagation(*self.id_tables, graph, nodes=nodes)
        to_users = self.item_to_user_aggregation(data, nodes)
        sampling = None if nodes is None else nodes.sampling
        spectra = self._spectra() if sampling is None else None  # of all items, for all views
        views = []
        for view, graph in enumerate(self._item_graphs(data)):
            flow = MessageFlow.build(graph, self.num_item_layers, to_users.items, sampling)
            read = self._spectra(flow.source) if spectra is None else spectra
            spectrum = read[view] if view < len(read) else reduce(torch.mul, read)
            filtered = _filtered(spectrum, self.filters[view], self.embedding_dim)
            purified = self.item_ids(flow.source) * self.gates[view](filtered)
            views.append(self.item_propagation(purified, flow))
        user_views, item_views = to_users(torch.cat(views, dim=1))  # all views at once
        generator = self.batch_generator(id_user.device)
        content_user = self._fused_views(user_views, id_user, generator)
        content_item = self._fused_views(item_views, id_item, generator)
        return Representations(id_user, id_item, content_user, content_item)

    def terms(self, batch: InteractionBatch, x: Representations) -> dict[str, Tensor]:
        """``bpr``, ``cl`` (content with IDs) and ``l2``."""
        return mgcn_terms(batch, x, self.fuse(x), self.temperature)

    def _spectra(self, items: Tensor | None = None) -> list[Tensor]:
        """Of each feature set, for some items or all, complex ``[n, d // 2 + 1]``."""
        return [_spectrum(modality(items)) for modality in self.modalities]

    def _item_graphs(self, data: HeteroData) -> list[Adjacency]:
        """The item graph of each feature set, and their union."""
        edges = [data[knn_edge_type(name)] for name in self.item_graphs]
        sources = tuple(x for graph in edges for x in (graph.edge_index, graph.edge_weight))
        union = self.prepared_graph("union", sources, lambda: self._union(sources))
        return [*(self.item_item_graph(data, name) for name in self.item_graphs), union]

    def _union(self, sources: tuple[Tensor, ...]) -> Adjacency:
        edge_index, weight = torch.cat(sources[::2], dim=1), torch.cat(sources[1::2])
        edge_index, weight = coalesce(edge_index, weight, self.num_items, reduce="max")
        return Adjacency.from_edges(edge_index, weight, self.num_items, self.num_items)

    def _fused_views(self, views: Tensor, ids: Tensor, generator: torch.Generator | None) -> Tensor:
        r""":math:`Z` of views :math:`(N, (M + 1) d)` and IDs :math:`(N, d)`."""
        *own, fusion = views.unflatten(1, (len(self.preferences), -1)).unbind(1)
        attended = [
            attention(fusion).softmax(dim=-1) * view
            for attention, view in zip(self.attentions, own, strict=True)
        ]
        parts = []
        for preference, view in zip(self.preferences, [*attended, fusion], strict=True):
            gate = preference(ids)
            if self.training and self.dropout > 0:
                gate = dropout(gate, self.dropout, generator)
            parts.append(gate * view)
        return torch.stack(parts).mean(0)


def _attention(embedding_dim: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(embedding_dim, embedding_dim),
        nn.Tanh(),
        nn.Linear(embedding_dim, embedding_dim, bias=False),
    )


@in_float32  # the Fourier transforms take no lower precision
def _spectrum(x: Tensor) -> Tensor:
    return torch.fft.rfft(widened(x), norm="ortho")


@in_float32
def _filtered(spectrum: Tensor, weight: Tensor, width: int) -> Tensor:
    product = torch.view_as_complex(widened(weight)) * spectrum
    return torch.fft.irfft(product, n=width, norm="ortho").to(weight.dtype)
