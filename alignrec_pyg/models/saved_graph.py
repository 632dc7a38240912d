"""A graph as tensors and plain values, for a saved model that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import (
    ADDED,
    INTERACTS,
    ITEM,
    KNOWS,
    USER,
    feature_key,
    feature_mask,
    feature_table,
    knn_edge_type,
    known_links,
)
from alignrec_pyg.ids import ids_array

_LINKS = "edge_index"
_KNOWN = "known_pairs"


def graph_tensors(
    data: HeteroData, features: Iterable[str], item_graphs: Iterable[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a model reads of a graph, and what users have had, as tensors and plain values.

    These are ids, links, known pairs (links to predict among them), tables and item graphs.

    Raises:
        ValueError: If an id is neither a string nor a number.
    """
    links: Tensor = data[INTERACTS].edge_index
    known = known_links(data)
    num_items = int(data[ITEM].num_nodes)
    fresh = ~torch.isin(known[0] * num_items + known[1], links[0] * num_items + links[1])
    tensors = {_LINKS: links, _KNOWN: known[:, fresh]}
    facts: dict[str, Any] = {"features": list(features), "item_graphs": list(item_graphs)}
    for kind in (USER, ITEM):
        facts[f"num_{kind}s"] = int(data[kind].num_nodes)
        if "id" in data[kind]:
            ids, dtype = _packed(ids_array(data[kind].id))
            facts[f"{kind}_id"] = dtype
            tensors |= {f"{kind}_id.{name}": value for name, value in ids.items()}
    for name in facts["features"]:
        tensors[f"x.{name}"] = feature_table(data, name)
        tensors[f"mask.{name}"] = feature_mask(data, name)
    for name in facts["item_graphs"]:
        edges = data[knn_edge_type(name)]
        tensors[f"knn.{name}.edge_index"] = edges.edge_index
        tensors[f"knn.{name}.edge_weight"] = edges.edge_weight
    if ADDED in data[ITEM]:
        tensors[ADDED] = data[ITEM][ADDED]
    return tensors, facts


def graph_from_tensors(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> HeteroData:
    """The graph that :func:`graph_tensors` took apart.

    Raises:
        KeyError: If a part is missing.
    """
    data = HeteroData()
    for kind in (USER, ITEM):
        data[kind].num_nodes = facts[f"num_{kind}s"]
        if f"{kind}_id" in facts:
            prefix = f"{kind}_id."
            parts = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
            data[kind].id = _unpacked(parts, facts[f"{kind}_id"])
    data[INTERACTS].edge_index = tensors[_LINKS]
    if tensors[_KNOWN].size(1):
        data[KNOWS].edge_index = tensors[_KNOWN]
    for name in facts["features"]:
        data[ITEM][feature_key(name)] = tensors[f"x.{name}"]
        data[ITEM][f"mask_{name}"] = tensors[f"mask.{name}"]
    for name in facts["item_graphs"]:
        edges = data[knn_edge_type(name)]
        edges.edge_index = tensors[f"knn.{name}.edge_index"]
        edges.edge_weight = tensors[f"knn.{name}.edge_weight"]
    if ADDED in tensors:
        data[ITEM][ADDED] = tensors[ADDED]
    return data


def plain_ids(ids: Any) -> list[Any]:
    """Ids as Python's values, the same for equal ids whatever the type of the array."""
    values = ids_array(ids).tolist()
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def _packed(ids: np.ndarray) -> tuple[dict[str, Tensor], str]:
    """Ids as tensors, and the type that they had."""
    if ids.dtype.kind in "iuf":
        wide = np.int64 if ids.dtype.kind in "iu" else np.float64
        return {"value": torch.from_numpy(ids.astype(wide))}, str(ids.dtype)
    values = plain_ids(ids)
    if not all(type(value) in (str, int) for value in values):
        raise ValueError(
            f"'id' needs to hold strings or whole numbers to be saved (got {values[0]!r})"
        )
    encoded = [str(value).encode() for value in values]
    return {
        "text": torch.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), dtype=torch.uint8),
        "length": torch.tensor([len(text) for text in encoded]),
        "number": torch.tensor([type(value) is int for value in values]),
    }, str(ids.dtype)


def _unpacked(parts: Mapping[str, Tensor], dtype: str) -> np.ndarray:
    if "value" in parts:
        return parts["value"].numpy().astype(dtype)
    text, ends = parts["text"].numpy().tobytes(), parts["length"].cumsum(0).tolist()
    values: list[str | int] = [
        text[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)
    ]
    number = parts["number"].tolist()
    made = np.empty(len(values), dtype=object)
    made[:] = [int(v) if is_number else v for v, is_number in zip(values, number, strict=True)]
    return made if dtype == "object" else made.astype(dtype)
