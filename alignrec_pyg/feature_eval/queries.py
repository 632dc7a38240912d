"""What a protocol asks of features: whose history is given, and which items are to be found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Queries(NamedTuple):
    """Users, or items, each with a history and the items to find.

    Zero-shot asks for users with their earlier items; item-CF for items whose history is the item
    itself.

    Shapes:
        - **id:** int64 :math:`(n)`, ascending: the user or item that asks
        - **history:** int64 :math:`(2, h)`, at least one per query: row of ``id``, ascending, and
          item
        - **target:** int64 :math:`(2, m)`, at least one per query: row of ``id``, ascending, and
          item
        - **popularity:** int64 :math:`(|I|)`: links of each item, those to find left out
    """

    id: Tensor
    history: Tensor
    target: Tensor
    popularity: Tensor

    def to(self, device: torch.device) -> Queries:
        """The same on another device."""
        return Queries(*(tensor.to(device) for tensor in self))


def excluded_pairs(queries: Queries) -> Tensor:
    """History items that are no candidates where history is left out: all but the targets.

    Shapes:
        - **output:** int64 :math:`(2, e)`: row of the query and item, sorted, each once
    """
    num_items = queries.popularity.numel()
    history = (queries.history[0] * num_items + queries.history[1]).unique()
    target = queries.target[0] * num_items + queries.target[1]
    key = history[~torch.isin(history, target)]
    return torch.stack([key // num_items, key % num_items])


def candidate_counts(queries: Queries, *, exclude_history: bool) -> Tensor:
    """Number of items that each query ranks, int64 ``[n]``."""
    count = torch.full_like(queries.id, queries.popularity.numel())
    if exclude_history:
        row = excluded_pairs(queries)[0]
        count -= torch.bincount(row, minlength=count.numel())
    return count


def popularity_ranks(queries: Queries, *, exclude_history: bool) -> Tensor:
    """How many candidates stand before each target in the order of popularity, int64 ``[m]``.

    Items of equal popularity stand in the order of their numbers.
    """
    num_items = queries.popularity.numel()
    place = torch.empty_like(queries.popularity)
    order = queries.popularity.argsort(descending=True, stable=True)
    place[order] = torch.arange(num_items, device=place.device)
    row, item = queries.target
    rank = place[item]
    if exclude_history:
        excluded_row, excluded_item = excluded_pairs(queries)
        # One sorted list answers for all queries: the query is the leading digit.
        key = (excluded_row * num_items + place[excluded_item]).sort().values
        before = torch.searchsorted(key, row * num_items + rank)
        rank = rank - (before - torch.searchsorted(key, row * num_items))
    return rank
