"""The node and edge types of the data, and functions for any graph of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

USER = "user"
ITEM = "item"
INTERACTS = (USER, "interacts", ITEM)
KNOWS = (USER, "knows", ITEM)


def require_graph(data: object, argument: str) -> HeteroData:
    """Checks that ``data`` is a graph with users, items and interactions, and returns it.

    Raises:
        ValueError: If it is not; the message contains ``argument``.
    """
    if not isinstance(data, HeteroData):
        raise ValueError(
            f"'{argument}' needs to be a HeteroData (got {type(data).__name__}): pass the .data of "
            "a dataset, split with SplitInteractions"
        )
    if INTERACTS not in data.edge_types or "edge_index" not in data[INTERACTS]:
        raise ValueError(f"'{argument}' needs links in data[{INTERACTS}].edge_index (it has none)")
    return data


def on_device(data: HeteroData, device: torch.device | str) -> HeteroData:
    """Returns a copy of the graph with its tensors on a device; the given graph is not changed.

    In contrast, PyG's ``data.to(device)`` moves the given graph, and converts images that are
    stored as bytes to lists of numbers.
    """
    moved = copy.copy(data)
    for store in moved.stores:
        for name, value in list(store.items()):
            if isinstance(value, Tensor):
                store[name] = value.to(device)
    return moved
