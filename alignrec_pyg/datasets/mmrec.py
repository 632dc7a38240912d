"""Folders in the format of the MMRec toolbox, which many multimodal datasets use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from alignrec_pyg.datasets.columns import (
    checked_numbers,
    checked_row_numbers,
    checked_split,
    checked_times,
)
from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.features import add_feature, feature_name
from alignrec_pyg.datasets.folders import (
    choose_stem,
    existing_folder,
    ids_by_row,
    note_unread_files,
)
from alignrec_pyg.datasets.interactions import (
    InteractionDataset,
    Keep,
    KnownPairs,
    interaction_graph,
)
from alignrec_pyg.report import describe
from alignrec_pyg.tables import NonFinite, read_npy

_OPTIONAL = ("rating", "timestamp", "x_label")
_NOT_A_TABLE = {"user_graph_dict.npy"}  # a pickled dictionary in some folders


class MMRecFolder(InteractionDataset):
    """A folder with ``<name>.inter`` and any number of ``<feature>.npy`` tables.

    - ``<name>.inter`` (or ``.inter.gz``): header ``userID itemID [rating] [timestamp] [x_label]``
      in any order, separated by tab or comma. Ids are row numbers from 0; the number of users or
      items is the largest id + 1 over the whole file. ``x_label`` is the split: 0 train, 1 val,
      2 test. Of several such files, the one with the name of the folder is read, or ``name``.
    - ``<feature>.npy``: row r belongs to item r; float16/32/64 or integer, any width. It becomes
      ``data["item"].x_<feature>``, with underscores in place of characters that are not allowed in
      attributes: ``all-MiniLM-L6-v2.npy`` is ``x_all_MiniLM_L6_v2``. Files larger than 256 MiB are
      memory-mapped. Rows of zeros are missing features, which are marked in ``mask_<feature>``.
    - ``<name>.known``, optional: header ``userID itemID [rating] [timestamp]``, pairs that users
      have had but that are no interactions, such as low ratings (the known pairs of
      :mod:`alignrec_pyg.graph`). Their ids count for the number of users and items.
    - ``i_id_mapping.csv``, ``u_id_mapping.csv``, optional: the original ids, whole numbers if all
      of them are, which are otherwise the row numbers.

    Other files are ignored and listed in the report.

    Args:
        path: The folder.
        name: Name of the ``.inter`` file without suffix, if it is not that of the folder.
        features: Tables to read, by file stem or attribute name; all by default.
        num_items: Number of items; by default the largest id + 1, or the rows of the tables if all
            of them agree on more, with a note: the last items then have no interactions.
        ignore: Optional columns to ignore: ``"rating"``, ``"timestamp"``, ``"x_label"``.
        keep: Whether to keep the first or the last row of a repeated (user, item) pair.
        nonfinite: Whether feature rows with NaN or infinity are an error or missing.

    Raises:
        ValueError: If a file does not have the expected format; the message contains file, line and
            column, or the expected and the actual shape.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        features: Sequence[str] | None = None,
        num_items: int | None = None,
        ignore: Sequence[Literal["rating", "timestamp", "x_label"]] = (),
        keep: Keep = "first",
        nonfinite: NonFinite = "error",
    ) -> None:
        folder = existing_folder(path)
        unknown = [column for column in ignore if column not in _OPTIONAL]
        if unknown:
            raise ValueError(f"'ignore' needs to be of {list(_OPTIONAL)} (got {unknown})")
        notes: list[str] = []
        files = _feature_files(folder, features)
        inter = _inter_file(folder, name)
        asked = [column for column in _OPTIONAL if column not in ignore]
        table = DelimitedFile(inter, ["userID", "itemID"], notes, optional=asked)
        others = [c for c in table.columns if c not in ("userID", "itemID", *_OPTIONAL)]
        for left_out in (*others, *(c for c in ignore if c in table.columns)):
            notes.append(f"{inter.name}: column '{left_out}' left unread")
        wanted = [column for column in asked if column in table.columns]

        user = checked_row_numbers(table.column("userID"), notes)
        items = table.column("itemID")
        item = checked_row_numbers(items, notes)
        tables = {key: read_npy(file) for key, file in files.items()}
        num_users, fewest = int(user.max()) + 1, int(item.max()) + 1
        used = {inter.name, *(file.name for file in files.values())}
        known, path = None, inter.with_name(f"{_stem(inter)}.known")
        if path.is_file():
            used.add(path.name)
            known = _known(path, asked, notes)
            num_users = max(num_users, int(known.user.max()) + 1)
            fewest = max(fewest, int(known.item.max()) + 1)
        if num_items is None:
            num_items = fewest
            rows = {len(array) for array in tables.values() if array.ndim == 2}
            if len(rows) == 1 and max(rows) > num_items:
                notes.append(
                    f"ATTENTION: {num_items:,} items have interactions and the tables "
                    f"{max(rows):,} rows: the last {max(rows) - num_items:,} are taken as items "
                    "without any"
                )
                num_items = max(rows)
        elif item.max() >= num_items:
            items.refuse(item >= num_items, f"an id needs to be below num_items={num_items}")
        elif fewest > num_items:
            raise ValueError(f"{path}: ids need to be below num_items={num_items}")
        user_id = _original_ids(folder, "u_id_mapping.csv", "userID", num_users, used, notes)
        item_id = _original_ids(folder, "i_id_mapping.csv", "itemID", num_items, used, notes)

        data, duplicates = interaction_graph(
            user,
            item,
            user_id,
            item_id,
            notes,
            rating=checked_numbers(table.column("rating"), notes) if "rating" in wanted else None,
            time=checked_times(table.column("timestamp"), notes) if "timestamp" in wanted else None,
            split=checked_split(table.column("x_label"), notes) if "x_label" in wanted else None,
            known=known,
            keep=keep,
            where=table.where,
        )
        dtypes: dict[str, str] = {}
        for key, array in tables.items():
            if array.ndim != 2 or len(array) != num_items:
                raise ValueError(
                    f"{files[key]} needs the shape [{num_items}, dim], one row per item of "
                    f"{inter.name} (got {list(array.shape)}): move it out of the folder, or "
                    "choose the tables to read (features= in Python, --features of alignrec train)"
                )
            add_feature(data, key, array, nonfinite, notes)
            dtypes[key] = str(array.dtype)
        if dtypes and "i_id_mapping.csv" not in used:
            notes.append("feature rows taken as items 0, 1, 2, ...: no id list to check them by")
        note_unread_files(folder, used, notes)
        super().__init__(data, describe(data, duplicates=duplicates, notes=notes, dtypes=dtypes))


def _inter_file(folder: Path, name: str | None) -> Path:
    files = {
        _stem(file): file
        for suffix in (".inter.gz", ".inter")  # the plain one wins
        for file in sorted(folder.glob(f"*{suffix}"))
    }
    return files[choose_stem(folder, files, name)]


def _stem(inter: Path) -> str:
    return inter.name.removesuffix(".gz").removesuffix(".inter")


def _known(path: Path, optional: Sequence[str], notes: list[str]) -> KnownPairs:
    table = DelimitedFile(path, ["userID", "itemID"], notes, optional=optional)
    there = [name for name in optional if name in table.columns]
    rating = checked_numbers(table.column("rating"), notes) if "rating" in there else None
    time = checked_times(table.column("timestamp"), notes) if "timestamp" in there else None
    user, item = (checked_row_numbers(table.column(name), notes) for name in ("userID", "itemID"))
    return KnownPairs(user, item, rating, time)


def _feature_files(folder: Path, features: Sequence[str] | None) -> dict[str, Path]:
    if isinstance(features, str):
        raise ValueError(f"'features' needs to be a list of names (got the string {features!r})")
    files = sorted(file for file in folder.glob("*.npy") if file.name not in _NOT_A_TABLE)
    stems = [file.stem for file in files]
    if features is not None:
        names = {*stems, *(feature_name(stem) for stem in stems)}
        unknown = [feature for feature in features if feature not in names]
        if unknown:
            raise ValueError(
                f"'features' needs to name tables of {folder}: {stems} are there (got {unknown})"
            )
        files = [file for file in files if {file.stem, feature_name(file.stem)} & set(features)]
    chosen: dict[str, Path] = {}
    for file in files:
        key = feature_name(file.stem)
        if key in chosen:
            raise ValueError(
                f"{chosen[key].name} and {file.name} in {folder} would both be named '{key}': "
                "rename one, or move it out of the folder"
            )
        chosen[key] = file
    return chosen


def _original_ids(
    folder: Path, mapping: str, index: str, count: int, used: set[str], notes: list[str]
) -> np.ndarray:
    """Original ids, from the column beside ``index`` of a mapping file, or the row indices."""
    path = folder / mapping
    if not path.is_file():
        return np.arange(count)
    used.add(mapping)
    table = DelimitedFile(path, [index], notes, as_text=True)
    others = [name for name in table.columns if name != index]
    if not others:
        raise ValueError(f"{path}, line 1: a column with ids is needed beside '{index}'")
    return ids_by_row(path, table.column(index), table.ids(others[0]), count, notes)
