"""Training triples by batch: shuffled positives, each with a uniform negative."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.graph import (
    ITEM,
    USER,
    InteractionBatch,
    all_links,
    known_pairs,
    positive_links,
)

# Streams of randomness within an epoch; the training loop's are 1 and 2. A key that only appends
# zeros to another gives the same draws, so no two of them share a stream.
_ORDER = 0
_NEGATIVES = 3
_STRETCH = 64  # batches that are shuffled together: one by one, calls take longer than the work
_ROUNDS = 6  # of the shuffle; with fewer the order of a handful of links is not quite uniform
_NAMED = 5  # users in a note


def seeded_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose draws depend on ``key`` alone, e.g. ``(seed, epoch, stream)``.

    No generator runs from one epoch to the next, so resuming needs no generator state.
    """
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state)


class TripletSampler:
    """Training triples of an epoch: every link once, shuffled, each with its negatives.

    Any batch of any epoch is computed by itself from ``(seed, epoch, step)``. A negative is uniform
    over the items that occur in :func:`~alignrec_pyg.graph.all_links`, without those of the user,
    be it there or in the :func:`~alignrec_pyg.graph.known_pairs`. It is drawn by rank among the
    allowed items, so no draw is ever rejected. Links of users who have every item give no triples,
    with a ``UserWarning``.

    Args:
        data: Training graph; its :func:`~alignrec_pyg.graph.positive_links` are the positives.
        batch_size: Links per batch; the last one may be shorter.
        num_negatives: Negatives drawn for each link, with replacement. Its user and positive item
            are repeated for each, so a batch holds ``batch_size * num_negatives`` triples.
        known_negatives: How the known pairs are used. ``None``: they are never negatives. Otherwise
            they may be drawn like any item, and this share of the negatives of users who have known
            pairs, in [0, 1], is drawn from these alone.
        seed: Together with epoch and step it determines order and negatives.

    Raises:
        ValueError: If there are no links, every user has every item, or an argument is out of
            range.

    Example:
        >>> import torch
        >>> from torch_geometric.data import HeteroData
        >>> from alignrec_pyg.training import TripletSampler
        >>> data = HeteroData()
        >>> data["user"].num_nodes, data["item"].num_nodes = 2, 3
        >>> links = torch.tensor([[0, 0, 1], [0, 1, 2]])
        >>> data["user", "interacts", "item"].edge_index = links
        >>> sampler = TripletSampler(data, batch_size=2)
        >>> for epoch in range(2):
        ...     batches = [sampler.batch(epoch, step) for step in range(len(sampler))]
        >>> [batch.user.numel() for batch in batches]
        [2, 1]
    """

    def __init__(
        self,
        data: HeteroData,
        *,
        batch_size: int = 2048,
        num_negatives: int = 1,
        known_negatives: float | None = None,
        seed: int = 0,
    ) -> None:
        check_integer("batch_size", batch_size, 1)
        check_integer("num_negatives", num_negatives, 1)
        if known_negatives is not None:
            check_number("known_negatives", known_negatives, least=0, most=1)
        positive = positive_links(data)
        if positive.size(1) == 0:
            raise ValueError("'data' needs at least one link to train on (got none)")
        self.batch_size = batch_size
        self.num_negatives = num_negatives
        self.seed = seed
        self._known_share = known_negatives or 0.0
        num_users, num_items = int(data[USER].num_nodes), int(data[ITEM].num_nodes)

        known, pairs = all_links(data), known_pairs(data)
        occurs = torch.bincount(known[1], minlength=num_items) > 0
        self._candidates = occurs.nonzero().view(-1)
        if known_negatives is None:
            known = torch.cat([known, pairs[:, occurs[pairs[1]]]], dim=1)
        self._pair_item = pairs[1, pairs[0].argsort(stable=True)]
        self._num_pairs = torch.bincount(pairs[0], minlength=num_users)
        self._first_pair = self._num_pairs.cumsum(0) - self._num_pairs
        # Among a user's sorted links p_0 < p_1 < ... (as positions among the candidates), the
        # allowed item of rank r is r + #{j: p_j - j <= r}. p_j - j never falls within a user, so
        # with the user as leading digit one sorted array answers for all users.
        self._stride = self._candidates.numel() + 1
        key = (known[0] * self._stride).add_((occurs.cumsum(0) - 1)[known[1]]).unique()
        user = key // self._stride
        degree = torch.bincount(user, minlength=num_users)
        self._first = degree.cumsum(0) - degree
        self._num_allowed = self._candidates.numel() - degree
        key += self._first[user]
        del user  # freed before the next array of this size
        key -= torch.arange(key.numel(), device=key.device)
        self._sorted_rank = key
        self._positive = self._with_negatives(positive, data)
        self._ordered: tuple[tuple[int, int], Tensor] | None = None

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return -(-self._positive.size(1) // self.batch_size)

    def batch(self, epoch: int, step: int) -> InteractionBatch:
        """A batch of an epoch, on the device of the data; both count from 0."""
        device = self._positive.device
        stretch, number = divmod(step, _STRETCH)
        first = number * self.batch_size
        links = self._positive[:, self._order(epoch, stretch)[first : first + self.batch_size]]
        user, item = links.repeat_interleave(self.num_negatives, dim=1)
        # Drawn on the CPU, so that all devices train on the same triples.
        generator = seeded_generator(self.seed, epoch, _NEGATIVES, step)
        uniform = torch.rand(user.numel(), dtype=torch.float64, generator=generator).to(device)
        rank = (uniform * self._num_allowed[user]).long()
        below = torch.searchsorted(self._sorted_rank, user * self._stride + rank, right=True)
        negative = self._candidates[rank + below - self._first[user]]
        if self._known_share:
            chance, place = torch.rand(2, user.numel(), dtype=torch.float64, generator=generator)
            num_pairs = self._num_pairs[user]
            of_pairs = (chance.to(device) < self._known_share) & (num_pairs > 0)
            chosen = self._first_pair[user] + (place.to(device) * num_pairs).long()
            negative[of_pairs] = self._pair_item[chosen[of_pairs]]
        return InteractionBatch(user, item, negative, self.batch_size * self.num_negatives)

    def _order(self, epoch: int, stretch: int) -> Tensor:
        """The positives of a stretch of batches, in the order of the epoch; the last is kept."""
        if self._ordered is None or self._ordered[0] != (epoch, stretch):
            count, length = self._positive.size(1), _STRETCH * self.batch_size
            ends = stretch * length, min((stretch + 1) * length, count)
            place = torch.arange(*ends, device=self._positive.device)
            order = _shuffled(place, count, seeded_generator(self.seed, epoch, _ORDER))
            self._ordered = (epoch, stretch), order
        return self._ordered[1]

    def _with_negatives(self, positive: Tensor, data: HeteroData) -> Tensor:
        """The positives of users with an item to draw as a negative; a warning names the others."""
        full = (self._num_allowed == 0).nonzero().view(-1)
        if full.numel() == 0:
            return positive
        kept = positive[:, self._num_allowed[positive[0]] > 0]
        number = self._candidates.numel()
        if kept.size(1) == 0:
            raise ValueError(
                f"'data' needs an item to draw as a negative for some user (all are linked to all "
                f"{number} items that occur in the links): add items or interactions of others"
            )
        ids = data[USER].get("id")
        names = [
            f"{user}" if ids is None else f"{user} (id {ids[user].item()!r})"
            for user in full[:_NAMED].tolist()
        ]
        more = f" and {full.numel() - _NAMED} more" if full.numel() > _NAMED else ""
        warnings.warn(
            f"left out of the training triples, as all {number} items that occur in the links are "
            f"theirs and none is left to draw as a negative: user {', '.join(names)}{more}",
            stacklevel=2,
        )
        return kept


def _shuffled(place: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The elements at some positions of a random order of ``range(count)``.

    A Feistel network on the cells of a grid that is just large enough, whose round functions are
    random tables: no more than ``sqrt(count)`` numbers are drawn for each. It is a permutation of
    the cells; a cell beyond ``count`` is mapped again until it is below (`"Ciphers with Arbitrary
    Finite Domains" <https://doi.org/10.1007/3-540-45760-7_9>`_, sections 4 and 5).
    """
    height = math.isqrt(count - 1) + 1
    width = -(-count // height)
    tables = [
        (
            torch.randint(width, (height,), generator=generator).to(place.device),
            torch.randint(height, (width,), generator=generator).to(place.device),
        )
        for _ in range(_ROUNDS)
    ]

    def mapped(cell: Tensor) -> Tensor:
        row, column = cell // width, cell % width
        for shift, fall in tables:
            column = (column + shift[row]) % width
            row = (row + fall[column]) % height
        return row * width + column

    cell = mapped(place)
    beyond = cell >= count
    while bool(beyond.any()):
        cell[beyond] = mapped(cell[beyond])
        beyond = cell >= count
    return cell
