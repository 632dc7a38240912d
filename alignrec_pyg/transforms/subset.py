"""Selecting nodes or interactions of a graph together with all of their attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS


def check_unsplit(data: HeteroData, transform: str) -> None:
    """Checks that the interactions are not split into known ones and ones to predict."""
    if "edge_label_index" in data[INTERACTS]:
        raise ValueError(
            f"'data' needs to be unsplit (got an edge_label_index): apply {transform} to the whole "
            "graph"
        )


def check_no_item_graphs(data: HeteroData, transform: str) -> None:
    """Checks that the graph has no edges but the interactions."""
    others = [edge_type for edge_type in data.edge_types if edge_type != INTERACTS]
    if others:
        raise ValueError(
            f"'data' needs to have no edges but {INTERACTS} (got {others}): build item graphs "
            f"after {transform}"
        )


def select_nodes(data: HeteroData, node_type: str, nodes: Tensor) -> None:
    """Keeps some nodes of one type, int64 ``[n]``, in place; edges stay as they are."""
    store = data[node_type]
    values = {name: value for name, value in store.items() if name != "num_nodes"}
    store.update(select_rows(values, nodes, int(store.num_nodes), f"{node_type}s"))
    store.num_nodes = nodes.numel()


def select_links(data: HeteroData, links: Tensor) -> None:
    """Keeps the interactions at some positions, int64 ``[n]``, with their attributes, in place."""
    store = data[INTERACTS]
    edge_index: Tensor = store.edge_index
    values = {name: value for name, value in store.items() if name != "edge_index"}
    store.update(select_rows(values, links, edge_index.size(1), "interactions"))
    store.edge_index = edge_index[:, links]


def select_rows(values: dict[str, Any], rows: Tensor, size: int, owner: str) -> dict[str, Any]:
    """The same attributes, restricted to ``rows``, int64 ``[n]``, in this order.

    Tensors, arrays, lists and tuples have one entry per row; scalars, strings, dictionaries and
    ``None`` describe the whole store and are kept unchanged.
    """
    selected: dict[str, Any] = {}
    for name, value in values.items():
        # No np.ndim of a sequence: NumPy would turn its texts or images into one array.
        scalar = isinstance(value, Tensor | np.ndarray) and value.ndim == 0
        if scalar or not isinstance(value, Tensor | np.ndarray | list | tuple):
            selected[name] = value
            continue
        if len(value) != size:
            raise ValueError(
                f"'{name}' needs one row for each of the {size} {owner} (got {len(value)} rows): "
                f"align it, or remove it before this transform"
            )
        if isinstance(value, Tensor):
            selected[name] = value[rows.to(value.device)]
        elif isinstance(value, np.ndarray):
            selected[name] = value[rows.cpu().numpy()]
        else:
            selected[name] = type(value)(value[row] for row in rows.tolist())
    return selected
