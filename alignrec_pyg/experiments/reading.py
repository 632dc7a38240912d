"""Data sets as experiments read them: their links, and the feature tables that are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch_geometric.data import HeteroData

from alignrec_pyg.checks import unknown_names
from alignrec_pyg.datasets import MMRecFolder, Synthetic
from alignrec_pyg.datasets.features import add_feature, feature_name
from alignrec_pyg.encoders import PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.experiments.settings import errors_about
from alignrec_pyg.graph import (
    ITEM,
    feature_key,
    feature_names,
    mask_key,
)
from alignrec_pyg.report import DataReport
from alignrec_pyg.tables import read_npy
from alignrec_pyg.transforms import (
    EncodeItems,
    NeighborLists,
)

SYNTHETIC = "synthetic"


def data_name(source: str) -> str:
    """The data set's name: that of its folder or, without endings, its file; ``"synthetic"``."""
    if source == SYNTHETIC:
        return SYNTHETIC
    path = Path(source).resolve()
    return path.name.partition(".")[0] or path.name if path.is_file() else path.name


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


def read_neighbors(paths: Mapping[str, Path], problems: list[str]) -> dict[str, NeighborLists]:
    """The lists of files; those that cannot be read are appended to ``problems``."""
    lists: dict[str, NeighborLists] = {}
    for name, path in paths.items():
        try:
            lists[name] = NeighborLists.load(path)
        except ValueError as error:
            problems.append(f"--neighbors {name}: {error}")
    return lists
