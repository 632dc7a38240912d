"""Holding items out entirely, as if they came after training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.graph import INTERACTS, ITEM
from alignrec_pyg.transforms.rows import select_rows


class HoldOutItems(BaseTransform):
    """Parts a share of the items, with all their interactions, from the others.

    The cold-item protocol: models are trained and selected on the first graph, split as ever, as if
    the other items did not exist; the second holds these items' features and links, to see how a
    model ranks them when it meets them (:func:`~alignrec_pyg.serving.add_items`).

    Both graphs have all users. Items are numbered anew from 0 in each, in the old order, with ids
    and everything else that belongs to them. Drawn are items that have interactions, each with the
    same chance.

    Args:
        share: Share of the items with interactions that is held out, rounded down, at least one.
        seed: Seed of the draw.

    Raises:
        ValueError: If an argument is out of range; when applied, if the data is split already,
            holds item graphs (in which known items would hear held-out ones), or fewer than two
            items have interactions.
    """

    def __init__(self, share: float = 0.2, *, seed: int = 0) -> None:
        if not 0 < share < 1:
            raise ValueError(f"'share' needs to be in (0, 1) (got {share!r})")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"'seed' needs to be a non-negative integer (got {seed!r})")
        self.share = share
        self.seed = seed

    def forward(self, data: HeteroData) -> tuple[HeteroData, HeteroData]:
        """The graph without the held-out items, and that of them."""
        others = [edge_type for edge_type in data.edge_types if edge_type != INTERACTS]
        if others:
            raise ValueError(
                f"'data' needs to have no edges but {INTERACTS} (got {others}): build item graphs "
                "after HoldOutItems, on the items that stay"
            )
        if "edge_label_index" in data[INTERACTS]:
            raise ValueError(
                "'data' needs to be unsplit (got an edge_label_index): apply HoldOutItems before "
                "SplitInteractions"
            )
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
    """A shallow copy with some of the items, and their interactions."""
    result = copy.copy(data)
    items = kept.nonzero()[:, 0]
    store = result[ITEM]
    values = {name: value for name, value in store.items() if name != "num_nodes"}
    for name, value in select_rows(values, items, kept.numel(), "items").items():
        store[name] = value
    store.num_nodes = items.numel()
    links = result[INTERACTS]
    edge_index = links.edge_index
    edges = kept[edge_index[1]].nonzero()[:, 0]
    values = {name: value for name, value in links.items() if name != "edge_index"}
    for name, value in select_rows(values, edges, edge_index.size(1), "interactions").items():
        links[name] = value
    number = kept.long().cumsum(0) - 1
    links.edge_index = torch.stack([edge_index[0, edges], number[edge_index[1, edges]]])
    return result
