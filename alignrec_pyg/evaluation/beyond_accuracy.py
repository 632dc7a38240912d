"""Metrics beyond accuracy: how recommendations spread over items and users.

All of them are computed from a stored ranking. Entries without an item ("nothing left") are
ignored, and users without any recommendation are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import LinkPredAveragePopularity, LinkPredCoverage

from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.graph import ITEM, USER, all_links, feature_mask, feature_table, require_graph

# Numbers per block of users.
_BLOCK_NUMBERS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class BeyondAccuracy:
    r"""How recommendations spread over items and users.

    :math:`L_u` is the list of user u, :math:`f_i` the number of lists that hold item i,
    :math:`d_i` the number of its train links, :math:`n` the number of lists.

    Args:
        num_users: Lists with at least one item, :math:`n`.
        coverage: Share of all items that are in some list.
        gini: Gini index of :math:`f`, sorted ascending, over all items:
            :math:`\sum_j (2j - |I| - 1)\, f_{(j)} / (|I| \sum_j f_{(j)})`; 0 if all items are
            recommended alike, :math:`1 - 1/|I|` if all lists hold one item.
        average_popularity: :math:`\frac1n \sum_u \frac1{|L_u|} \sum_{i \in L_u} d_i`.
        long_tail_share: The same mean of :math:`[d_i < \text{below}]`.
        novelty: The same mean of :math:`-\log_2 p_i`, in bits, with
            :math:`p_i = \max(d_i, 1) / |U|`: an item without train links is as novel as one with a
            single link.
        personalization: One minus the mean cosine
            :math:`|L_u \cap L_v| / \sqrt{|L_u| |L_v|}` over all pairs of users; NaN with one user.
    """

    num_users: int
    coverage: float
    gini: float
    average_popularity: float
    long_tail_share: float
    novelty: float
    personalization: float


@dataclass(frozen=True, kw_only=True)
class ListDiversity:
    """How different the items of a list are, on a feature table.

    Args:
        diversity: Mean over lists; NaN without any.
        num_users: Lists with at least two items that have features; no other list counts.
    """

    diversity: float
    num_users: int


def beyond_accuracy(
    ranking: Ranking, train: HeteroData, k: int = 20, *, below: int = 4
) -> BeyondAccuracy:
    """Coverage, Gini index, popularity, long tail, novelty and personalization of top-k lists.

    Coverage and the means over lists are PyG's. Personalization is its
    :class:`~torch_geometric.metrics.LinkPredPersonalization`, but of all pairs of users instead of
    the pairs among the first users, at the cost of one pass over the lists.

    Args:
        ranking: The ranking; the longer its lists, the larger ``k`` may be.
        train: Training graph.
        k: Cut-off.
        below: Items with fewer train links than this are the long tail.

    Raises:
        ValueError: If ``k`` is no positive integer or longer than the lists, or the ranking holds
            items that ``train`` does not.
    """
    k = ranking.check_k(k)
    require_graph(train, "train")
    num_items, num_users = int(train[ITEM].num_nodes), int(train[USER].num_nodes)
    ranked, length = _lists(ranking, k, num_items)
    num_lists = ranked.size(0)
    if num_lists == 0:
        nan = float("nan")
        return BeyondAccuracy(
            num_users=0,
            coverage=0.0,
            gini=nan,
            average_popularity=nan,
            long_tail_share=nan,
            novelty=nan,
            personalization=nan,
        )
    degree = torch.bincount(all_links(train)[1], minlength=num_items)
    metrics = {
        "coverage": LinkPredCoverage(k, num_items),
        "average_popularity": LinkPredAveragePopularity(k, degree),
        "long_tail_share": LinkPredAveragePopularity(k, degree < below),
        "novelty": LinkPredAveragePopularity(k, -(degree.clamp(min=1) / num_users).log2()),
    }
    for metric in metrics.values():
        metric.to(ranked.device)
        for size in length.unique().tolist():  # PyG takes lists of equal length
            metric.update(ranked[length == size, :size], ranked.new_empty(2, 0))
    weight = length.double().rsqrt()
    inside = ranked < num_items
    item = ranked[inside]
    by_item = weight.repeat_interleave(length)
    both = torch.bincount(item, by_item, minlength=num_items).square().sum()
    same = torch.bincount(item, by_item.square(), minlength=num_items).sum()
    pairs = num_lists * (num_lists - 1)
    return BeyondAccuracy(
        num_users=num_lists,
        **{name: float(metric.compute()) for name, metric in metrics.items()},
        gini=_gini(torch.bincount(item, minlength=num_items)),
        personalization=1 - float(both - same) / pairs if pairs else float("nan"),
    )


@torch.no_grad()
def intra_list_diversity(
    ranking: Ranking, data: HeteroData, feature: str, k: int = 20
) -> ListDiversity:
    r"""One minus the mean cosine of two items of a list, averaged over lists.

    With :math:`\hat x_i` the features of item i at length 1 and :math:`m` the items of list
    :math:`L_u` that have features,

    .. math::
        1 - \frac1{m (m-1)} \sum_{i \ne j \in L_u} \hat x_i^\top \hat x_j
        = 1 - \frac{\lVert \sum_{i \in L_u} \hat x_i \rVert^2 - m}{m (m-1)},

    so no pair is ever formed. Items that ``data`` marks as lacking the feature, or with a zero row,
    are left out.

    Args:
        ranking: The ranking; the longer its lists, the larger ``k`` may be.
        data: Graph with the feature table.
        feature: Name of the table.
        k: Cut-off.

    Raises:
        ValueError: If ``k`` is no positive integer or longer than the lists, the table is missing,
            or the ranking holds items that ``data`` does not.
    """
    k = ranking.check_k(k)
    table = feature_table(data, feature)
    num_items = table.size(0)
    norm = table.norm(dim=1)
    weight = torch.where((norm > 0) & ~feature_mask(data, feature), 1 / norm, 0)
    weight = torch.cat([weight, weight.new_zeros(1)])  # of "nothing left"
    ranked, _ = _lists(ranking, k, num_items)
    total, count = 0.0, 0
    for block in ranked.split(max(1, _BLOCK_NUMBERS // max(k, table.size(1)))):
        scale = weight[block]
        item = block.masked_fill(block == num_items, 0)  # of weight 0
        summed = torch.nn.functional.embedding_bag(
            item, table, mode="sum", per_sample_weights=scale
        )
        m = (scale > 0).sum(1).double()
        m, square = m[m > 1], summed.double().square().sum(1)[m > 1]
        total += float((1 - (square - m) / (m * (m - 1))).sum())
        count += m.numel()
    return ListDiversity(diversity=total / count if count else float("nan"), num_users=count)


def _lists(ranking: Ranking, k: int, num_items: int) -> tuple[Tensor, Tensor]:
    """The lists with any item, int64 ``[n, k]``, and how many each has."""
    ranked = ranking.item[:, :k].long()
    if ranked.numel() and int(ranked.max()) > num_items:
        raise ValueError(
            f"'ranking' needs to be of the data's {num_items} items "
            f"(got a ranking of {int(ranked.max())} or more)"
        )
    length = (ranked < num_items).sum(1)
    return ranked[length > 0], length[length > 0]


def _gini(frequency: Tensor) -> float:
    ordered = frequency.sort().values.double()
    place = torch.arange(1, ordered.numel() + 1, device=ordered.device)
    spread = ((2 * place - ordered.numel() - 1) * ordered).sum()
    return float(spread / (ordered.numel() * ordered.sum()))
