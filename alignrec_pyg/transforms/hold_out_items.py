"""Splits of the items for the evaluation of cold items."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.graph import INTERACTS, ITEM
from alignrec_pyg.transforms.subset import check_no_item_graphs, check_unsplit, select_nodes


class HoldOutItems(BaseTransform):
    """Separates a share of the items, with all of their interactions, from the others.

    This is the cold-item protocol: models are trained and selected on the first graph, which is
    split as usual, without the held-out items. The second graph has the features and interactions
    of the held-out items, to evaluate how a model ranks them when they are added
    (:func:`~alignrec_pyg.serving.add_items`).

    Both graphs have all users. In each, items are renumbered from 0 in their old order, with all of
    their attributes. The held-out items are drawn uniformly from those with interactions.

    Args:
        share: Share of the items with interactions to hold out, rounded down, at least one item.
        seed: Seed of the random selection.

    Raises:
        ValueError: If an argument is out of range; when applied, if the data is split already,
            has item graphs (which would connect known to held-out items), or fewer than two items
            have interactions.
    """

    def __init__(self, share: float = 0.2, *, seed: int = 0) -> None:
        check_number("share", share, above=0, below=1)
        self.share = share
        self.seed = check_integer("seed", seed, 0)

    def forward(self, data: HeteroData) -> tuple[HeteroData, HeteroData]:
        """Returns the graph without the held-out items, and the graph of the held-out items."""
        check_no_item_graphs(data, "HoldOutItems")
        check_unsplit(data, "HoldOutItems")
        item = data[INTERACTS].edge_index[1]
        linked = item.unique()
        count = max(1, int(self.share * linked.numel()))
        if linked.numel() <= count:
            raise ValueError(
                f"'data' needs at least two items with interactions (got {linked.numel()})"
            )
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(linked.numel(), generator=generator)[:count].to(linked.device)
        held_out = torch.zeros(int(data[ITEM].num_nodes), dtype=torch.bool, device=item.device)
        held_out[linked[drawn]] = True
        return _of_items(data, ~held_out), _of_items(data, held_out)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(share={self.share}, seed={self.seed})"


def _of_items(data: HeteroData, kept: Tensor) -> HeteroData:
    """A shallow copy with the items of the mask ``kept``, their interactions and known pairs."""
    result = copy.copy(data)
    select_nodes(result, ITEM, kept.nonzero()[:, 0])
    return result
