"""Feature tables of items, masks of missing features, and item graphs, by name."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph.schema import INTERACTS, ITEM

ADDED = "added"

_FEATURE = "x_"
_MASK = "mask_"
_KNN = "knn_"


def feature_key(name: str) -> str:
    """Attribute of ``data["item"]`` with the feature table ``name``."""
    return _FEATURE + name


def mask_key(name: str) -> str:
    """Attribute of ``data["item"]`` that marks items without the feature ``name``."""
    return _MASK + name


def knn_edge_type(name: str) -> tuple[str, str, str]:
    """Edge type of the kNN item graph ``name``."""
    return (ITEM, _KNN + name, ITEM)


def feature_names(data: HeteroData) -> list[str]:
    """Names of the item feature tables in ``data``, sorted."""
    stored = data[ITEM].to_dict()
    return sorted(key.removeprefix(_FEATURE) for key in stored if key.startswith(_FEATURE))


def item_graph_names(data: HeteroData) -> list[str]:
    """Names of the kNN item graphs in ``data``, sorted."""
    return sorted(
        relation.removeprefix(_KNN)
        for source, relation, target in data.edge_types
        if source == target == ITEM and relation.startswith(_KNN)
    )


def feature_table(data: HeteroData, name: str) -> Tensor:
    """The feature table ``name``, float32 ``[num_items, dim]``.

    Raises:
        ValueError: If ``data`` has no such table.
    """
    if feature_key(name) not in data[ITEM]:
        raise ValueError(
            f"'{name}' needs to be one of the feature tables {feature_names(data)} "
            f'(data["item"].{feature_key(name)} is missing)'
        )
    return data[ITEM][feature_key(name)]


def feature_mask(data: HeteroData, name: str) -> Tensor:
    """The mask of items without the feature ``name``, bool ``[num_items]``."""
    table = feature_table(data, name)
    if mask_key(name) not in data[ITEM]:
        return torch.zeros(table.size(0), dtype=torch.bool, device=table.device)
    return data[ITEM][mask_key(name)]


def added_items(data: HeteroData) -> Tensor:
    """The mask of items that were added after training, bool ``[num_items]``."""
    added: Tensor | None = data[ITEM].get(ADDED)
    if added is None:
        device = data[INTERACTS].edge_index.device
        return torch.zeros(int(data[ITEM].num_nodes), dtype=torch.bool, device=device)
    return added
