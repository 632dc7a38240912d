"""From a data set to what the models of an experiment read: split, feature tables, item graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments.prepared_data import NUM_NEIGHBORS, PreparedData, Scale
from alignrec_pyg.experiments.reading import data_name, read, read_neighbors
from alignrec_pyg.experiments.settings import SettingsError, errors_about
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
    known_pairs,
)
from alignrec_pyg.nn.features import uneven_rows
from alignrec_pyg.report import DataReport, describe_split
from alignrec_pyg.transforms import (
    HoldOutItems,
    NeighborLists,
    SplitInteractions,
)
from alignrec_pyg.transforms.split_interactions import SplitRule


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
    lists = read_neighbors(neighbors or {}, problems)
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


def _hashes(data: HeteroData, features: Sequence[str]) -> dict[str, str]:
    links = data[INTERACTS]
    ids = (np.asarray(data[kind].id).astype(str) for kind in (USER, ITEM))
    labels = [links.split] if "split" in links else []
    tables = {name: content_hash(feature_table(data, name)) for name in features}
    pairs = [known_pairs(data)] if KNOWS in data.edge_types else []
    return {"": content_hash(*ids, links.edge_index, *labels, *pairs), **tables}
