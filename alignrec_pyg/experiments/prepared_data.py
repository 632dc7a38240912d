"""A split data set, with the fused tables and item graphs that models read."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments.cells import TEST, Parts, rank_unknown_items
from alignrec_pyg.experiments.settings import errors_about, models_of_links
from alignrec_pyg.feature_eval import table_weights
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    content_hash,
    feature_key,
    feature_names,
    item_graph_names,
    knn_edge_type,
    links_to_predict,
    mask_key,
)
from alignrec_pyg.models import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.report import DataReport, SplitReport, describe
from alignrec_pyg.transforms import (
    ConcatFeatures,
    ItemGraphFromNeighbors,
    KNNItemGraph,
    NeighborLists,
)
from alignrec_pyg.transforms.knn_item_graph import Weighting
from alignrec_pyg.transforms.split_interactions import SplitRule

Scale = Literal["rows", "raw"]
"""Feature rows at length 1, or as they are stored."""

GraphTransform = KNNItemGraph | ItemGraphFromNeighbors
"""What builds an item graph, of feature tables or of neighbour lists."""

NUM_NEIGHBORS = 10

_MANY_ITEMS = 200_000  # whose exact neighbours take minutes


@dataclass(kw_only=True)
class PreparedData:
    """A split data set. Fused tables and item graphs are made when a model first reads them.

    ``train``, ``val`` and ``test`` are the parts, ``known`` has all links, to recommend from, and
    ``cold`` the items held out entirely, where any were. ``exclude_known_pairs`` says that tests do
    not rank them. ``hashes`` are of ids, links and labels,
    under ``""``, and of each table as it is stored; ``item_graphs`` says how each was made, with
    its hash, ``graph_transforms`` what made it, and ``fused_weights`` what the tables weigh in a
    fused one where they do not weigh the same. ``neighbor_recall`` is as in ``prepare``.
    """

    name: str
    train: HeteroData
    val: HeteroData
    test: HeteroData
    known: HeteroData
    hashes: dict[str, str]
    features: list[str]
    scale: Scale
    neighbors: dict[str, NeighborLists]
    source_report: DataReport
    split: SplitReport
    split_rule: SplitRule
    item_neighbors: int = NUM_NEIGHBORS
    neighbor_recall: float | None = None
    cache: Path | None = None
    item_graphs: dict[str, str] = field(default_factory=dict)
    fused_weights: dict[str, dict[str, float]] = field(default_factory=dict)
    graph_transforms: dict[str, GraphTransform] = field(default_factory=dict)
    cold: HeteroData | None = None
    val_from_train: float | None = None
    exclude_known_pairs: bool = False

    @property
    def parts(self) -> Parts:
        """The graphs, for ``run_cells``, and how the test graph is ranked."""
        parts = Parts(self.train, self.val, {TEST: self.test})
        if self.exclude_known_pairs:
            parts = parts._replace(ranked=rank_unknown_items, ranked_by="without known pairs")
        return parts

    @property
    def report(self) -> DataReport:
        """What was read, with the tables that were made of it since."""
        known = {feature.name: feature for feature in self.source_report.features}
        there = describe(self.train).features
        return replace(
            self.source_report,
            features=tuple(known.get(feature.name, feature) for feature in there),
        )

    def why_not(self, model: type[Recommender]) -> str | None:
        """Why a model cannot run on all feature sets; ``None`` if it can."""
        reads = model.inputs
        if reads.tables in ("separate", "fused") and not self.features:
            others = ", ".join(models_of_links())
            return f"needs a feature table, and the data has none: {others} need none"
        if reads.item_graph == "one" and not self.features and not self.neighbors:
            return (
                "needs an item graph: give feature tables, or, of a folder, neighbour lists with "
                "--neighbors"
            )
        lacking = [name for name, entry in self.neighbors.items() if entry.cosine is None]
        if reads.item_graph == "per_table":
            lacking = [name for name in lacking if name in self.features]
        if reads.item_graph != "none" and reads.weighting == "cosine" and lacking:
            return f"needs the cosines of the neighbours, which {', '.join(lacking)} lacks"
        return model.why_not(self.train)

    def inputs(
        self, model: type[Recommender], features: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """``features`` and item graph arguments of a model, on some feature sets (default: all).

        They follow from ``Recommender.inputs`` of the class. Neighbour lists take the tables'
        place: for all features all lists, for some of them the lists of their names, where there
        are any. A model with a graph per table reads the list of the table's name, or the table's
        own neighbours.

        Raises:
            SettingsError: If a graph is impossible.
        """
        chosen = list(self.features if features is None else features)
        arguments: dict[str, Any] = {}
        if model.inputs.tables == "fused":
            arguments["features"] = [self._fused(model.inputs, chosen)]
        elif model.inputs.tables != "none":
            arguments["features"] = chosen
        if model.inputs.item_graph == "one":
            arguments["item_graph"] = self._item_graph(model.inputs, chosen)
        if model.inputs.item_graph == "per_table":
            weighting = model.inputs.weighting
            arguments["item_graphs"] = [self._table_graph(name, weighting) for name in chosen]
        return arguments

    def _fused(self, reads: ModelInputs, chosen: Sequence[str]) -> str:
        """The one table of some features: the only one there is, or their concatenation."""
        weighted = reads.weighted and len(chosen) > 1
        # "+" is a sign that no table's own name holds.
        name = "+".join(["weighted", *chosen] if weighted else chosen)
        if name not in feature_names(self.train):
            weights = None
            if weighted:
                # Rounded, since the last digits are not the same on all machines.
                found = table_weights(self.train, chosen)
                weights = {table: round(weight, 2) for table, weight in found.items()}
                self.fused_weights[name] = weights
            fuse = ConcatFeatures(chosen, name, normalize=False, weights=weights)
            made = fuse(self.train)[ITEM]
            for part in (self.train, self.val, self.test, self.known):
                for key in (feature_key(name), mask_key(name)):
                    part[ITEM][key] = made[key]
            if self.cold is not None:
                self.cold = fuse(self.cold)
        return name

    def _item_graph(self, reads: ModelInputs, chosen: Sequence[str]) -> str:
        """The graph over some features, built where it is not there yet."""
        weighting = reads.weighting
        lists = {name: entry for name, entry in self.neighbors.items() if name in chosen}
        if set(chosen) == set(self.features):
            lists = self.neighbors
        name = "+".join([weighting, *(lists or chosen)])
        if reads.weighted and not lists and len(chosen) > 1:
            name = f"weighted+{name}"
        names = list(lists or chosen)
        weights = reads.weights(names)
        if lists:
            return self._built(
                name,
                ItemGraphFromNeighbors(lists, weights=weights, weighting=weighting, name=name),
            )
        if reads.tables == "fused":
            weights = {self._fused(reads, chosen): 1.0}
        return self._knn_graph(name, weights, weighting)

    def _table_graph(self, feature: str, weighting: Weighting) -> str:
        """The graph of one table, built where it is not there yet."""
        if feature in self.neighbors:
            lists = {feature: self.neighbors[feature]}
            return self._built(
                feature,
                ItemGraphFromNeighbors(lists, weights={feature: 1.0}, weighting=weighting),
            )
        return self._knn_graph(feature, feature, weighting)

    def _knn_graph(self, name: str, tables: str | Mapping[str, float], weighting: Weighting) -> str:
        """The kNN graph of tables; those of several numbers of neighbours stand side by side."""
        k = self.item_neighbors
        name = name if k == NUM_NEIGHBORS else f"{name}+k{k}"
        how: dict[str, Any] = {"weighting": weighting, "name": name, "cache_dir": self.cache}
        num_items = self.train[ITEM].num_nodes
        if self.neighbor_recall is not None:
            how |= {"backend": "faiss", "min_recall": self.neighbor_recall}
        elif num_items > _MANY_ITEMS:
            warnings.warn(
                f"the exact neighbours of {num_items:,} items take a time that grows with the "
                "square of this number: --neighbor-recall 0.95 takes a fraction of it",
                stacklevel=2,
            )
        return self._built(name, KNNItemGraph(tables, k, **how))

    def _built(self, name: str, transform: GraphTransform) -> str:
        if name not in item_graph_names(self.train):
            option = "--neighbors" if self.neighbors else "--item-neighbors"
            if self.neighbor_recall is not None:
                option += ", --neighbor-recall"
            with errors_about(option):
                edges = transform(self.train)[knn_edge_type(name)]
            for part in (self.train, self.val, self.test, self.known):
                part[knn_edge_type(name)].edge_index = edges.edge_index
                part[knn_edge_type(name)].edge_weight = edges.edge_weight
            digest = content_hash(edges.edge_index, edges.edge_weight)
            recall = f", recall {edges.recall:.4f}" if "recall" in edges else ""
            self.item_graphs[name] = f"{transform!r}{recall}, hash {digest}"
            self.graph_transforms[name] = transform
        return name


def val_known_at_test(data: PreparedData) -> HeteroData:
    """The test graph with the validation links known: in the graph, and left out of rankings."""
    test = copy.copy(data.test)
    edges = test[INTERACTS]
    edges.edge_index = torch.cat([edges.edge_index, links_to_predict(data.val)], dim=1)
    return test
