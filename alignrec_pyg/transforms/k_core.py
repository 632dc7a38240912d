"""Dropping users and items with few interactions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.graph import INTERACTS, ITEM, USER, core_links
from alignrec_pyg.transforms.rows import select_rows


class KCore(BaseTransform):
    """Keeps the largest part in which every user and every item has ``k`` interactions or more.

    Users and items below ``k`` are dropped together, again and again until none is left to drop.
    What remains is numbered anew from 0, in the old order, with everything that belongs to it: ids,
    feature tables and masks, texts, images, and the times, ratings and labels of the interactions.
    A pair that occurs twice counts twice.

    Args:
        k: Interactions that a user or item needs at least; 1 drops only those without any.

    Raises:
        ValueError: If ``k`` is no positive integer; when applied, if nothing is left, if the data
            is split already, or if it holds further edges (item graphs) over the nodes to drop.

    Example:
        >>> import torch
        >>> from torch_geometric.data import HeteroData
        >>> from alignrec_pyg.transforms import KCore
        >>> data = HeteroData()
        >>> data["user"].num_nodes, data["item"].num_nodes = 3, 2
        >>> pairs = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 0, 1, 0]])
        >>> data["user", "interacts", "item"].edge_index = pairs
        >>> KCore(2)(data)["user"].num_nodes
        2
    """

    def __init__(self, k: int = 5) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"'k' needs to be an integer of at least 1 (got {k!r})")
        self.k = k

    def forward(self, data: HeteroData) -> HeteroData:
        """Filters ``data``; the input is left as it was."""
        self._check(data)
        links = data[INTERACTS]
        edge_index: Tensor = links.edge_index
        edges = core_links(edge_index[0], edge_index[1], self.k)
        if edges.numel() == 0:
            raise ValueError(
                f"'k' leaves no interactions (got {self.k} for {edge_index.size(1)} interactions "
                f"of {data[USER].num_nodes} users and {data[ITEM].num_nodes} items): "
                "choose a smaller k"
            )

        user, item = edge_index[:, edges]
        users, new_user = user.unique(return_inverse=True)
        items, new_item = item.unique(return_inverse=True)
        for node_type, nodes in ((USER, users), (ITEM, items)):
            store = data[node_type]
            values = {name: value for name, value in store.items() if name != "num_nodes"}
            for name, value in select_rows(values, nodes, store.num_nodes, f"{node_type}s").items():
                store[name] = value
            store.num_nodes = nodes.numel()
        values = {name: value for name, value in links.items() if name != "edge_index"}
        for name, value in select_rows(values, edges, edge_index.size(1), "interactions").items():
            links[name] = value
        links.edge_index = torch.stack([new_user, new_item])
        return data

    def _check(self, data: HeteroData) -> None:
        others = [edge_type for edge_type in data.edge_types if edge_type != INTERACTS]
        if others:
            raise ValueError(
                f"'data' needs to have no edges but {INTERACTS} (got {others}): "
                f"build item graphs after KCore"
            )
        if "edge_label_index" in data[INTERACTS]:
            raise ValueError(
                "'data' needs to be unsplit (got an edge_label_index): apply KCore before "
                "SplitInteractions"
            )

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(k={self.k})"
