"""How many items are more similar to a query than the one to be found."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from alignrec_pyg.feature_eval.queries import Queries, candidate_counts
from alignrec_pyg.feature_eval.rows import FeatureRows, unit_length

Similarity = Literal["cosine", "dot"]

# Similarities of vectors of length 1 that differ by less (2^-30, about 1e-9) are equal. The noise
# of a product in double precision (1e-15) depends on the shape of the block it is part of: it can
# then neither part items of the same features nor reorder others.
_EQUAL = 2.0**-30
_PAIR_SHARE = 4  # targets are counted for a quarter of a block at a time: a copy of their scores


class TargetRanks(NamedTuple):
    """Where the targets stand.

    Shapes:
        - **rank:** int64 :math:`(m)`, for each target how many candidates stand before it
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
    r"""Ranks all items for every query by the similarity to the mean of its history.

    With :math:`h_q` the mean of the history's rows, item :math:`k` stands before target :math:`t`
    if :math:`s(h_q, h_k) > s(h_q, h_t)`, or if the two are equal and :math:`k < t`. For the inner
    product, equal means a difference of less than :math:`2^{-30}` of
    :math:`\lVert h_q \rVert \max_k \lVert h_k \rVert`; for the cosine, of less than
    :math:`2^{-30}`. Nothing is sorted, and the answer does not depend on ``block_size``.

    An item without features has similarity 0 to everything. A query whose history has none ranks
    nothing: its targets count as standing behind all candidates.

    Memory beside the tables is ``block_size * num_items * 12`` bytes and some 100 MiB.

    Args:
        rows: The items' features.
        queries: Histories and targets.
        similarity: ``"cosine"`` or ``"dot"``.
        exclude_history: Whether items of the history are candidates only if they are targets.
        normalize_items: Whether rows have length 1 before the mean is taken.
        block_size: Queries per block.
    """
    queries = queries.to(rows.device)
    num_queries, num_items = queries.id.numel(), rows.num_items
    largest = _largest_length(rows) if similarity == "dot" else 1.0
    index = torch.arange(num_items, device=rows.device)
    last = candidate_counts(queries, exclude_history=exclude_history)
    unranked = torch.zeros(num_queries, dtype=torch.bool, device=rows.device)
    ranks = torch.empty_like(queries.target[0])
    # Made once: small results between large freed blocks would keep their memory from being reused.
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
            place = ranks[done : done + row.numel()]
            place.copy_(torch.where(unranked[block][row], last[block][row], before.sum(1)))
            done += row.numel()
    return TargetRanks(ranks, unranked)


def _mean_rows(rows: FeatureRows, history: Tensor, count: int, *, unit: bool) -> Tensor:
    """Mean row of every history, float64 ``[count, dim]``."""
    total = torch.zeros(count, rows.dim, dtype=torch.float64, device=rows.device)
    for row, item in history.split(rows.step, dim=1):
        read = rows[item]
        total.index_add_(0, row, unit_length(read) if unit else read)
    return total.div_(torch.bincount(history[0], minlength=count).unsqueeze(1))


def _largest_length(rows: FeatureRows) -> float:
    """Length of the longest row; 1 if all are zero."""
    longest = max(
        float(torch.linalg.vector_norm(rows[part], dim=1).max()) for part in rows.blocks()
    )
    return longest or 1.0


def _blocks(count: int, size: int) -> Iterator[slice]:
    starts = range(0, count, size)
    # disable=None: no bar where the output is not a terminal
    for start in tqdm(starts, desc="ranks", unit="block", disable=None, delay=2, leave=False):
        yield slice(start, min(start + size, count))


def _of(pairs: Tensor, block: slice) -> Tensor:
    """The pairs of a block of queries, which stand together; rows count from the block's first."""
    edges = torch.tensor([block.start, block.stop], device=pairs.device)
    first, stop = torch.searchsorted(pairs[0].contiguous(), edges).tolist()
    found = pairs[:, first:stop].clone()
    found[0] -= block.start
    return found
