"""Selecting nodes or interactions of a graph together with all of their attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, KNOWS, USER, has_links_to_predict


def check_unsplit(data: HeteroData, transform: str) -> None:
    """Checks that the interactions are not split into known ones and ones to predict."""
    if has_links_to_predict(data):
        raise ValueError(
            f"'data' needs to be unsplit (got links to predict): apply {transform} before the split"
        )


def check_no_item_graphs(data: HeteroData, transform: str) -> None:
    """Checks that the graph has no edges but the interactions and known pairs."""
    others = [kind for kind in data.edge_types if kind not in (INTERACTS, KNOWS)]
    if others:
        raise ValueError(
            f"'data' needs to have no edges but {INTERACTS} and {KNOWS} (got {others}): build item "
            f"graphs after {transform}"
        )


def select_nodes(data: HeteroData, node_type: str, nodes: Tensor) -> None:
    """Keeps some users or items, ascending int64 ``[n]``, in place, renumbered from 0.

    Interactions and known pairs of the others are removed, with their attributes.
    """
    store = data[node_type]
    count = int(store.num_nodes)
    values = {name: value for name, value in store.items() if name != "num_nodes"}
    store.update(select_rows(values, nodes, count, f"{node_type}s"))
    store.num_nodes = nodes.numel()
    end = 0 if node_type == USER else 1
    for edge_type in (INTERACTS, KNOWS):
        if edge_type in data.edge_types:
            ends = data[edge_type].edge_index[end]
            number = ends.new_full((count,), -1)
            number[nodes] = torch.arange(nodes.numel(), device=ends.device)
            select_links(data, (number[ends] >= 0).nonzero()[:, 0], edge_type)
            edge_index = data[edge_type].edge_index.clone()
            edge_index[end] = number[edge_index[end]]
            data[edge_type].edge_index = edge_index


def select_links(
    data: HeteroData, links: Tensor, edge_type: tuple[str, str, str] = INTERACTS
) -> None:
    """Keeps the interactions at some positions, int64 ``[n]``, with their attributes, in place."""
    store = data[edge_type]
    edge_index: Tensor = store.edge_index
    values = {name: value for name, value in store.items() if name != "edge_index"}
    store.update(select_rows(values, links, edge_index.size(1), "interactions"))
    store.edge_index = edge_index[:, links]


def select_rows(values: dict[str, Any], rows: Tensor, size: int, owner: str) -> dict[str, Any]:
    """The same attributes, restricted to ``rows``, int64 ``[n]``, in this order.

    Tensors, arrays, lists and tuples have one entry per row; scalars, strings, dictionaries and
    ``None`` belong to the graph as a whole and stay unchanged.
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
