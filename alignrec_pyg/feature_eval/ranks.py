"""Ranks of target items for queries, by feature similarity and by popularity."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from alignrec_pyg.feature_eval.feature_rows import FeatureRows, unit_length

Similarity = Literal["cosine", "dot"]

# Similarities of unit vectors with a smaller difference (2^-30, about 1e-9) are equal. The rounding
# error of a product in double precision (1e-15) depends on the shape of its block, and can then
# neither separate items with the same features nor reorder others.
_EQUAL = 2.0**-30
_PAIR_SHARE = 4  # the targets of a quarter of a block are counted at a time, on a copy of scores


class Queries(NamedTuple):
    """Ranking queries: users or items, each with a history and target items.

    In the zero-shot protocol, a query is a user with the earlier items as history; in the item-CF
    protocol, it is an item whose history is the item itself.

    Shapes:
        - **id:** int64 :math:`(n)`, ascending: the user or item of each query
        - **history:** int64 :math:`(2, h)`, at least one per query: row of ``id``, ascending, and
          item
        - **target:** int64 :math:`(2, m)`, at least one per query: row of ``id``, ascending, and
          item
        - **popularity:** int64 :math:`(|I|)`: number of links of each item, without target links
    """

    id: Tensor
    history: Tensor
    target: Tensor
    popularity: Tensor

    def to(self, device: torch.device) -> Queries:
        """Copies the queries to another device."""
        return Queries(*(tensor.to(device) for tensor in self))


class TargetRanks(NamedTuple):
    """Ranks of the targets.

    Shapes:
        - **rank:** int64 :math:`(m)`, number of candidates that rank before each target
        - **unranked:** bool :math:`(n)`, true for queries whose history has no features
    """

    rank: Tensor
    unranked: Tensor


@torch.no_grad()
def target_ranks(
    rows: FeatureRows,
    queries: Queries,
    *,
    similarity: Similarity,
    exclude_history: bool,
    normalize_items: bool,
    block_size: int,
) -> TargetRanks:
    r"""Ranks all items for every query by their similarity to the mean of its history.

    With the mean :math:`h_q` of the features of the history, item :math:`i` ranks before target
    :math:`t` if :math:`s(h_q, h_i) > s(h_q, h_t)`, or if the two are equal and :math:`i < t`.
    Cosines are equal if they differ by less than :math:`2^{-30}`, inner products if they differ by
    less than :math:`2^{-30} \lVert h_q \rVert \max_i \lVert h_i \rVert`. Nothing is sorted, and the
    result does not depend on ``block_size``.

    Items without features have similarity 0 to all others. The targets of a query whose history has
    no features rank behind all candidates.

    With ``exclude_history`` the history is excluded from the candidates, except for targets; with
    ``normalize_items`` the rows are scaled to length 1 before they are averaged. Memory in addition
    to the tables is ``block_size * num_items * 12`` bytes and about 100 MiB.
    """
    queries = queries.to(rows.device)
    num_queries, num_items = queries.id.numel(), rows.num_items
    largest = _largest_length(rows) if similarity == "dot" else 1.0
    index = torch.arange(num_items, device=rows.device)
    last = candidate_counts(queries, exclude_history=exclude_history)
    unranked = torch.zeros(num_queries, dtype=torch.bool, device=rows.device)
    ranks = torch.empty_like(queries.target[0])
    # Allocated once: small results between large freed blocks would prevent their memory from being
    # reused.
    scores = torch.empty(
        min(block_size, num_queries), num_items, dtype=torch.float64, device=rows.device
    )
    done = 0
    for block in _blocks(num_queries, block_size):
        history, target = _of(queries.history, block), _of(queries.target, block)
        vector = _mean_rows(rows, history, block.stop - block.start, unit=normalize_items)
        unranked[block] = (vector == 0).all(dim=1)
        vector = unit_length(vector)
        score = scores[: vector.size(0)]
        for part in rows.blocks():
            item = unit_length(rows[part]) if similarity == "cosine" else rows[part] / largest
            score[:, part] = vector @ item.T
        own = score[target[0], target[1]]
        if exclude_history:
            score[history[0], history[1]] = -math.inf
            score[target[0], target[1]] = own
        step = max(1, block_size // _PAIR_SHARE)
        for (row, item), value in zip(target.split(step, dim=1), own.split(step), strict=True):
            ahead = score[row].sub_(value.unsqueeze(1))
            before = (ahead >= -_EQUAL).logical_and_(index < item.unsqueeze(1))
            before |= ahead > _EQUAL
            position = ranks[done : done + row.numel()]
            position.copy_(torch.where(unranked[block][row], last[block][row], before.sum(1)))
            done += row.numel()
    return TargetRanks(ranks, unranked)


def excluded_pairs(queries: Queries) -> Tensor:
    """History items that are excluded from the candidates with ``exclude_history``: no targets.

    Shapes:
        - **output:** int64 :math:`(2, e)`: row of the query and item, sorted and distinct
    """
    num_items = queries.popularity.numel()
    history = (queries.history[0] * num_items + queries.history[1]).unique()
    target = queries.target[0] * num_items + queries.target[1]
    key = history[~torch.isin(history, target)]
    return torch.stack([key // num_items, key % num_items])


def candidate_counts(queries: Queries, *, exclude_history: bool) -> Tensor:
    """Number of candidates of each query, int64 ``[n]``."""
    count = torch.full_like(queries.id, queries.popularity.numel())
    if exclude_history:
        row = excluded_pairs(queries)[0]
        count -= torch.bincount(row, minlength=count.numel())
    return count


def popularity_ranks(queries: Queries, *, exclude_history: bool) -> Tensor:
    """Number of candidates that rank before each target by popularity, int64 ``[m]``.

    Ties are broken by the lower item index.
    """
    num_items = queries.popularity.numel()
    position = torch.empty_like(queries.popularity)
    order = queries.popularity.argsort(descending=True, stable=True)
    position[order] = torch.arange(num_items, device=position.device)
    row, item = queries.target
    rank = position[item]
    if exclude_history:
        excluded_row, excluded_item = excluded_pairs(queries)
        # One sorted list serves all queries: the query is the leading digit of the key.
        key = (excluded_row * num_items + position[excluded_item]).sort().values
        before = torch.searchsorted(key, row * num_items + rank)
        rank = rank - (before - torch.searchsorted(key, row * num_items))
    return rank


def _mean_rows(rows: FeatureRows, history: Tensor, count: int, *, unit: bool) -> Tensor:
    """Mean features of every history, float64 ``[count, dim]``."""
    total = torch.zeros(count, rows.dim, dtype=torch.float64, device=rows.device)
    for row, item in history.split(rows.step, dim=1):
        read = rows[item]
        total.index_add_(0, row, unit_length(read) if unit else read)
    return total.div_(torch.bincount(history[0], minlength=count).unsqueeze(1))


def _largest_length(rows: FeatureRows) -> float:
    """Length of the longest row; 1 if all rows are zero."""
    longest = max(
        float(torch.linalg.vector_norm(rows[part], dim=1).max()) for part in rows.blocks()
    )
    return longest or 1.0


def _blocks(count: int, size: int) -> Iterator[slice]:
    starts = range(0, count, size)
    # disable=None: no progress bar if the output is not a terminal
    for start in tqdm(starts, desc="ranks", unit="block", disable=None, delay=2, leave=False):
        yield slice(start, min(start + size, count))


def _of(pairs: Tensor, block: slice) -> Tensor:
    """The pairs of a block of queries, with rows relative to the start of the block."""
    edges = torch.tensor([block.start, block.stop], device=pairs.device)
    first, stop = torch.searchsorted(pairs[0].contiguous(), edges).tolist()
    found = pairs[:, first:stop].clone()
    found[0] -= block.start
    return found
