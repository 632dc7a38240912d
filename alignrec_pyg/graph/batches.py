"""Input of a training step: triplets, the nodes that occur in them, and neighbour sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class NeighborSampling:
    """How many neighbours of each node a training step samples, instead of reading all of them.

    Args:
        num_neighbors: Neighbours sampled of each node in each hop, from the batch outwards; -1
            takes all. A model with fewer layers ignores the rest.
        generator: Source of randomness; each step of an epoch has its own.
    """

    num_neighbors: Sequence[int]
    generator: torch.Generator

    def of_hop(self, hop: int) -> int:
        """Neighbours to sample in a hop, counted from 0.

        Raises:
            ValueError: If there is no entry for it.
        """
        if hop >= len(self.num_neighbors):
            raise ValueError(
                f"'fan_out' needs an entry for each of the model's layers (got "
                f"{len(self.num_neighbors)}, and a layer {hop + 1})"
            )
        return self.num_neighbors[hop]


@dataclass(frozen=True, eq=False)
class Nodes:
    """Users and items whose vectors are to be computed, by index, ascending, each once.

    Args:
        user: Users.
        item: Items.
        sampling: Sampling of their neighbourhoods (``None``: all neighbours are read).

    Shapes:
        - **user:** int64 :math:`(n)`
        - **item:** int64 :math:`(m)`
    """

    user: Tensor
    item: Tensor
    sampling: NeighborSampling | None = None


@dataclass(frozen=True, eq=False)
class InteractionBatch:
    """Training triplets: ``user[b]`` interacted with ``pos_item[b]``, but not with ``neg_item[b]``.

    Args:
        user: Users.
        pos_item: Items that the users interacted with.
        neg_item: Items that the users did not interact with.
        full_size: Configured batch size, also in a shorter last batch (0: the size of this one).
        nodes: The users and items that the triplets index (``None``: all of the graph).
        sampling: Sampling of the neighbourhoods of these nodes (``None``: all neighbours are read).

    Shapes:
        - **user, pos_item, neg_item:** int64 :math:`(B)`
    """

    user: Tensor
    pos_item: Tensor
    neg_item: Tensor
    full_size: int = 0
    nodes: Nodes | None = None
    sampling: NeighborSampling | None = None

    def __post_init__(self) -> None:
        """Fills in the size."""
        if self.full_size == 0:
            object.__setattr__(self, "full_size", self.user.numel())

    def __iter__(self) -> Iterator[Tensor]:
        """The three columns: ``user, pos_item, neg_item = batch``."""
        return iter((self.user, self.pos_item, self.neg_item))

    def compact(self) -> InteractionBatch:
        """The same triplets, as indices into the users and items that occur, its ``nodes``.

        ``model(data, batch.nodes)`` computes the vectors that the new batch indexes.
        """
        users, user = self.user.unique(return_inverse=True)
        items, item = torch.cat([self.pos_item, self.neg_item]).unique(return_inverse=True)
        pos_item, neg_item = item.split(self.pos_item.numel())
        nodes = Nodes(users, items, self.sampling)
        return InteractionBatch(user, pos_item, neg_item, self.full_size, nodes)
