"""Shuffled positives and uniform negatives, a whole epoch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_integer
from alignrec_pyg.graph import INTERACTS, USER, InteractionBatch


def seeded_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose draws depend on ``key`` alone, e.g. ``(seed, epoch, stream)``.

    No generator runs from one epoch to the next, so resuming needs no generator state.
    """
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state)


class TripletSampler:
    """Training triples of an epoch: every link once, shuffled, each with one negative.

    A negative is uniform over the items that occur in the links, without those linked to the user.
    It is drawn by rank among the allowed items, so no draw is ever rejected.

    Args:
        data: Training graph; its ``edge_label_index`` (else its ``edge_index``) are the positives.
        batch_size: Rows per batch; the last one may be shorter.
        seed: Together with the epoch's index it determines order and negatives.

    Raises:
        ValueError: If there are no links, or a user is linked to every item.
    """

    def __init__(self, data: HeteroData, *, batch_size: int = 2048, seed: int = 0) -> None:
        check_integer("batch_size", batch_size, 1)
        known = data[INTERACTS].edge_index.cpu()
        positive = data[INTERACTS].get("edge_label_index", known).cpu()
        if positive.size(1) == 0:
            raise ValueError("'data' needs at least one link to train on (got none)")
        self.batch_size = batch_size
        self.seed = seed
        self._device = data[INTERACTS].edge_index.device
        self._user, self._item = positive
        num_users = int(data[USER].num_nodes)

        self._candidates, position = known[1].unique(return_inverse=True)
        key = (known[0] * self._candidates.numel() + position).unique()
        user, position = key // self._candidates.numel(), key % self._candidates.numel()
        degree = torch.bincount(user, minlength=num_users)
        self._first = degree.cumsum(0) - degree
        self._num_allowed = self._candidates.numel() - degree
        full = self._user[self._num_allowed[self._user] == 0]
        if full.numel():
            raise ValueError(
                "'data' needs an item to draw as a negative for every user (user "
                f"{int(full[0])} is linked to all {self._candidates.numel()} items): drop such "
                "users or add items"
            )
        # Among a user's sorted links p_0 < p_1 < ..., the allowed item of rank r is
        # r + #{j: p_j - j <= r}. p_j - j never falls within a user, so with the user as leading
        # digit one sorted array answers for all users.
        rank = position - (torch.arange(key.numel()) - self._first[user])
        self._stride = self._candidates.numel() + 1
        self._sorted_rank = user * self._stride + rank

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-self._user.numel() // self.batch_size)

    def epoch(self, index: int) -> Iterator[InteractionBatch]:
        """Batches of an epoch, on the device of the data; ``index`` is 0 for the first one."""
        generator = seeded_generator(self.seed, index, 0)
        order = torch.randperm(self._user.numel(), generator=generator)
        user, item = self._user[order], self._item[order]
        negative = self._negatives(user, generator)
        columns = (
            column.to(self._device).split(self.batch_size) for column in (user, item, negative)
        )
        for user, item, negative in zip(*columns, strict=True):
            yield InteractionBatch(user, item, negative, self.batch_size)

    def _negatives(self, user: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(user.numel(), dtype=torch.float64, generator=generator)
        rank = (uniform * self._num_allowed[user]).long()
        below = torch.searchsorted(self._sorted_rank, user * self._stride + rank, right=True)
        return self._candidates[rank + below - self._first[user]]
