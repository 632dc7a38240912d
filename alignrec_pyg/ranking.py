"""Rankings: every user's best new items, from which all metrics follow without the model.

The graph is propagated once; users are then scored in blocks, known links masked, and the top k
kept. Nothing of size users x items is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, links_to_predict
from alignrec_pyg.models import Recommender

# Scores per block: large enough for fast matrix products, small enough for the processor's cache;
# a GPU wants larger ones.
_BLOCK_SCORES = 1 << 22
_BLOCK_SCORES_CUDA = 1 << 26


class Ranking(NamedTuple):
    """The best new items of some users, best first.

    A user who knows nearly all items has fewer than k new ones; the number of items, which is no
    item's, stands for "nothing left" and comes last.

    Shapes:
        - **user:** int64 :math:`(n)`, ascending
        - **item:** int32 :math:`(n, k)`
    """

    user: Tensor
    item: Tensor


def rank(model: Recommender, data: HeteroData, k: int = 50, users: Tensor | None = None) -> Ranking:
    """Ranks all items but those in ``edge_index`` of the user, and keeps the best ``k``.

    Args:
        model: Any recommender; put in evaluation mode meanwhile.
        data: Known links in ``edge_index``.
        k: Length of the lists.
        users: Numbers of the users to rank for, in any order, repeats ignored; ``None`` means those
            with links to predict.

    Raises:
        ValueError: If ``k`` is no positive integer, ``users`` holds anything but numbers of users,
            or is ``None`` with nothing to predict, or ``data`` is not that of the model.
        FloatingPointError: If a score is NaN (it would rank first).
    """
    k = checked_k(k)
    model.check_fits(data, "data")
    users = links_to_predict(data)[0] if users is None else _checked_users(users, model.num_users)
    users = users.to(data[INTERACTS].edge_index.device, torch.int64).unique()
    if users.numel() == 0:
        return Ranking(users, users.new_empty(0, k, dtype=torch.int32))
    items = [item.int() for _, item in rank_blocks(model, data, users, k)]
    return Ranking(users, torch.cat(items))


@torch.no_grad()
def rank_blocks(
    model: Recommender, data: HeteroData, users: Tensor, k: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Like :func:`rank`, block by block, so that the whole need not be held.

    Args:
        model: As :func:`rank`.
        data: As :func:`rank`; made sure to fit the model.
        users: At least one user, ascending, int64 ``[n]``.
        k: Length of the lists.

    Yields:
        A block of ``users`` and their items, int64 ``[b]`` and ``[b, k]``.

    Raises:
        FloatingPointError: If a score is NaN.
    """
    was_training = model.training
    model.eval()
    try:
        user_x, item_x = model(data)
    finally:
        model.train(was_training)
    num_items = item_x.size(0)
    known = data[INTERACTS].edge_index
    known = known[:, known[0].argsort(stable=True)]
    item_xt = item_x.t().contiguous()
    block_scores = _BLOCK_SCORES_CUDA if item_x.is_cuda else _BLOCK_SCORES
    for block in users.split(max(1, block_scores // num_items)):
        scores = user_x[block] @ item_xt
        inside = row_slice(known[0], block)
        from_block = torch.isin(known[0, inside], block)
        row = torch.searchsorted(block, known[0, inside][from_block])
        scores[row, known[1, inside][from_block]] = -math.inf
        value, item = scores.topk(min(k, num_items), dim=1)
        if bool(value.isnan().any()):
            raise FloatingPointError(
                f"{type(model).__name__} gives NaN scores: its parameters or features are not "
                "finite, so there is no ranking"
            )
        item = item.masked_fill(value == -math.inf, num_items)
        if k > num_items:
            item = torch.nn.functional.pad(item, (0, k - num_items), value=num_items)
        yield block, item


def row_slice(sorted_rows: Tensor, block: Tensor) -> slice:
    """Where the rows from the first to the last of an ascending block stand."""
    first = int(torch.searchsorted(sorted_rows, block[0]))
    return slice(first, int(torch.searchsorted(sorted_rows, block[-1], right=True)))


def checked_k(k: Any, longest: int | None = None) -> int:
    """A cut-off as a plain integer.

    Raises:
        ValueError: If it is no positive integer or exceeds the ranking's length ``longest``.
    """
    if not isinstance(k, Integral) or isinstance(k, bool) or int(k) < 1:
        raise ValueError(f"'k' needs to be a positive integer (got {k!r})")
    if longest is not None and int(k) > longest:
        raise ValueError(f"'k' needs to be in [1, {longest}] (got {k}): rank with a larger k")
    return int(k)


def _checked_users(users: Tensor, num_users: int) -> Tensor:
    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if not isinstance(users, Tensor) or users.dim() != 1 or users.dtype not in integers:
        raise ValueError(f"'users' needs to be a 1-D tensor of whole numbers (got {users!r})")
    outside = users[(users < 0) | (users >= num_users)]
    if outside.numel():
        raise ValueError(f"'users' needs to be in [0, {num_users - 1}] (got {int(outside[0])})")
    return users
