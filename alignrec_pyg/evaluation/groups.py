"""Metrics of groups: the long tail, users by activity, links by popularity of the item.

All of them are computed from a stored ranking of all items; they differ in what is averaged over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_choice, check_integer
from alignrec_pyg.evaluation.metrics import UserMetrics, user_metrics
from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.graph import ITEM, USER, all_links, require_graph

_POPULARITY = ("head", "middle", "tail")


@dataclass(frozen=True, kw_only=True)
class ActivityGroup:
    """Mean metrics of the users whose number of train links lies in a range.

    Args:
        min_degree: Fewest train links.
        max_degree: Most train links; below ``min_degree`` where no number is left for the group.
        num_users: Users in the group.
        recall: Mean recall@k; NaN without users.
        ndcg: Mean ndcg@k; NaN without users.
    """

    min_degree: int
    max_degree: int
    num_users: int
    recall: float
    ndcg: float


@dataclass(frozen=True, kw_only=True)
class PopularityGroup:
    """Mean metrics on the links to predict whose item's number of train links lies in a range.

    Args:
        name: ``"head"``, ``"middle"`` or ``"tail"``.
        min_degree: Fewest train links.
        max_degree: Most train links; below ``min_degree`` where no number is left for the group.
        num_items: Items in the group.
        num_links: Links to predict in the group.
        num_users: Users with such a link, over whom the metrics are averaged.
        recall: Mean recall@k of these links alone; NaN without any.
        ndcg: Mean ndcg@k of these links alone; NaN without any.
    """

    name: str
    min_degree: int
    max_degree: int
    num_items: int
    num_links: int
    num_users: int
    recall: float
    ndcg: float


def long_tail_links(
    train: HeteroData, links: Tensor, *, below: int = 4, of: Literal["item", "user"] = "item"
) -> Tensor:
    """The links to predict of items, or users, with few train links.

    :func:`~alignrec_pyg.user_metrics` on them is the long-tail study of `AlignRec
    <https://arxiv.org/abs/2403.12384>`_ (Fig. 5): all items compete, but only these links count.

    Args:
        train: Training graph.
        links: Links to predict, int64 ``[2, L]``.
        below: A link stays if its item, or user, has fewer train links than this.
        of: ``"item"`` as in the paper, ``"user"`` as in its published code.

    Returns:
        Some of the links, in their order; there may be none.

    Raises:
        ValueError: If ``of`` is neither, or ``below`` is not positive.
    """
    check_choice("of", of, ("item", "user"))
    check_integer("below", below, 1)
    end = links[0] if of == "user" else links[1]
    return links[:, _degree(train, of)[end] < below]


def activity_groups(
    metrics: UserMetrics, train: HeteroData, *, num_groups: int = 4
) -> tuple[ActivityGroup, ...]:
    r"""Mean metrics of users in groups of about equal size, from the least to the most active.

    With :math:`q_g` the :math:`g/G`-quantile (inverse of the distribution function, so a number
    that occurs) of the scored users' train links, group g has the users with
    :math:`q_{g-1} < d_u \le q_g`. Users with equally many links share a group, so where many do,
    groups differ in size and some may be empty.

    Args:
        metrics: Metrics of the scored users.
        train: Training graph.
        num_groups: Number of groups :math:`G`.

    Raises:
        ValueError: If ``num_groups`` is not positive.
    """
    check_integer("num_groups", num_groups, 1)
    degree = _degree(train, USER)[metrics.user]
    ordered = degree.sort().values
    groups = []
    low = int(ordered[0]) if ordered.numel() else 0
    for group in range(1, num_groups + 1):
        last = -(-group * ordered.numel() // num_groups) - 1  # the quantile's place, rounded up
        high = int(ordered[last]) if ordered.numel() else -1
        inside = (degree >= low) & (degree <= high)
        groups.append(
            ActivityGroup(
                min_degree=low,
                max_degree=high,
                num_users=int(inside.sum()),
                recall=_mean(metrics.recall[inside]),
                ndcg=_mean(metrics.ndcg[inside]),
            )
        )
        low = max(low, high + 1)
    return tuple(groups)


def popularity_groups(
    ranking: Ranking,
    train: HeteroData,
    links: Tensor,
    k: int = 20,
    *,
    head_share: float = 0.2,
    tail_share: float = 0.2,
) -> tuple[PopularityGroup, PopularityGroup, PopularityGroup]:
    r"""Mean metrics on the links to popular, middling and rare items.

    The head are the most popular items that take 20 % of the train links, the tail the least
    popular ones that take 20 %, the middle is between. Items with equally many links share a group:
    with :math:`c_i = \sum_{j:\, d_j > d_i} d_j / |E|` the share of the train links that go to more
    popular items, item i is in the head if :math:`c_i < 0.2`, in the tail if :math:`c_i \ge 0.8`
    (as are items without train links), else in the middle.

    Args:
        ranking: The ranking of all items.
        train: Training graph.
        links: Links to predict, int64 ``[2, L]``.
        k: Cut-off.
        head_share: Share of the train links that the head takes.
        tail_share: Share of the train links that the tail takes.

    Raises:
        ValueError: If the shares are negative or exceed 1 together, or as
            :func:`~alignrec_pyg.user_metrics`.
    """
    if not (head_share >= 0 and tail_share >= 0 and head_share + tail_share <= 1):
        raise ValueError(
            "'head_share' and 'tail_share' need to be 0 or more and 1 or less together "
            f"(got {head_share} and {tail_share})"
        )
    degree = _degree(train, ITEM)
    # from many links to few: how many items have that many, and what share goes to those before
    values, counts = (column.flip(0) for column in degree.unique(return_counts=True))
    taken = (values * counts).double()
    more_popular = (taken.cumsum(0) - taken) / max(1.0, float(taken.sum()))
    place = (more_popular >= head_share).int() + (more_popular >= 1 - tail_share).int()
    group_of_item = place[torch.searchsorted(-values, -degree)]
    high = int(values[0])
    groups = []
    for group, name in enumerate(_POPULARITY):
        own = values[place == group]
        low = int(own[-1]) if own.numel() else high + 1
        inside = links[:, group_of_item[links[1]] == group]
        metrics = user_metrics(ranking, inside, k)
        groups.append(
            PopularityGroup(
                name=name,
                min_degree=low,
                max_degree=high,
                num_items=int((group_of_item == group).sum()),
                num_links=inside.size(1),
                num_users=metrics.user.numel(),
                recall=_mean(metrics.recall),
                ndcg=_mean(metrics.ndcg),
            )
        )
        high = low - 1
    head, middle, tail = groups
    return head, middle, tail


def _degree(train: HeteroData, end: str) -> Tensor:
    """Train links of every user or item, int64."""
    require_graph(train, "train")
    ends = all_links(train)[0 if end == USER else 1]
    return torch.bincount(ends, minlength=int(train[end].num_nodes))


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
