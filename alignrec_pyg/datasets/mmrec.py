"""Folders in the format of the MMRec toolbox, in which most multimodal data sets circulate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from alignrec_pyg.datasets.columns import (
    checked_ids,
    checked_numbers,
    checked_row_numbers,
    checked_split,
    checked_times,
)
from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.features import add_feature, feature_name
from alignrec_pyg.datasets.interactions import InteractionDataset, Keep, interaction_graph
from alignrec_pyg.report import describe
from alignrec_pyg.tables import NonFinite, read_npy

_OPTIONAL = ("rating", "timestamp", "x_label")
_NOT_A_TABLE = {"user_graph_dict.npy"}  # a pickled dictionary that some folders carry


class MMRecFolder(InteractionDataset):
    """A folder with ``<name>.inter`` and any number of ``<feature>.npy`` tables.

    - ``<name>.inter`` (or ``.inter.gz``): header ``userID itemID [rating] [timestamp] [x_label]``
      in any order, separated by tab or comma. Ids are row numbers from 0; the number of users or
      items is the largest id + 1 over the whole file. ``x_label`` is the split: 0 train, 1 val,
      2 test. If the folder has several, the one named like the folder is read, or ``name``.
    - ``<feature>.npy``: row r belongs to item r; float16/32/64 or integer, any width. It becomes
      ``data["item"].x_<feature>``; characters that no attribute may hold become underscores:
      ``all-MiniLM-L6-v2.npy`` is ``x_all_MiniLM_L6_v2``. Files above 256 MiB are memory-mapped.
      A row of zeros is a missing feature, marked in ``mask_<feature>``.
    - ``i_id_mapping.csv``, ``u_id_mapping.csv``: ids of the outside world; the row numbers
      themselves where there are none.

    Other files are left alone and named in the report.

    Args:
        path: The folder.
        name: Stem of the ``.inter`` file, where the folder does not tell.
        features: Tables to read, by file stem or attribute name; all by default.
        num_items: Number of items, where the last ones have no interactions and only the feature
            tables know of them.
        ignore: Optional columns to leave unread: ``"rating"``, ``"timestamp"``, ``"x_label"``.
        keep: Whether the first or the last row of a repeated (user, item) pair stays.
        nonfinite: Whether a feature row with NaN or infinity is an error or a missing row.

    Raises:
        ValueError: If a file is not as described; the message names file, line and column, or the
            expected and the present shape.
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
        folder = Path(path).resolve()
        if not folder.is_dir():
            raise ValueError(f"'path' needs to be a folder (got {str(path)!r})")
        unknown = [column for column in ignore if column not in _OPTIONAL]
        if unknown:
            raise ValueError(f"'ignore' needs to be of {list(_OPTIONAL)} (got {unknown})")
        notes: list[str] = []
        inter = _inter_file(folder, name)
        wanted = [column for column in _OPTIONAL if column not in ignore]
        table = DelimitedFile(inter, ["userID", "itemID"], notes, optional=wanted)
        others = [c for c in table.columns if c not in ("userID", "itemID", *_OPTIONAL)]
        for left_out in (*others, *(c for c in ignore if c in table.columns)):
            notes.append(f"{inter.name}: column '{left_out}' left unread")
        wanted = [column for column in wanted if column in table.columns]

        user = checked_row_numbers(table.column("userID"), notes)
        items = table.column("itemID")
        item = checked_row_numbers(items, notes)
        if num_items is None:
            num_items = int(item.max()) + 1
        elif item.max() >= num_items:
            items.refuse(item >= num_items, f"an id needs to be below num_items={num_items}")
        used = {inter.name}
        user_id = _ids(folder, "u_id_mapping.csv", "userID", int(user.max()) + 1, used, notes)
        item_id = _ids(folder, "i_id_mapping.csv", "itemID", num_items, used, notes)

        data, duplicates = interaction_graph(
            user,
            item,
            user_id,
            item_id,
            notes,
            rating=checked_numbers(table.column("rating"), notes) if "rating" in wanted else None,
            time=checked_times(table.column("timestamp"), notes) if "timestamp" in wanted else None,
            split=checked_split(table.column("x_label"), notes) if "x_label" in wanted else None,
            keep=keep,
            where=table.where,
        )
        dtypes: dict[str, str] = {}
        for key, file in _feature_files(folder, features).items():
            array = read_npy(file)
            if array.ndim != 2 or len(array) != num_items:
                way_out = "'features' chooses which files are read"
                if array.ndim == 2 and len(array) > num_items:
                    way_out = (
                        f"num_items={len(array)} says that the last items have no interactions"
                    )
                raise ValueError(
                    f"{file} needs the shape [{num_items}, dim], one row per item of {inter.name} "
                    f"(got {list(array.shape)}); {way_out}"
                )
            add_feature(data, key, array, nonfinite, notes)
            dtypes[key] = str(array.dtype)
            used.add(file.name)
        if dtypes and "i_id_mapping.csv" not in used:
            notes.append("feature rows taken as items 0, 1, 2, ...: no id list to check them by")
        left_alone = sorted(entry.name for entry in folder.iterdir() if entry.name not in used)
        if left_alone:
            notes.append(f"{len(left_alone)} other files left alone: {', '.join(left_alone)}")
        super().__init__(data, describe(data, duplicates=duplicates, notes=notes, dtypes=dtypes))


def _inter_file(folder: Path, name: str | None) -> Path:
    files = {
        file.name.removesuffix(".gz").removesuffix(".inter"): file
        for suffix in (".inter.gz", ".inter")  # the plain one wins
        for file in sorted(folder.glob(f"*{suffix}"))
    }
    if not files:
        raise ValueError(f"'path' needs to hold a file <name>.inter (none in {folder})")
    if name is not None:
        if name not in files:
            raise ValueError(
                f"'name' needs to be one of {sorted(files)} in {folder} (got {name!r})"
            )
        return files[name]
    if folder.name in files:
        return files[folder.name]
    if len(files) > 1:
        raise ValueError(
            f"{folder} holds several .inter files, none named like it: "
            f"'name' needs to be one of {sorted(files)}"
        )
    return next(iter(files.values()))


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
                "rename one, or choose one by its stem in 'features'"
            )
        chosen[key] = file
    return chosen


def _ids(
    folder: Path, mapping: str, index: str, count: int, used: set[str], notes: list[str]
) -> np.ndarray:
    if not (folder / mapping).is_file():
        return np.arange(count)
    used.add(mapping)
    return outside_ids(folder / mapping, index, count, notes)


def outside_ids(path: Path, index: str, count: int, notes: list[str]) -> np.ndarray:
    """Ids of the outside world from a mapping file such as ``i_id_mapping.csv``.

    Args:
        path: A file with the column ``index`` and one other, the outside ids.
        index: Name of the column with the row numbers, such as ``"itemID"``.
        count: Number of rows the ids are for; rows of the file beyond are noted.
        notes: Counted notes, appended to.

    Returns:
        Object array of strings, ``[count]``.

    Raises:
        ValueError: If a row number or an id occurs twice, or a row has no id.
    """
    table = DelimitedFile(path, [index], notes, as_text=True)
    others = [name for name in table.columns if name != index]
    if not others:
        raise ValueError(f"{path}, line 1: a column with ids is needed beside '{index}'")
    numbers = table.column(index)
    rows = checked_row_numbers(numbers, notes)
    column = table.column(others[0])
    ids = checked_ids(column, notes)
    for checked, values in ((numbers, rows), (column, ids)):
        twice = pd.Series(values).duplicated().to_numpy()
        if twice.any():
            checked.refuse(twice, "every row number and every id needs to occur once")
    beyond = int((rows >= count).sum())
    if beyond:
        notes.append(f"{path.name}: {beyond:,} rows beyond the {count:,} in use left out")
    present = np.zeros(count, dtype=bool)
    present[rows[rows < count]] = True
    if not present.all():
        raise ValueError(
            f"{path}: an id is needed for every '{index}' from 0 to {count - 1} "
            f"({int((~present).sum()):,} are missing, the first is {int(np.argmin(present))})"
        )
    result = np.empty(count, dtype=object)
    result[rows[rows < count]] = ids[rows < count]
    return result
