"""LGMRec: a local graph of links, and a global one of hyperedges that content defines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import HeteroData
from torch_geometric.nn.inits import reset

from alignrec_pyg.checks import check_integer
from alignrec_pyg.graph import ADDED, ITEM, InteractionBatch, Nodes, added_items
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import (
    FeatureTable,
    ItemPropagation,
    MessageFlow,
    UserItemPropagation,
    batch_rows,
    bpr_loss,
    dropout,
    embedding_norm_loss,
    rows_of,
    table_info_nce_loss,
    unit_rows,
)
from alignrec_pyg.nn.precision import in_float32


class _Vectors(NamedTuple):
    """Final vectors of the requested nodes, and the global ones of all, for each feature set."""

    user: Tensor
    item: Tensor
    global_user: list[Tensor]
    global_item: list[Tensor]


class LGMRec(Recommender):
    r"""`"LGMRec: Local and Global Graph Learning for Multimodal Recommendation"
    <https://arxiv.org/abs/2312.16400>`_ (AAAI 2024).

    **Local graph embedding.** IDs pass the user-item graph, and so does every feature set
    :math:`m`, whose users start as the means of their items:

    .. math::
        C = \operatorname{LGC}_L([E_U ; E_I]), \qquad
        G_m = \hat{A}^K [D_u^{-1} R F_m W_m ; F_m W_m] .

    **Global hypergraph embedding.** Features say how much an item belongs to each of :math:`A`
    hyperedges of its feature set, the sum over a user's items how much the user does:

    .. math::
        H_m^I = \delta\left( \operatorname{softmax}\frac{F_m V_m + g}{\tau_g} \right), \qquad
        H_m^U = \delta\left( \operatorname{softmax}\frac{R F_m V_m + g'}{\tau_g} \right),

    in training with Gumbel noise :math:`g, g'` and dropout :math:`\delta`, drawn anew for each
    batch. ID vectors of items pass the hyperedges, from :math:`Q_m^0 = C_I` on:

    .. math::
        Q_m^h = H_m^I \, {H_m^I}^\top Q_m^{h-1}, \qquad P_m^h = H_m^U \, {H_m^I}^\top Q_m^{h-1} .

    **Fusion and prediction.** With the last layers :math:`P_m, Q_m` and rows scaled to length 1,

    .. math::
        H = C + \sum_m \operatorname{norm}(G_m)
        + \alpha \operatorname{norm}\Big( \sum_m [P_m ; Q_m] \Big), \qquad
        \hat{y}_{ui} = h_u^\top h_i

    .. math::
        L = \operatorname{BPR}(\hat{y}_{ui}, \hat{y}_{uj}) + \lambda_{cl} \, \text{HCL}
        + \lambda \frac{\lVert h_u \rVert_F + \lVert h_i \rVert_F + \lVert h_j \rVert_F}{B} .

    HCL contrasts the feature sets in pairs: each user's (and positive item's) global vector of the
    first finds that of the second among those of **all** users (items), at temperature
    :math:`\tau`. It is a sum over the batch, not a mean, so its weight is small and its value
    large.

    **Differs from the paper:** as in the authors' code, which made the published figures: Gumbel
    instead of logistic noise, un-squared norms of the final rows instead of an L2 of all
    parameters, and one dropout mask for each table instead of one for each factor. The code has
    exactly two feature sets; here HCL is over all pairs, and absent with a single one. On Sports
    the code's log and its settings file disagree; ``published_hparams`` are the log's.

    **Published defect** (``faithful=True``): the noise is also drawn at inference, so that scores
    depend on it. That code draws it for every block of users, here it is drawn for each set of
    vectors, from the seed of the last batch (of a loaded model, from torch's global generator).

    **New items** receive messages from the hyperedges that their features assign them to. They
    differ only in their shares of :math:`A` vectors for each feature set, so rankings among new
    items are coarse.

    Args:
        data: Training graph; reads the sizes and the feature tables, which stay as they are.
        features: Feature sets :math:`m` (default: all).
        embedding_dim: Width :math:`d`.
        num_layers: Number of user-item layers :math:`L`.
        num_content_layers: Number of layers :math:`K` of the feature sets.
        num_hyper_layers: Number of hypergraph layers (1 to 4).
        num_hyperedges: Number of hyperedges :math:`A` of a feature set (4 or 64).
        dropout: Probability of zeroing an entry in :math:`\delta`; the published :math:`\rho` is
            the probability of keeping it (0.2 to 0.5).
        global_scale: Scale :math:`\alpha` of the global vectors (0.2 to 0.6).
        hcl_weight: Weight :math:`\lambda_{cl}` of HCL.
        reg_weight: Weight :math:`\lambda` of the norms.
        temperature: :math:`\tau` of HCL.
        gumbel_temperature: :math:`\tau_g` of the hyperedges' softmax.
        candidates: Vectors that HCL compares with: of ``"all"`` users (items), or of those of the
            ``"batch"``, which no published figure has and costs less.
        faithful: Whether inference draws noise as the published code does.

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features or an argument is out of range.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate")
    supports_new_items = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_content_layers: int = 2,
        num_hyper_layers: int = 1,
        num_hyperedges: int = 4,
        dropout: float = 0.5,
        global_scale: float = 0.3,
        hcl_weight: float = 1e-4,
        reg_weight: float = 1e-6,
        temperature: float = 0.2,
        gumbel_temperature: float = 0.2,
        candidates: Literal["all", "batch"] = "all",
        faithful: bool = False,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        check_integer("num_hyper_layers", num_hyper_layers, 1)
        check_integer("num_hyperedges", num_hyperedges, 1)
        self.add_id_tables()
        self.modalities = nn.ModuleList(
            _Modality(table, embedding_dim, num_hyperedges) for table in self.feature_tables(data)
        )
        self.propagation = UserItemPropagation(num_layers)
        self.content_propagation = ItemPropagation(num_content_layers)
        self.reset_parameters()

    @classmethod
    def published_hparams(cls, data_name: str) -> dict[str, Any]:
        """Those of the authors' logs."""
        published = {
            "baby": {},
            "sports": {"num_hyper_layers": 4, "dropout": 0.6, "global_scale": 0.6},
            "clothing": {
                "num_hyper_layers": 2,
                "num_hyperedges": 64,
                "dropout": 0.8,
                "global_scale": 0.2,
            },
        }
        if data_name not in published:
            return super().published_hparams(data_name)
        return {"faithful": True, **published[data_name]}

    def reset_parameters(self) -> None:
        """Draws tables and maps (all Xavier-uniform) anew."""
        self.reset_id_tables()
        reset(self.modalities)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Local and global vectors of users and items, fused."""
        vectors = self._vectors(data, nodes)
        return vectors.user, vectors.item

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr``, ``reg`` on the final rows and, with several feature sets, ``hcl``."""
        numbered = batch.compact()
        x = self._vectors(data, numbered.nodes)
        user, pos, neg = batch_rows(numbered, x.user, x.item)
        terms = {
            "bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1)),
            "reg": embedding_norm_loss(user, pos, neg),
        }
        if len(self.features) > 1:
            terms["hcl"] = self._contrast(x.global_user, batch.user) + self._contrast(
                x.global_item, batch.pos_item
            )
        return terms

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight 1 for ``bpr``, ``reg_weight`` and, with several feature sets, ``hcl_weight``."""
        weights = {"bpr": 1.0, "reg": self.reg_weight}
        return {**weights, "hcl": self.hcl_weight} if len(self.features) > 1 else weights

    def _vectors(self, data: HeteroData, nodes: Nodes | None) -> _Vectors:
        graph = self.user_item_graph(data)
        # Of all nodes, since hyperedges start from the IDs of all items.
        id_user, id_item = self.propagation(*self.id_tables, graph)
        item_m = torch.stack([modality() for modality in self.modalities], dim=1)  # [I, M, d + A]
        mean = self.item_to_user_graph(data, "row").matmul(item_m.flatten(1))
        user_m = mean.unflatten(1, item_m.shape[1:])
        widths = [self.embedding_dim, self.num_hyperedges]
        item_content, item_logits = item_m.split(widths, dim=-1)
        user_content, user_logits = user_m.split(widths, dim=-1)
        degree = self.link_graph(data, _degrees).unsqueeze(-1)  # a sum is so many means

        rows, users, items = None, None, None
        if nodes is not None:
            users, items = nodes.user, nodes.item
            rows = torch.cat([users, items + self.num_users])
        start = torch.cat([user_content, item_content]).flatten(1)
        flow = MessageFlow.build(graph, len(self.content_propagation.convs), rows)
        content = self.content_propagation(start, flow).unflatten(1, (-1, self.embedding_dim))
        local = torch.cat([rows_of(id_user, users), rows_of(id_item, items)])
        local = local + unit_rows(content).sum(1)

        global_user, global_item = self._global(data, degree * user_logits, item_logits, id_item)
        joined = torch.cat(
            [
                rows_of(torch.stack(global_user).sum(0), users),
                rows_of(torch.stack(global_item).sum(0), items),
            ]
        )
        fused = local + self.global_scale * unit_rows(joined)
        num_users = self.num_users if users is None else users.numel()
        return _Vectors(fused[:num_users], fused[num_users:], global_user, global_item)

    def _global(
        self, data: HeteroData, user_logits: Tensor, item_logits: Tensor, id_item: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Vectors of all users and items from the hyperedges, for each feature set."""
        noisy = self.training or self.faithful
        rate = self.dropout if self.training else 0.0
        generator = self.batch_generator(id_item.device)
        users, items = [], []
        for logits in zip(user_logits.unbind(1), item_logits.unbind(1), strict=True):
            user_edges, item_edges = (
                _assignments(x, self.gumbel_temperature, rate, noisy, generator).to(id_item.dtype)
                for x in logits
            )
            sending = item_edges
            if ADDED in data[ITEM]:  # new items receive messages and never send any
                sending = item_edges * ~added_items(data).unsqueeze(1)
            item = id_item
            for _ in range(self.num_hyper_layers):
                hyperedges = sending.t() @ item
                item = item_edges @ hyperedges
            users.append(user_edges @ hyperedges)
            items.append(item)
        return users, items

    def _contrast(self, tables: list[Tensor], nodes: Tensor) -> Tensor:
        nodes, counts = nodes.unique(return_counts=True)
        loss = tables[0].new_zeros(())
        for first, second in combinations(tables, 2):
            positive = nodes
            if self.candidates == "batch":
                second = functional.embedding(nodes, second)
                positive = torch.arange(nodes.numel(), device=nodes.device)
            loss = loss + table_info_nce_loss(
                functional.embedding(nodes, first),
                second,
                positive,
                self.temperature,
                counts=counts,
            )
        return loss


class _Modality(nn.Module):
    """A frozen feature table with its maps to the width of the model and to hyperedges."""

    def __init__(self, table: Tensor, embedding_dim: int, num_hyperedges: int) -> None:
        super().__init__()
        self.table = FeatureTable(table, trainable=False)
        self.content = nn.Linear(self.table.dim, embedding_dim, bias=False)
        self.hyperedges = nn.Linear(self.table.dim, num_hyperedges, bias=False)

    def reset_parameters(self) -> None:
        for part in (self.content, self.hyperedges):
            nn.init.xavier_uniform_(part.weight)

    def forward(self) -> Tensor:
        """Both side by side, ``[num_items, embedding_dim + num_hyperedges]``, in one product."""
        weight = torch.cat([self.content.weight, self.hyperedges.weight])
        return functional.linear(self.table(), weight)


@in_float32
def _assignments(
    logits: Tensor,
    temperature: float,
    rate: float,
    noisy: bool,
    generator: torch.Generator | None,
) -> Tensor:
    """Shares of nodes in hyperedges, ``[n, num_hyperedges]``; noisy ones are drawn."""
    if noisy:  # minus the logarithm of an exponential is Gumbel's
        drawn = torch.empty_like(logits).exponential_(generator=generator)
        logits = logits - drawn.log()
    shares = (logits / temperature).softmax(dim=-1)
    return dropout(shares, rate, generator) if rate > 0 else shares


def _degrees(edge_index: Tensor, num_users: int, num_items: int) -> Tensor:
    """Number of items of each user, ``[num_users, 1]``."""
    return torch.bincount(edge_index[0], minlength=num_users).float().unsqueeze(1)
