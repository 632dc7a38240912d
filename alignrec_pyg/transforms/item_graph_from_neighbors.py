"""Item graphs from given neighbour lists, such as published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.checks import check_choice
from alignrec_pyg.graph import ITEM, knn_edge_type
from alignrec_pyg.transforms.item_graph import (
    checked_name,
    checked_weights,
    data_device,
    normalized_weight,
    weighted_sum,
)
from alignrec_pyg.transforms.knn_item_graph import Weighting


class NeighborLists(NamedTuple):
    """The nearest neighbours of every item, in any order.

    Shapes:
        - **neighbor:** int64 :math:`(|I|, k)`
        - **cosine:** float32 :math:`(|I|, k)`, or ``None`` if unknown
    """

    neighbor: Tensor
    cosine: Tensor | None = None

    @classmethod
    def load(cls, path: str | Path) -> NeighborLists:
        """Reads ``neighbor`` and, if present, ``cosine`` from an ``.npz`` file.

        Raises:
            ValueError: If the file is missing or damaged, contains Python objects or no
                ``neighbor``, or the arrays have other element types than integers and floats.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("neighbor", "cosine") if name in file}
        except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
            raise ValueError(
                f"'path' needs an intact .npz file of plain arrays ({path}: {error})"
            ) from error
        if "neighbor" not in arrays or arrays["neighbor"].dtype.kind not in "iu":
            raise ValueError(f"{path} needs an integer array 'neighbor' (got {_kinds(arrays)})")
        if "cosine" in arrays and arrays["cosine"].dtype.kind != "f":
            raise ValueError(f"{path} needs a float array 'cosine' (got {_kinds(arrays)})")
        cosine = arrays.get("cosine")
        return cls(
            torch.from_numpy(arrays["neighbor"].astype(np.int64)),
            None if cosine is None else torch.from_numpy(cosine.astype(np.float32)),
        )


class ItemGraphFromNeighbors(BaseTransform):
    r"""Connects every item with given neighbours.

    Adds ``data["item", "knn_<name>", "item"]`` exactly as
    :class:`~alignrec_pyg.transforms.KNNItemGraph` does, for given neighbours:

    .. math::
        s_{ij} = \frac{w_{ij}}{\sqrt{d_i d_j}}, \qquad d_i = \sum_j w_{ij},

    with :math:`w_{ij}` the given cosine or 1. The lists are not modified: an item is its own
    neighbour only if it is in its list. Several lists give the weighted sum of their graphs. The
    result is on the device of ``data``.

    Args:
        neighbors: Neighbour lists by the name of the feature that they were computed from.
        weights: Weight of each graph (default: equal weights that sum to 1).
        weighting: ``"cosine"`` or ``"binary"`` (:math:`w_{ij} = 1`).
        name: Name of the graph; by default the names of the lists joined by ``"_"``.

    Raises:
        ValueError: If an argument is out of range, or the cosines for ``weighting="cosine"`` are
            missing; when applied, if the lists do not fit the items of ``data``.
    """

    def __init__(
        self,
        neighbors: Mapping[str, NeighborLists],
        *,
        weights: Mapping[str, float] | None = None,
        weighting: Weighting = "binary",
        name: str | None = None,
    ) -> None:
        if not neighbors:
            raise ValueError("'neighbors' needs at least one list (got none)")
        check_choice("weighting", weighting, get_args(Weighting))
        if weights is None:
            weights = dict.fromkeys(neighbors, 1 / len(neighbors))
        if weights.keys() != neighbors.keys():
            raise ValueError(
                f"'weights' needs a weight for each of {list(neighbors)} (got {dict(weights)})"
            )
        lacking = [feature for feature, lists in neighbors.items() if lists.cosine is None]
        if weighting == "cosine" and lacking:
            raise ValueError(
                f"weighting='cosine' needs the cosines of every list (missing: {lacking}): give "
                "them, or use weighting='binary'"
            )
        self.neighbors = dict(neighbors)
        self.weights = checked_weights("weights", weights)
        self.weighting = weighting
        self.name = checked_name(name, neighbors)

    def forward(self, data: HeteroData) -> HeteroData:
        """Returns a copy of ``data`` with the graph; the input is unchanged."""
        num_items = int(data[ITEM].num_nodes)
        graphs = []
        for feature, lists in self.neighbors.items():
            _check(feature, lists, num_items)
            graphs.append((self.weights[feature], *self._single(lists, num_items)))
        edge_index, weight = weighted_sum(graphs, num_items)
        device = data_device(data)
        store = data[knn_edge_type(self.name)]
        store.edge_index, store.edge_weight = edge_index.to(device), weight.to(device)
        return data

    def _single(self, lists: NeighborLists, num_items: int) -> tuple[Tensor, Tensor]:
        """Normalised graph of one list on the CPU, weights in double precision."""
        source = lists.neighbor.reshape(-1).long().cpu()
        target = torch.arange(num_items).repeat_interleave(lists.neighbor.size(1))
        similarity = torch.ones(source.numel(), dtype=torch.float64)
        if self.weighting == "cosine" and lists.cosine is not None:
            similarity = lists.cosine.reshape(-1).double().cpu()
        weight = normalized_weight(source, target, similarity, num_items)
        return torch.stack([source, target]), weight

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.weights}, weighting='{self.weighting}', "
            f"name='{self.name}')"
        )


def _check(feature: str, lists: NeighborLists, num_items: int) -> None:
    neighbor, cosine = lists
    if neighbor.dim() != 2 or neighbor.size(0) != num_items or neighbor.size(1) == 0:
        raise ValueError(
            f"neighbours '{feature}' need the shape ({num_items}, k) with k >= 1, one row per item "
            f"(got {tuple(neighbor.shape)})"
        )
    outside = ((neighbor < 0) | (neighbor >= num_items)).any(dim=1).nonzero()[:, 0].tolist()
    if outside:
        raise ValueError(
            f"neighbours '{feature}' need item numbers in [0, {num_items - 1}] "
            f"({len(outside)} rows have others, the first: {outside[:5]})"
        )
    ordered = neighbor.sort(dim=1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()[:, 0].tolist()
    if repeated:
        raise ValueError(
            f"neighbours '{feature}' need each neighbour of an item once "
            f"({len(repeated)} rows repeat one, the first: {repeated[:5]})"
        )
    if cosine is not None and (cosine.shape != neighbor.shape or not bool(cosine.isfinite().all())):
        raise ValueError(
            f"the cosines of neighbours '{feature}' need to be finite, of the shape "
            f"{tuple(neighbor.shape)} (got {tuple(cosine.shape)})"
        )


def _kinds(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name}: {array.dtype}" for name, array in arrays.items()) or "neither"
