"""From a data set to what the models of an experiment read: split, feature tables, item graphs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import unknown_names
from alignrec_pyg.datasets import MMRecFolder, Synthetic
from alignrec_pyg.datasets.features import add_feature, feature_name
from alignrec_pyg.encoders import PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.experiments.cells import TEST, Parts, rank_unknown_items
from alignrec_pyg.experiments.settings import SettingsError, models_of_links
from alignrec_pyg.feature_eval import table_weights
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    KNOWS,
    USER,
    content_hash,
    feature_key,
    feature_mask,
    feature_names,
    feature_table,
    item_graph_names,
    knn_edge_type,
    known_pairs,
    links_to_predict,
    mask_key,
)
from alignrec_pyg.models import Recommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn.features import uneven_rows
from alignrec_pyg.report import DataReport, SplitReport, describe, describe_split
from alignrec_pyg.tables import read_npy
from alignrec_pyg.transforms import (
    ConcatFeatures,
    EncodeItems,
    HoldOutItems,
    ItemGraphFromNeighbors,
    KNNItemGraph,
    NeighborLists,
    SplitInteractions,
)
from alignrec_pyg.transforms.knn_item_graph import Weighting
from alignrec_pyg.transforms.split_interactions import SplitRule

SYNTHETIC = "synthetic"

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

    def why_not(
        self, model: type[Recommender], features: Sequence[str] | None = None
    ) -> str | None:
        """Why a model cannot run on ``features`` (default: all); ``None`` if it can."""
        reads = model.inputs
        chosen = self.features if features is None else features
        if reads.tables in ("separate", "fused") and not chosen:
            others = ", ".join(models_of_links())
            return f"needs a feature table, and the data has none: {others} need none"
        if reads.item_graph == "one" and not chosen and not self.neighbors:
            return (
                "needs an item graph: give feature tables, or, of a folder, neighbour lists with "
                "--neighbors"
            )
        lacking = [name for name, entry in self.neighbors.items() if entry.cosine is None]
        if reads.item_graph == "per_table":
            lacking = [name for name in lacking if name in chosen]
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


def prepare(
    source: str,
    *,
    features: Sequence[str] | None = None,
    tables: Mapping[str, Path] | None = None,
    neighbors: Mapping[str, Path] | None = None,
    split: SplitRule | None = None,
    scale: Scale = "rows",
    held_out: HoldOutItems | None = None,
    item_neighbors: int | None = None,
    neighbor_recall: float | None = None,
    cache: Path | None = None,
    val_from_train: float | None = None,
    exclude_known_pairs: bool = False,
) -> PreparedData:
    """Reads, encodes and splits a data set.

    Args:
        source: ``"synthetic"``, or a folder in MMRec format.
        features: Feature tables to use (default: all).
        tables: ``.npy`` files with further feature tables, by name; row r belongs to item r.
        neighbors: ``.npz`` files with neighbour lists, by feature name.
        split: Rule (default: the file's labels where there are any, else ``"random"``).
        scale: Whether feature rows are scaled to length 1, so that no table outweighs another or
            the IDs by its unit, or stay as they are stored.
        held_out: Parts items from the others before anything else is done with them.
        item_neighbors: Neighbours of an item in the graphs made of tables (default: 10, or as many
            as the smallest table has items).
        neighbor_recall: Makes these graphs by ``KNNItemGraph(backend="faiss", min_recall=)`` with
            this recall (default: by exact search).
        cache: Folder that caches item graphs from one run to the next.
        val_from_train: Share of the training links that becomes the validation part, where the
            labels have none.
        exclude_known_pairs: Whether known pairs are left out of the rankings of tests.

    Raises:
        SettingsError: If features are unknown, table or neighbour files unfit (it lists all of
            them), if the data is not as described by its reader, or if the split is impossible.
    """
    problems: list[str] = []
    data, report, _ = read(source, features, tables, problems)
    lists = _read_neighbors(neighbors or {}, problems)
    if problems:
        raise SettingsError(problems)
    return prepare_graph(
        data,
        report,
        name=data_name(source),
        neighbors=lists,
        split=split,
        scale=scale,
        held_out=held_out,
        item_neighbors=item_neighbors,
        neighbor_recall=neighbor_recall,
        cache=cache,
        val_from_train=val_from_train,
        exclude_known_pairs=exclude_known_pairs,
    )


def prepare_graph(
    data: HeteroData,
    report: DataReport,
    *,
    name: str,
    neighbors: Mapping[str, NeighborLists] | None = None,
    split: SplitRule | None = None,
    scale: Scale = "rows",
    held_out: HoldOutItems | None = None,
    item_neighbors: int | None = None,
    neighbor_recall: float | None = None,
    cache: Path | None = None,
    val_from_train: float | None = None,
    exclude_known_pairs: bool = False,
) -> PreparedData:
    """Splits data that have been read and encoded; all their feature tables are used.

    The arguments are those of :func:`prepare`; the tables of ``data`` are scaled in place.

    Raises:
        SettingsError: If the split is impossible.
    """
    chosen = feature_names(data)
    hashes = _hashes(data, chosen)
    if scale == "rows":
        for table in chosen:
            normalized = torch.nn.functional.normalize(feature_table(data, table))
            data[ITEM][feature_key(table)] = normalized
    elif (uneven := uneven_rows(data, chosen)) is not None:
        note = f"ATTENTION: {uneven}, which they outweigh (--feature-scale rows scales them)"
        report = replace(report, notes=(*report.notes, note))
    cold = None
    if held_out is not None:
        with errors_about("--data"):
            data, cold = held_out(data)
    if item_neighbors is None:
        rows = [int((~feature_mask(data, table)).sum()) for table in chosen]
        item_neighbors = max(1, min([NUM_NEIGHBORS, *rows]))
        if item_neighbors < NUM_NEIGHBORS:
            note = (
                f"ATTENTION: item graphs have {item_neighbors} neighbours instead of "
                f"{NUM_NEIGHBORS}: no more items have features"
            )
            report = replace(report, notes=(*report.notes, note))
    rule: SplitRule = split or ("labels" if "split" in data[INTERACTS] else "random")
    with errors_about("--split"):
        train, val, test = SplitInteractions(rule, val_from_train=val_from_train)(data)
    return PreparedData(
        name=name,
        train=train,
        val=val,
        test=test,
        known=data,
        hashes=hashes,
        features=chosen,
        scale=scale,
        neighbors=dict(neighbors or {}),
        source_report=report,
        split=describe_split(train, val, test),
        split_rule=rule,
        cold=cold,
        item_neighbors=item_neighbors,
        neighbor_recall=neighbor_recall,
        cache=cache,
        val_from_train=val_from_train,
        exclude_known_pairs=exclude_known_pairs,
    )


def read(
    source: str,
    features: Sequence[str] | None,
    tables: Mapping[str, Path] | None,
    problems: list[str],
) -> tuple[HeteroData, DataReport, list[str]]:
    """Reads a data set with the feature tables to use, encoded where it has raw content only.

    Tables that are not chosen leave the data; unknown features and unfit tables are appended to
    ``problems``.

    Returns:
        The data before any split, what was read, and the names of the feature tables.

    Raises:
        SettingsError: If the data is not as described by its reader.
    """
    if source == SYNTHETIC:
        data, report = _synthetic()
    else:
        with errors_about(source):
            stems = {feature_name(file.stem) for file in Path(source).glob("*.npy")}
            wanted = features if features and stems.issuperset(features) else None
            folder = MMRecFolder(Path(source), features=wanted, nonfinite="missing")
            data, report = folder.data, folder.report
    notes = list(report.notes)
    _add_tables(data, tables or {}, notes, problems)
    chosen = _choose(data, features, problems)
    return data, replace(report, notes=tuple(notes)), chosen


def _hashes(data: HeteroData, features: Sequence[str]) -> dict[str, str]:
    links = data[INTERACTS]
    ids = (np.asarray(data[kind].id).astype(str) for kind in (USER, ITEM))
    labels = [links.split] if "split" in links else []
    tables = {name: content_hash(feature_table(data, name)) for name in features}
    pairs = [known_pairs(data)] if KNOWS in data.edge_types else []
    return {"": content_hash(*ids, links.edge_index, *labels, *pairs), **tables}


def val_known_at_test(data: PreparedData) -> HeteroData:
    """The test graph with the validation links known: in the graph, and left out of rankings."""
    test = copy.copy(data.test)
    edges = test[INTERACTS]
    edges.edge_index = torch.cat([edges.edge_index, links_to_predict(data.val)], dim=1)
    return test


def data_name(source: str) -> str:
    """The data set's name: that of its folder or, without endings, its file; ``"synthetic"``."""
    if source == SYNTHETIC:
        return SYNTHETIC
    path = Path(source).resolve()
    return path.name.partition(".")[0] or path.name if path.is_file() else path.name


@contextmanager
def errors_about(option: str) -> Iterator[None]:
    """Puts the option in front of messages that name arguments of Python.

    Raises:
        SettingsError: Instead of a ``ValueError`` of the block.
    """
    try:
        yield
    except ValueError as error:
        raise SettingsError([f"{option}: {error}"]) from error


def _synthetic() -> tuple[HeteroData, DataReport]:
    dataset = Synthetic()
    data = EncodeItems(TfidfEncoder(), "text")(dataset.data)
    data = EncodeItems(PatchPCAEncoder(), "image")(data)
    for raw in ("text", "image"):  # models read the tables only
        del data[ITEM][raw]
    return data, dataset.report


def _add_tables(
    data: HeteroData, paths: Mapping[str, Path], notes: list[str], problems: list[str]
) -> None:
    for name, path in paths.items():
        if name in feature_names(data):
            problems.append(f"--tables {name}: the data has a table of this name already")
            continue
        if name != feature_name(name):
            problems.append(f"--tables {name}: needs a name of letters, digits and underscores")
            continue
        try:
            add_feature(data, name, read_npy(path), "missing", notes)
        except (OSError, ValueError) as error:
            problems.append(f"--tables {name}: {error}")
        else:
            notes.append(f"feature {name!r} from {path.name}, outside of the data's folder")


def _choose(data: HeteroData, features: Sequence[str] | None, problems: list[str]) -> list[str]:
    """The feature sets asked for; the other tables leave ``data``."""
    there = feature_names(data)
    chosen = there if features is None else list(dict.fromkeys(features))
    problems += [f"--features: {text}" for text in unknown_names("feature", chosen, there)]
    for name in there:
        if name not in chosen:
            del data[ITEM][feature_key(name)]
            if mask_key(name) in data[ITEM]:
                del data[ITEM][mask_key(name)]
    return chosen


def _read_neighbors(paths: Mapping[str, Path], problems: list[str]) -> dict[str, NeighborLists]:
    lists: dict[str, NeighborLists] = {}
    for name, path in paths.items():
        try:
            lists[name] = NeighborLists.load(path)
        except ValueError as error:
            problems.append(f"--neighbors {name}: {error}")
    return lists
