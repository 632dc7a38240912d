"""All-ranking evaluation and recommendation for any model, on top of its ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
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
from alignrec_pyg.graph import INTERACTS, ITEM, known_links, known_pairs, links_to_predict
from alignrec_pyg.ids import item_ids, item_indices, user_indices
from alignrec_pyg.models import Recommender

_METRICS = {
    "recall": LinkPredRecall,
    "ndcg": LinkPredNDCG,
    "hit": LinkPredHitRatio,
    "precision": LinkPredPrecision,
    "map": LinkPredMAP,
    "mrr": LinkPredMRR,
}
# Ranked items looked up at once.
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

    Candidates are all items but those in ``edge_index`` of the user. With :math:`T_u` the links to
    predict (:func:`~alignrec_pyg.graph.links_to_predict`: positives, each once), recall@k is
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


def recommend(
    model: Recommender,
    data: HeteroData,
    user_ids: ArrayLike,
    k: int = 20,
    *,
    candidates: ArrayLike | None = None,
    exclude: ArrayLike = (),
    exclude_known: bool = True,
) -> list[np.ndarray]:
    """The k best new items of each user, as original ids.

    What the graph knows of the user is not returned (:func:`~alignrec_pyg.graph.known_links`: links
    used, links to predict and known pairs), so a list is shorter than ``k`` where fewer new items
    are left. To serve, pass the graph with all links, ``dataset.data``, from which models read the
    latest links too; of a split, the test graph knows all of them as well.

    Args:
        model: Any recommender; put in evaluation mode meanwhile.
        data: Graph with the known links and, where there are any, ``data["user"].id`` and
            ``data["item"].id`` (else users and items go by their number).
        user_ids: Outside ids of users, in any order, repeats allowed.
        k: Length of the lists.
        candidates: Ids of the items that may be recommended (default: all), such as those of one
            category or those in stock.
        exclude: Ids of items that may not, also where they are among ``candidates``.
        exclude_known: Whether the items that the user is known to have had are left out; ``False``
            for things that are bought again.

    Returns:
        One array of item ids per user, best first.

    Raises:
        UnknownUserError: If a user id is not in the data.
        UnknownItemError: If an item id is not in the data.
        ValueError: If ``k`` is no positive integer or ``data`` is not that of the model.
        FloatingPointError: If a score is NaN.

    Example:
        >>> import pandas as pd
        >>> from alignrec_pyg import BPR, recommend
        >>> from alignrec_pyg.datasets import from_frames
        >>> links = pd.DataFrame({"user": ["ann", "ann", "bob"], "item": ["cup", "tea", "cup"]})
        >>> data = from_frames(links).data
        >>> recommend(BPR(data), data, ["bob"], k=5)  # what bob does not know
        [array(['tea'], dtype=object)]
    """
    k = check_integer("k", k, 1)
    model.check_fits(data, "data")
    user = user_indices(data, user_ids, "user_ids")
    items = allowed_items(data, candidates, exclude)
    asked, row = user.unique(return_inverse=True)
    if asked.numel() == 0:
        return []
    links = left_out(data, asked, exclude_known)
    blocks = rank_blocks(model, data, asked, min(k, model.num_items), links, items=items)
    item_id = item_ids(data)
    rows = torch.cat([block.item for block in blocks])[row].cpu().numpy()
    return [item_id[row[row < item_id.shape[0]]] for row in rows]


def left_out(data: HeteroData, users: Tensor, exclude_known: bool) -> Tensor:
    """The links of some users whose items are not recommended to them, int64 ``[2, E]``."""
    return known_links(data, users) if exclude_known else data[INTERACTS].edge_index[:, :0]


def allowed_items(
    data: HeteroData, candidates: ArrayLike | None, exclude: ArrayLike
) -> Tensor | None:
    """Numbers of ``candidates`` (default: all items) without ``exclude``, ascending.

    Returns:
        int64 ``[c]``; ``None`` where nothing is filtered.

    Raises:
        UnknownItemError: If an id is not in the data.
    """
    excluded = item_indices(data, exclude, "exclude")
    if candidates is None and excluded.numel() == 0:
        return None
    if candidates is None:
        items = torch.arange(int(data[ITEM].num_nodes), device=excluded.device)
    else:
        items = item_indices(data, candidates, "candidates").unique()
    return items[~torch.isin(items, excluded)]
