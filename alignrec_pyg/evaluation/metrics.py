"""All-ranking evaluation for any model, on top of its ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import (
    LinkPredHitRatio,
    LinkPredMAP,
    LinkPredMetricCollection,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)

from alignrec_pyg.checks import check_cut_offs, check_integer
from alignrec_pyg.evaluation.ranking import Ranking, rank, rank_blocks, row_slice
from alignrec_pyg.graph import INTERACTS, known_pairs, links_to_predict
from alignrec_pyg.models import Recommender

_METRICS = {
    "recall": LinkPredRecall,
    "ndcg": LinkPredNDCG,
    "hit": LinkPredHitRatio,
    "precision": LinkPredPrecision,
    "map": LinkPredMAP,
    "mrr": LinkPredMRR,
}
# Ranked items that are looked up at a time.
_BLOCK_ITEMS = 1 << 22


class UserMetrics(NamedTuple):
    """Metrics of every scored user, for paired tests and group means.

    Shapes:
        - **user:** int64 :math:`(n)`, ascending
        - **recall, ndcg:** float32 :math:`(n)`
    """

    user: Tensor
    recall: Tensor
    ndcg: Tensor


def evaluate(
    model: Recommender,
    data: HeteroData,
    ks: int | Sequence[int] = (10, 20),
    *,
    exclude_known_pairs: bool = False,
) -> dict[str, float]:
    r"""Ranks all items for every user with links to predict and averages over those users.

    Candidates are all items except those in ``edge_index`` of the user. With :math:`T_u` the links
    to predict (:func:`~alignrec_pyg.graph.links_to_predict`: positives, each once), recall@k is
    :math:`|\text{top-}k \cap T_u| / |T_u|` and the ideal of ndcg@k has :math:`\min(k, |T_u|)` hits.
    hit@k, the hit ratio, is the share of users with at least one hit. Values are not rounded.

    Args:
        model: Any recommender; put in evaluation mode meanwhile.
        data: Known links in ``edge_index``, links to predict in ``edge_label_index``.
        ks: Cut-off or cut-offs :math:`k`.
        exclude_known_pairs: Whether the items of the user's
            :func:`~alignrec_pyg.graph.known_pairs`, such as those with a low rating, are no
            candidates either. In published figures they are.

    Returns:
        ``recall@k``, ``ndcg@k``, ``hit@k``, ``precision@k``, ``map@k``, ``mrr@k`` for every k,
        and ``num_users``, the number of users scored.

    Raises:
        ValueError: If a cut-off is no positive integer, there is nothing to predict, or ``data``
            is not that of the model.
        FloatingPointError: If a score is NaN (it would rank first).

    Example:
        >>> import pandas as pd
        >>> import torch
        >>> from alignrec_pyg import BPR, evaluate
        >>> from alignrec_pyg.datasets import from_frames
        >>> links = pd.DataFrame({"user": ["ann", "ann", "bob"], "item": ["cup", "tea", "cup"]})
        >>> data = from_frames(links).data
        >>> bob, tea = 1, 1  # their numbers
        >>> data["user", "interacts", "item"].edge_label_index = torch.tensor([[bob], [tea]])
        >>> evaluate(BPR(data), data, ks=1)["recall@1"]  # the only item that bob does not know
        1.0
    """
    ks = check_cut_offs(ks)
    model.check_fits(data, "data")
    label = links_to_predict(data)
    longest = {k: min(k, model.num_items) for k in ks}  # beyond, places would be empty
    metrics = LinkPredMetricCollection(
        {f"{name}@{k}": metric(longest[k]) for k in ks for name, metric in _METRICS.items()}
    ).to(label.device)
    label = label[:, label[0].argsort(stable=True)]
    users = label[0].unique()
    left_out = data[INTERACTS].edge_index
    if exclude_known_pairs:
        left_out = torch.cat([left_out, known_pairs(data)], dim=1)
    for block, ranked, _ in rank_blocks(model, data, users, max(longest.values()), left_out):
        inside = row_slice(label[0], block)
        row = torch.searchsorted(block, label[0, inside])
        metrics.update(ranked, torch.stack([row, label[1, inside]]))
    result = {name: float(value) for name, value in metrics.compute().items()}
    for k in ks:
        result[f"precision@{k}"] *= longest[k] / k
    return {**result, "num_users": float(users.numel())}


def evaluate_users(
    model: Recommender, data: HeteroData, k: int = 20, *, exclude_known_pairs: bool = False
) -> UserMetrics:
    """Recall@k and ndcg@k of every user with links to predict (see :func:`evaluate`).

    Raises:
        ValueError: If ``k`` is no positive integer, there is nothing to predict, or ``data`` is not
            that of the model.
        FloatingPointError: If a score is NaN.
    """
    k = min(check_integer("k", k, 1), model.num_items)  # beyond, places would be empty
    ranking = rank(model, data, k, exclude_known_pairs=exclude_known_pairs)
    return user_metrics(ranking, links_to_predict(data), k)


def user_metrics(ranking: Ranking, links: Tensor, k: int = 20) -> UserMetrics:
    """Recall@k and ndcg@k of every user with links to predict, from a ranking alone.

    Users of the ranking without any of these links are left out, so a part of the links to predict
    gives the metrics of that part: the ranking stays that of all items, and :math:`T_u` in
    :func:`evaluate` is what the part holds of user u.

    Args:
        ranking: The ranking; the longer its lists, the larger ``k`` may be.
        links: Links to predict, int64 ``[2, L]``, repeated ones counted once; none at all gives no
            users.
        k: Cut-off.

    Raises:
        ValueError: If ``k`` is no positive integer or longer than the lists, or a link's user is
            not in the ranking.
    """
    k = ranking.check_k(k)
    user, row = links[0].unique(return_inverse=True)
    absent = user[~torch.isin(user, ranking.user)]
    if absent.numel():
        raise ValueError(
            "'links' needs to be links of users in the ranking (it has no user "
            f"{int(absent[0])}): rank with those users"
        )
    if user.numel() == 0:
        nothing = torch.empty(0, device=user.device)
        return UserMetrics(user, nothing, nothing)
    ranked = ranking.item[torch.searchsorted(ranking.user, user), :k]
    size = 1 + max(int(ranked.max()), int(links[1].max()))
    label = (row * size + links[1]).unique()
    count = torch.bincount(label // size)
    discount = 1 / torch.arange(2, k + 2, device=user.device).log2()
    ideal = discount.cumsum(0)[count.clamp(max=k) - 1]
    recall, ndcg = torch.empty_like(ideal), torch.empty_like(ideal)
    for block in torch.arange(user.numel(), device=user.device).split(max(1, _BLOCK_ITEMS // k)):
        key = block.unsqueeze(1) * size + ranked[block]
        place = torch.searchsorted(label, key).clamp(max=label.numel() - 1)
        hit = (label[place] == key).float()
        recall[block] = hit.sum(1) / count[block]
        ndcg[block] = (hit * discount).sum(1) / ideal[block]
    return UserMetrics(user, recall, ndcg)
