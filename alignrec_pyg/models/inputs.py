"""Which feature sets and which item graphs of the data a model reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import ITEM, feature_names, feature_table, item_graph_names

PAPER_DATA_SETS = ("baby", "sports", "elec")
"""Names of the data sets of the AlignRec paper, as folders of them are called."""

MAX_TRAINED_ITEMS = 1_000_000
"""Number of items up to which a model trains its feature tables by default."""


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What a class of models reads of the data, beside the links.

    Code that prepares data for a model (command line, comparison, sweeps, the page) reads it from
    the class.

    Args:
        tables: Feature tables that the argument ``features`` takes: ``"none"``; ``"optional"``,
            those that there are; ``"separate"``, at least one; ``"fused"``, one, into which
            several are concatenated.
        item_graph: kNN item graphs: ``"none"``; ``"one"`` over all tables, named by the argument
            ``item_graph``; ``"per_table"``, named by ``item_graphs``.
        weighting: Edge weights of the item graphs, as
            :class:`~alignrec_pyg.transforms.KNNItemGraph` takes them.
        table_weights: Weights of the tables in the one graph, used where the model reads exactly
            these tables; otherwise, and where there are none, all weigh the same.
        weighted: Whether several tables that are fused weigh as much as the item-CF protocol finds
            in the training links (:func:`~alignrec_pyg.feature_eval.table_weights`), in the fused
            table and thus in the item graph made of it.
    """

    tables: Literal["none", "optional", "separate", "fused"] = "none"
    item_graph: Literal["none", "one", "per_table"] = "none"
    weighting: Literal["cosine", "binary"] = "cosine"
    table_weights: Mapping[str, float] = field(default_factory=dict)
    weighted: bool = False

    def weights(self, tables: Sequence[str]) -> dict[str, float]:
        """Weight of each of ``tables`` in the one item graph; they add up to 1."""
        if self.table_weights and set(tables) == self.table_weights.keys():
            return dict(self.table_weights)
        return dict.fromkeys(tables, 1 / len(tables))


def select_features(data: HeteroData, features: Sequence[str] | None) -> list[str]:
    """The feature sets a model reads: those named, or all that ``data`` holds.

    Raises:
        ValueError: If ``features`` is a string, or one is missing from ``data``, named twice, or no
            float32 table with a row per item.
    """
    if isinstance(features, str):
        raise ValueError(f"'features' needs to be a list of names (got the string {features!r})")
    names = feature_names(data) if features is None else list(features)
    num_items = int(data[ITEM].num_nodes)
    for name in names:
        table = feature_table(data, name)
        if table.dim() != 2 or table.size(0) != num_items or table.dtype != torch.float32:
            raise ValueError(
                f"the feature table '{name}' needs to be float32 of shape [{num_items}, dim] "
                f"(got {table.dtype} of {list(table.shape)}): convert it with .float()"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"'features' needs to name every feature set once (got {names})")
    return names


def require_features(data: HeteroData, features: Sequence[str] | None, model: str) -> list[str]:
    """Like :func:`select_features`, for a model that cannot do without.

    Raises:
        ValueError: If no feature set is left.
    """
    names = select_features(data, features)
    if not names:
        raise ValueError(
            f"{model} needs at least one item feature table, but 'data' holds none "
            '(data["item"].x_<name>): encode the items first, e.g. with EncodeItems'
        )
    return names


def trains_features(freeze_features: bool | None, num_items: int) -> bool:
    """Whether the feature tables of a model are parameters, as ``freeze_features`` says.

    ``None`` freezes them where there are more than :data:`MAX_TRAINED_ITEMS` items, with a
    ``UserWarning``: a trained table is copied five times (weight, gradient, two moments of Adam and
    the best epoch's), while a frozen one stays where it is, be it in a file that is memory-mapped.
    """
    if freeze_features is None and num_items > MAX_TRAINED_ITEMS:
        warnings.warn(
            f"the feature tables of {num_items:,} items stay as they are, since training them "
            "takes five more copies of them: freeze_features=False trains them, and =True hides "
            "this message",
            stacklevel=4,
        )
        return False
    return not freeze_features


def select_item_graph(data: HeteroData, item_graph: str | None) -> str:
    """The kNN item graph a model reads: the one named, or the only one that ``data`` holds.

    Raises:
        ValueError: If it is missing, or several are there and none is named.
    """
    names = item_graph_names(data)
    if item_graph is None and len(names) == 1:
        return names[0]
    if item_graph not in names:
        raise ValueError(
            f"'item_graph' needs to be one of the kNN item graphs of 'data', {names} "
            f"(got {item_graph!r}): build it with KNNItemGraph"
        )
    return item_graph


def select_item_graphs(
    data: HeteroData, item_graphs: Sequence[str] | None, features: Sequence[str]
) -> list[str]:
    """One kNN item graph for each of ``features``: those named, or those of the same names.

    A graph may serve several feature sets if it is named for each of them.

    Raises:
        ValueError: If ``item_graphs`` is a string or has another length than ``features``, or one
            is missing.
    """
    if isinstance(item_graphs, str):
        raise ValueError(
            f"'item_graphs' needs to be a list of names (got the string {item_graphs!r})"
        )
    names = list(features) if item_graphs is None else list(item_graphs)
    if len(names) != len(features):
        raise ValueError(
            f"'item_graphs' needs to name one graph for each of the feature sets {list(features)} "
            f"(got {names})"
        )
    known = item_graph_names(data)
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"'item_graphs' needs to be among the kNN item graphs of 'data', {known} (got "
            f"{names}): build one for each feature set with KNNItemGraph, or name others"
        )
    return names
