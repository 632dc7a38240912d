"""From a data set to what the models of an experiment read: split, feature tables, item graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from alignrec_pyg.datasets import MMRecFolder, Synthetic
from alignrec_pyg.encoders import PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    content_hash,
    feature_key,
    feature_names,
    knn_edge_type,
    mask_key,
)
from alignrec_pyg.report import DataReport, SplitReport, describe, describe_split
from alignrec_pyg.transforms import (
    ConcatFeatures,
    EncodeItems,
    ItemGraphFromNeighbors,
    KNNItemGraph,
    NeighborLists,
    SplitInteractions,
)
from alignrec_pyg.transforms.knn_item_graph import Weighting
from alignrec_pyg.transforms.split_interactions import SplitRule
from benchmarks.presets import Preset
from benchmarks.settings import SettingsError, unknown_names

SYNTHETIC = "synthetic"
FUSED = "mm"
"""Name of the table that concatenates all feature sets."""

NUM_NEIGHBORS = 10
FREEDOM_WEIGHTS = {"image": 0.1, "text": 0.9}
"""Weights of FREEDOM's item graph where the feature sets are exactly these; otherwise equal."""


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """A split data set and how each model reads it.

    Args:
        name: Name of the data set.
        train: Graph to train on.
        val: Graph with the links to select by.
        test: Graph with the links to score at the end.
        report: What was read, all feature tables included.
        split: What the split holds.
        split_rule: The rule of the split.
        inputs: ``features`` and ``item_graph`` arguments of each model that can run.
        not_run: Why the other models cannot.
        item_graphs: How each item graph was made, with its content hash.
    """

    name: str
    train: HeteroData
    val: HeteroData
    test: HeteroData
    report: DataReport
    split: SplitReport
    split_rule: SplitRule
    inputs: dict[str, dict[str, Any]]
    not_run: dict[str, str]
    item_graphs: dict[str, str]


def prepare(
    source: str,
    presets: Mapping[str, Preset],
    *,
    features: Sequence[str] | None = None,
    neighbors: Mapping[str, Path] | None = None,
    split: SplitRule | None = None,
) -> PreparedData:
    """Reads, encodes, splits and links a data set.

    Item graphs come from ``neighbors`` where given, otherwise from the features:
    the graph of cosines (AlignRec) from the fused table, the binary one (FREEDOM) from the separate
    tables with :data:`FREEDOM_WEIGHTS`.

    Args:
        source: ``"synthetic"``, or a folder in MMRec format.
        presets: The models to run; their item graphs are built.
        features: Feature tables to use (default: all).
        neighbors: ``.npz`` files with neighbour lists, by feature name.
        split: Rule (default: the file's labels where there are any, else ``"random"``).

    Raises:
        SettingsError: If features are unknown or neighbour files unfit (it lists all of them), if
            the data is not as described by its reader, or if a graph or the split is impossible.
    """
    if source == SYNTHETIC:
        data, report = _synthetic()
    else:
        with _told_for("--data"):
            folder = MMRecFolder(Path(source))
            data, report = folder.data, folder.report
    problems: list[str] = []
    lists = _read_neighbors(neighbors or {}, problems)
    chosen = _choose(data, features, problems)
    if problems:
        raise SettingsError(problems)
    rule: SplitRule = split or ("labels" if "split" in data[INTERACTS] else "random")
    inputs: dict[str, dict[str, Any]] = {}
    not_run: dict[str, str] = {}
    for model, preset in presets.items():
        reason = _why_not(preset, chosen, lists)
        if reason is None:
            inputs[model] = _inputs(preset, chosen)
        else:
            not_run[model] = reason
    running = [presets[model] for model in inputs]
    if len(chosen) > 1 and any(preset.tables == "fused" for preset in running):
        data = ConcatFeatures(chosen, FUSED)(data)
    item_graphs: dict[str, str] = {}
    for preset in running:
        if preset.item_graph is not None and preset.item_graph not in item_graphs:
            transform = _item_graph(preset.item_graph, chosen, lists)
            with _told_for("--neighbors" if lists else f"item graph {preset.item_graph!r}"):
                data = transform(data)
            edges = data[knn_edge_type(preset.item_graph)]
            digest = content_hash(edges.edge_index, edges.edge_weight)
            item_graphs[preset.item_graph] = f"{transform!r}, hash {digest}"
    with _told_for("--split"):
        train, val, test = SplitInteractions(rule)(data)
    return PreparedData(
        name=data_name(source),
        train=train,
        val=val,
        test=test,
        report=_with_derived(report, train),
        split=describe_split(train, val, test),
        split_rule=rule,
        inputs=inputs,
        not_run=not_run,
        item_graphs=item_graphs,
    )


def data_name(source: str) -> str:
    """The data set's name: that of its folder, or ``"synthetic"``."""
    return SYNTHETIC if source == SYNTHETIC else Path(source).resolve().name


@contextmanager
def _told_for(option: str) -> Iterator[None]:
    """Puts the command line's word in front of messages that name arguments of Python."""
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


def _choose(data: HeteroData, features: Sequence[str] | None, problems: list[str]) -> list[str]:
    """The feature sets asked for; the other tables leave ``data``."""
    there = feature_names(data)
    chosen = there if features is None else list(dict.fromkeys(features))
    problems += unknown_names("feature", chosen, there)
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


def _why_not(
    preset: Preset, chosen: Sequence[str], lists: Mapping[str, NeighborLists]
) -> str | None:
    if preset.tables in ("separate", "fused") and not chosen:
        return "needs a feature table, and the data has none"
    if preset.item_graph is not None and not chosen and not lists:
        return "needs an item graph: give feature tables, or neighbour lists with --neighbors"
    lacking = [name for name, entry in lists.items() if entry.cosine is None]
    if preset.item_graph == "cosine" and lacking:
        return f"needs the cosines of the neighbours, which {', '.join(lacking)} lacks"
    return None


def _inputs(preset: Preset, chosen: Sequence[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if preset.tables == "fused":
        arguments["features"] = [_fused(chosen)]
    elif preset.tables != "none":
        arguments["features"] = list(chosen)
    if preset.item_graph is not None:
        arguments["item_graph"] = preset.item_graph
    return arguments


def _fused(chosen: Sequence[str]) -> str:
    """The one table of all features: the only one there is, or their concatenation."""
    return FUSED if len(chosen) > 1 else chosen[0]


def _item_graph(
    weighting: Weighting, chosen: Sequence[str], lists: Mapping[str, NeighborLists]
) -> KNNItemGraph | ItemGraphFromNeighbors:
    names = list(lists) or list(chosen)
    weights = dict.fromkeys(names, 1 / len(names))
    if weighting == "binary" and set(names) == set(FREEDOM_WEIGHTS):
        weights = FREEDOM_WEIGHTS
    if lists:
        return ItemGraphFromNeighbors(lists, weights=weights, weighting=weighting, name=weighting)
    if weighting == "cosine":
        weights = {_fused(chosen): 1.0}
    return KNNItemGraph(weights, NUM_NEIGHBORS, weighting=weighting, name=weighting)


def _with_derived(report: DataReport, data: HeteroData) -> DataReport:
    """The report with the tables that ``data`` has now; what is known of them stays."""
    known = {feature.name: feature for feature in report.features}
    features = describe(data).features
    return replace(report, features=tuple(known.get(feature.name, feature) for feature in features))
