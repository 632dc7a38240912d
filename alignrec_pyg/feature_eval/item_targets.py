"""Targets of the item-CF protocol: the item of highest collaborative similarity to each item."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import HeteroData
from tqdm import tqdm

from alignrec_pyg.graph import INTERACTS, ITEM, USER, link_values

Score = Literal["cosine", "iuf", "pearson", "adjusted_cosine"]

OF_RATINGS = ("pearson", "adjusted_cosine")
"""Scores that require ratings."""

# Scores with a smaller relative difference are equal: they may be sums of the same terms in another
# order.
_EQUAL = 1e-12
# Deviations of ratings below this share of the largest rating are zero, and so are variances below
# its square: they are rounding errors of means of equal numbers.
_NO_DEVIATION = 1e-7


class ItemTargets(NamedTuple):
    """The items with the highest score to each item, including ties.

    Shapes:
        - **pair:** int64 :math:`(2, t)`: item, ascending, and an item with the highest score to it
        - **chosen:** bool :math:`(t)`, true for one pair per item
        - **item_degree:** int64 :math:`(|I|)`, number of users of each item
    """

    pair: Tensor
    chosen: Tensor
    item_degree: Tensor


class _Links(NamedTuple):
    """Distinct links sorted by user, and the permutation that sorts them by item."""

    user: Tensor
    item: Tensor
    rating: Tensor | None
    by_item: Tensor
    user_degree: Tensor
    item_degree: Tensor


def most_similar_items(
    data: HeteroData,
    *,
    score: Score,
    min_common: int,
    eval_items: int | None = None,
    seed: int = 0,
    block_paths: int = 1 << 20,
) -> ItemTargets:
    r"""Finds the items with the highest item-CF score :math:`w_{ij}` for each item :math:`j`.

    ``eval_items`` items, drawn by ``seed`` from those with common users, are evaluated; by default
    all.

    The sparse product :math:`R^\top R` is computed on the CPU in blocks of items, each with at most
    ``block_paths`` paths item - user - item (at least one item). Memory is about 100 bytes per
    path, and no matrix of items x items is held.

    Ties are broken by the larger number of common users :math:`n_{ij}`, then by the larger number
    of users :math:`n_i`, then by the smaller item index.

    Raises:
        ValueError: If no pair has a score, or ratings are missing or repeated for a pair.
    """
    links = _links(data, ratings=score in OF_RATINGS)
    num_items = links.item_degree.numel()
    deviation = _deviations(links) if score == "adjusted_cosine" else None
    drawn = _drawn(links, eval_items, seed)
    number = torch.full((num_items,), -1).index_copy_(0, drawn, torch.arange(drawn.numel()))
    by_item = links.by_item[number[links.item[links.by_item]] >= 0]
    first_link = _starts(links.item_degree[drawn])
    paths_before = _starts(links.user_degree[links.user[by_item]])[first_link]
    pairs, chosen = [], []
    start = 0
    with tqdm(total=drawn.numel(), desc="item-CF", unit="item", disable=None, delay=2) as progress:
        while start < drawn.numel():
            limit = paths_before[start] + block_paths
            stop = max(int(torch.searchsorted(paths_before, limit, right=True)) - 1, start + 1)
            block = by_item[int(first_link[start]) : int(first_link[stop])]
            near, far = _paths(links, block)
            pair, near_far = (links.item[near] * num_items + links.item[far]).unique(
                return_inverse=True
            )
            item = torch.stack([pair // num_items, pair % num_items])
            common = torch.bincount(near_far, minlength=pair.numel())
            value = _scores(score, links, deviation, item, common, near, far, near_far)
            scored = (common >= min_common) & ~value.isnan()
            item, common, value = item[:, scored], common[scored], value[scored]
            row = number[item[0]] - start
            tied = _largest(row, value, stop - start, share=_EQUAL)
            item, common, row = item[:, tied], common[tied], row[tied]
            pick = torch.ones_like(row, dtype=torch.bool)
            for preference in (common, links.item_degree[item[1]], -item[1]):
                best = _largest(row[pick], preference[pick].double(), stop - start)
                pick[pick.clone()] = best
            pairs.append(item)
            chosen.append(pick)
            progress.update(stop - start)
            start = stop
    if not any(len(pick) for pick in chosen):
        raise ValueError(
            f"'data' needs two items with common users and a score (none of "
            f"{num_items if eval_items is None else eval_items} items has "
            f"one with score='{score}', min_common={min_common})"
        )
    return ItemTargets(torch.cat(pairs, dim=1), torch.cat(chosen), links.item_degree)


def _links(data: HeteroData, *, ratings: bool) -> _Links:
    num_users, num_items = int(data[USER].num_nodes), int(data[ITEM].num_nodes)
    edge_index = data[INTERACTS].edge_index.cpu()
    key = edge_index[0] * num_items + edge_index[1]
    distinct = key.unique()
    rating = None
    if ratings:
        rating = _checked_ratings(data)
        if distinct.numel() < key.numel():
            raise ValueError(
                f"'data' needs each pair of user and item once for a score of ratings (got "
                f"{key.numel() - distinct.numel()} repeats): keep one rating of each"
            )
        rating = rating[key.argsort()]
    user, item = distinct // num_items, distinct % num_items
    return _Links(
        user=user,
        item=item,
        rating=rating,
        by_item=item.argsort(stable=True),
        user_degree=torch.bincount(user, minlength=num_users),
        item_degree=torch.bincount(item, minlength=num_items),
    )


def _drawn(links: _Links, eval_items: int | None, seed: int) -> Tensor:
    """The items that are evaluated, ascending int64, of those that share a user with another."""
    shared = links.user_degree[links.user] > 1
    item = links.item[shared].unique()
    if eval_items is None or eval_items >= item.numel():
        return item
    order = torch.randperm(item.numel(), generator=torch.Generator().manual_seed(seed))
    return item[order[:eval_items]].sort().values


def _paths(links: _Links, block: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of links of the same user to different items, the first of them in ``block``.

    Shapes:
        - **output:** int64 :math:`(P)` twice, indices of links
    """
    user = links.user[block]
    count = links.user_degree[user]
    number = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
    near = block.repeat_interleave(count)
    far = _starts(links.user_degree)[user].repeat_interleave(count) + number
    other = near != far
    return near[other], far[other]


def _scores(
    score: Score,
    links: _Links,
    deviation: Tensor | None,
    item: Tensor,
    common: Tensor,
    near: Tensor,
    far: Tensor,
    pair: Tensor,
) -> Tensor:
    """The score of every pair of ``item`` ``[2, p]``, float64; NaN without a score.

    ``pair`` is the pair of each path, ``near`` and ``far`` are the links to its two items.
    """

    def summed(value: Tensor) -> Tensor:
        return torch.bincount(pair, value, minlength=common.numel())

    if score in ("cosine", "iuf"):
        size = links.item_degree[item].double().prod(0).sqrt()
        if score == "cosine":
            return common / size
        return summed(1 / torch.log1p(links.user_degree[links.user[near]].double())) / size
    if score == "adjusted_cosine":
        assert deviation is not None
        x, y = deviation[near], deviation[far]
        length = (summed(x * x) * summed(y * y)).sqrt()
        return summed(x * y) / torch.where(length > 0, length, torch.nan)
    assert links.rating is not None
    x, y = links.rating[near], links.rating[far]
    mean_x, mean_y = summed(x) / common, summed(y) / common
    x, y = x - mean_x[pair], y - mean_y[pair]
    least = _NO_DEVIATION**2 * links.rating.abs().max() ** 2
    square = torch.stack([summed(x * x), summed(y * y)])
    length = square.prod(0).sqrt()
    return summed(x * y) / torch.where((square > least).all(0), length, torch.nan)


def _deviations(links: _Links) -> Tensor:
    """The deviation of each rating from the mean of its user, float64 ``[E]``."""
    rating = links.rating
    assert rating is not None
    mean = torch.bincount(links.user, rating, minlength=links.user_degree.numel())
    deviation = rating - (mean / links.user_degree)[links.user]
    return deviation.masked_fill(deviation.abs() <= _NO_DEVIATION * rating.abs().max(), 0)


def _largest(row: Tensor, value: Tensor, num_rows: int, share: float = 0.0) -> Tensor:
    """Whether each value is the largest of its row up to a relative tolerance, bool ``[p]``."""
    best = torch.full((num_rows,), -torch.inf, dtype=torch.float64)
    best.scatter_reduce_(0, row, value, "amax")
    return value >= (best - share * best.abs())[row]


def _starts(count: Tensor) -> Tensor:
    """The start of each group of so many, and the end of the last one."""
    return F.pad(count.cumsum(0), (1, 0))


def _checked_ratings(data: HeteroData) -> Tensor:
    way_out = " for a score of ratings: score='cosine' and score='iuf' need none"
    rating = link_values(data, "rating", way_out).detach().cpu().double()
    if not bool(rating.isfinite().all()):
        raise ValueError(
            f"'rating' needs a finite number for each of the {rating.numel()} interactions (got "
            "NaN or infinity)"
        )
    return rating
