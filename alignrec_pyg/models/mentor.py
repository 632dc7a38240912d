"""MENTOR: content propagates by feature set, and the moments of all sets are aligned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn.inits import reset

from alignrec_pyg.checks import check_integer
from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import (
    FeatureTable,
    UserItemPropagation,
    batch_rows,
    bpr_loss,
    cosine_alignment_loss,
    dropout,
    node_info_nce_loss,
    signed_noise,
    unit_rows,
)
from alignrec_pyg.nn.precision import in_float32
from alignrec_pyg.train_config import TrainConfig

_NUM_LAYERS = 2
_NOISE = 0.1


class MENTOR(Recommender):
    r"""`"MENTOR: Multi-level Self-supervised Learning for Multimodal Recommendation"
    <https://arxiv.org/abs/2402.19407>`_ (AAAI 2025).

    **Encoders.** Every feature set :math:`m` of the :math:`M`, and the IDs, have free vectors
    :math:`P_m` of the users and two maps of the items' inputs :math:`F_m`, of the IDs a free table
    :math:`E`, which pass the user-item graph (:math:`\phi`: leaky ReLU of slope 0.01, norm: every
    row to length 1); items also receive messages from their neighbours in the item graph :math:`S`:

    .. math::
        X_m^0 = \operatorname{norm}([P_m ; \phi(F_m A_m + a_m) B_m + b_m]), \qquad
        X_m = \sum_{l=0}^{2} \hat{A}^l X_m^0, \qquad
        X_m \gets [X_m^U ; X_m^I + S X_m^I] .

    **Scores** are of the feature sets side by side, with a weight :math:`w_{um}` of each for each
    user; no ID vector enters them:

    .. math::
        x_u = [w_{u1} X_{1,u} \Vert \dots \Vert w_{uM} X_{M,u}], \qquad
        x_i = [X_{1,i} \Vert \dots \Vert X_{M,i}], \qquad \hat{y}_{ui} = x_u^\top x_i

    .. math::
        L = \operatorname{BPR}(\hat{y}_{ui}, \hat{y}_{uj}) + \lambda_r \Big[
        \sum_{m \neq id} \operatorname{mean}(P_{m,u}^2) + \operatorname{mean}(w^2) \Big]
        + \lambda_a \, \text{align} + \lambda_f \, \text{mask} + \lambda_g \, \text{graph} .

    **Multi-level alignment.** Over all pairs of the tables :math:`X_{id}, X_1, \dots, X_M` and the
    scores' :math:`x`, with mean and variance of *all* entries of a table,

    .. math::
        \text{align} = \sum \lvert \operatorname{var} - \operatorname{var}' \rvert
        + \lvert \operatorname{mean} - \operatorname{mean}' \rvert .

    **Feature masking**, over all users and all items, with a linear map :math:`p` and dropout:

    .. math::
        \text{mask} = [1 - \operatorname{mean} \cos(\operatorname{sg} \delta(x_u), p(x_u))]
        + [1 - \operatorname{mean} \cos(\operatorname{sg} \delta(x_i), p(x_i))] .

    **Graph perturbation.** In two views of :math:`x`, every hop adds to its output :math:`h` the
    noise :math:`0.1 \operatorname{sign}(h) \odot \operatorname{norm}(n)`, with :math:`n` uniform;
    over the distinct users and positive items of the batch,

    .. math::
        \text{graph} = \operatorname{NCE}_\tau(x_u', x_u'') + \operatorname{NCE}_\tau(x_i', x_i'') .

    :math:`w` starts as a softmax and is free then. The published :math:`S` is
    ``KNNItemGraph({"image": 0.1, "text": 0.9}, weighting="binary")``.

    **Published defects** (``faithful=True``): (1) both sides of the masking are computed without
    gradient, so it is a constant, which is left out, and :math:`\lambda_f` and the dropout have no
    effect; (2) the views of the graph perturbation have encoders of their own and share only
    :math:`w` with the scores, which is left out, too: the effect of :math:`\lambda_g` on
    :math:`w` is missing here; (3) BPR is in base-2 logarithms, which makes it :math:`1/\ln 2`
    times as large against the other terms; (4) the tables of the single feature sets and of the
    IDs are repeated to the width of the scores before their variances are taken. In any case
    scores come from the trained parameters, where that code takes those that its last training
    batch began with.

    **Differs from the paper:** the defaults of the terms (1) and (2) are what the paper means them
    to do, at the published weights, which were chosen with the defects; the published contrast is
    over all users and all items, here over those of the batch. The code also makes a graph of users
    that no equation reads.

    Args:
        data: Training graph; reads the sizes, the feature tables and the item graph.
        features: Feature sets :math:`m`, which stay as they are (default: all).
        item_graph: Name of :math:`S` (default: the only one).
        embedding_dim: Width :math:`d` of each feature set.
        latent_dim: Width between the two maps of the features.
        dropout: Probability of zeroing an entry in the masking (searched over 0.1 to 0.7).
        reg_weight: Weight :math:`\lambda_r` of the squares.
        align_weight: Weight :math:`\lambda_a` of the alignment (searched over 0.1 to 0.3).
        mask_weight: Weight :math:`\lambda_f` of the masking (searched over 0.5 to 2.5).
        graph_weight: Weight :math:`\lambda_g` of the perturbation (searched over 1e-4 to 1e-2).
        temperature: :math:`\tau` of the perturbation (searched over 0.1 to 0.8).
        faithful: Whether to train as the published code does.

    Shapes:
        - **input:** features :math:`(|I|, F_m)`
        - **output:** users :math:`(|U|, M d)`, items :math:`(|I|, M d)`

    Raises:
        ValueError: If ``data`` lacks the features or the graph, or an argument is out of range.
    """  # noqa: D205

    inputs = ModelInputs(
        tables="separate",
        item_graph="one",
        weighting="binary",
        table_weights={"image": 0.1, "text": 0.9},
    )
    supports_new_items = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        item_graph: str | None = None,
        embedding_dim: int = 64,
        latent_dim: int = 256,
        dropout: float = 0.5,
        reg_weight: float = 1e-3,
        align_weight: float = 0.1,
        mask_weight: float = 1.5,
        graph_weight: float = 1e-3,
        temperature: float = 0.2,
        faithful: bool = False,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        check_integer("latent_dim", latent_dim, 1)
        num_encoders = len(self.features) + 1  # that of the IDs is the last
        # the P_m side by side: one propagation serves all encoders
        self.user_embedding = nn.Embedding(self.num_users, num_encoders * embedding_dim)
        self.item_embedding = nn.Embedding(self.num_items, embedding_dim)
        self.modality_weight = nn.Parameter(torch.empty(self.num_users, len(self.features)))
        self.tables = nn.ModuleList(
            FeatureTable(table, trainable=False) for table in self.feature_tables(data)
        )
        widths = [*(table.size(1) for table in self.feature_tables(data)), embedding_dim]
        self.encoders = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, latent_dim), nn.LeakyReLU(), nn.Linear(latent_dim, embedding_dim)
            )
            for width in widths
        )
        score_dim = len(self.features) * embedding_dim
        self.predictor = None if faithful else nn.Linear(score_dim, score_dim)
        self.propagation = UserItemPropagation(_NUM_LAYERS)
        self.reset_parameters()

    @classmethod
    def published_train_config(cls) -> TrainConfig:
        """As for other models, with learning rate 1e-4."""
        return super().published_train_config().with_changes(lr=1e-4)

    def reset_parameters(self) -> None:
        """Draws tables and weights (Xavier-normal; softmax of the weights) and maps anew."""
        with torch.no_grad():
            for preference in self.user_embedding.weight.split(self.embedding_dim, dim=1):
                nn.init.xavier_normal_(preference)
            nn.init.xavier_normal_(self.item_embedding.weight)
            nn.init.xavier_normal_(self.modality_weight)
            self.modality_weight.copy_(self.modality_weight.softmax(dim=1))
        reset(self.encoders)
        if self.predictor is not None:
            self.predictor.reset_parameters()

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Vectors of the feature sets side by side, users' weighted."""
        user, item = self._scored(*self._propagated(data, *self._starts(len(self.features))))
        return (user, item) if nodes is None else (user[nodes.user], item[nodes.item])

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """``bpr``, ``reg``, ``align`` and, unless ``faithful``, ``mask`` and ``graph``."""
        # All nodes are computed, since moments and masking are of whole tables.
        start = self._starts(len(self.encoders))
        tables = self._propagated(data, *start)
        user_x, item_x = self._scored(*(table[:, :-1] for table in tables))
        user, pos, neg = batch_rows(batch, user_x, item_x)
        bpr = bpr_loss((user * pos).sum(-1), (user * neg).sum(-1))
        shape = (len(self.encoders), self.embedding_dim)
        squares = self.user_embedding(batch.user).unflatten(1, shape)[:, :-1].square().sum()
        terms = {
            "bpr": bpr / math.log(2) if self.faithful else bpr,
            "reg": squares / (batch.user.numel() * self.embedding_dim)
            + self.modality_weight.square().mean(),
            "align": self._alignment(torch.cat(tables), torch.cat([user_x, item_x])),
        }
        if self.predictor is not None:
            generator = self.batch_generator(user.device)
            masked = [
                cosine_alignment_loss(
                    dropout(x.detach(), self.dropout, generator), self.predictor(x)
                )
                for x in (user_x, item_x)
            ]
            terms["mask"] = masked[0] + masked[1]
            content = start[0][:, :-1], start[1][:, :-1]
            one, other = (self._view(data, *content, generator) for _ in range(2))
            terms["graph"] = node_info_nce_loss(
                batch.user, one[0], other[0], self.temperature
            ) + node_info_nce_loss(batch.pos_item, one[1], other[1], self.temperature)
        return terms

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight 1 for ``bpr``, the arguments' for the others."""
        weights = {"bpr": 1.0, "reg": self.reg_weight, "align": self.align_weight}
        perturbed = {"mask": self.mask_weight, "graph": self.graph_weight}
        return weights if self.faithful else {**weights, **perturbed}

    def _starts(self, number: int) -> tuple[Tensor, Tensor]:
        r"""The first ``number`` of :math:`X_m^0`, users and items, ``[n, number, d]``."""
        shape = (len(self.encoders), self.embedding_dim)
        users = self.user_embedding.weight.unflatten(1, shape)[:, :number]
        inputs = [*(table() for table in self.tables), self.item_embedding.weight]
        items = [encoder(x) for encoder, x in zip(self.encoders, inputs[:number], strict=False)]
        return unit_rows(users), unit_rows(torch.stack(items, dim=1))

    def _propagated(self, data: HeteroData, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of the layers; items with their neighbours'."""
        shape = user.shape[1:]
        graph = self.user_item_graph(data)
        user, item = self.propagation(user.flatten(1), item.flatten(1), graph)
        user, item = (_NUM_LAYERS + 1) * user, (_NUM_LAYERS + 1) * item  # it gives the mean
        item = item + self.item_item_graph(data, self.item_graph).matmul(item)
        return user.unflatten(1, shape), item.unflatten(1, shape)

    def _view(
        self, data: HeteroData, user: Tensor, item: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The vectors that are scored, with noise in every hop."""
        graph = self.user_item_graph(data)
        x = out = torch.cat([user, item])
        for _ in range(_NUM_LAYERS):
            x = graph.matmul(x.flatten(1)).unflatten(1, x.shape[1:])
            x = signed_noise(x, _NOISE, generator)
            out = out + x
        user, item = out.split([self.num_users, self.num_items])
        heard = self.item_item_graph(data, self.item_graph).matmul(item.flatten(1))
        return self._scored(user, item + heard.unflatten(1, item.shape[1:]))

    def _scored(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
        """Feature sets side by side, users' weighted, from ``[n, M, d]`` to ``[n, M d]``."""
        return (self.modality_weight.unsqueeze(-1) * user).flatten(1), item.flatten(1)

    def _alignment(self, tables: Tensor, scored: Tensor) -> Tensor:
        """Distances of the moments of ``tables``, ``[N, M + 1, d]``, and of what is scored."""
        repeats = len(self.features) if self.faithful else 1
        moments = [*(_moments(table, repeats) for table in tables.unbind(1)), _moments(scored, 1)]
        distances = [(x - y).abs().sum() for x, y in combinations(moments, 2)]
        return torch.stack(distances).sum()


@in_float32
def _moments(x: Tensor, repeats: int) -> Tensor:
    """Mean and unbiased variance of all entries, each of which occurs ``repeats`` times."""
    variance, mean = torch.var_mean(x)
    number = x.numel()
    return torch.stack([mean, variance * repeats * (number - 1) / (repeats * number - 1)])
