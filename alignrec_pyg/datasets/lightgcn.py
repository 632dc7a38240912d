"""Folders in the format of LightGCN and NGCF, with one line per user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from alignrec_pyg.datasets.arrow import arrow_ids
from alignrec_pyg.datasets.columns import Column, checked_row_numbers, concatenated
from alignrec_pyg.datasets.delimited import lines_of
from alignrec_pyg.datasets.folders import ids_by_row, note_unread_files
from alignrec_pyg.datasets.interactions import InteractionDataset, Keep, interaction_graph
from alignrec_pyg.report import describe
from alignrec_pyg.tables import repr_short

_PARTS = {"train.txt": 0, "valid.txt": 1, "val.txt": 1, "test.txt": 2}
_LISTS = {"user": "user_list.txt", "item": "item_list.txt"}


class LightGCNFolder(InteractionDataset):
    """A folder with ``train.txt`` and ``test.txt`` in the format of LightGCN and NGCF.

    The format is that of the `LightGCN <https://arxiv.org/abs/2002.02126>`_ repository. A line
    consists of a user and all of the user's items, as indices from 0 separated by spaces; users may
    have no items. The files are the parts of the split (``valid.txt`` or ``val.txt`` is optional).
    The number of users or items is the largest index + 1. ``user_list.txt`` and ``item_list.txt``
    (header ``org_id remap_id``), if present, contain the original ids, which are otherwise the
    indices. Other files are ignored and listed in the report.

    Args:
        path: The folder.
        keep: Whether to keep the first or the last of a repeated (user, item) pair.

    Raises:
        ValueError: If a file does not have the expected format; the message contains the line.
    """

    def __init__(self, path: str | Path, *, keep: Keep = "first") -> None:
        folder = Path(path)
        files = [folder / name for name in _PARTS if (folder / name).is_file()]
        if not any(file.name == "train.txt" for file in files):
            raise ValueError(f"'path' needs to be a folder with train.txt (got {str(path)!r})")
        notes: list[str] = []
        parts = [_read(file, notes) for file in files]
        columns = [concatenated([part[side] for part in parts]) for side in (0, 1)]
        user, item = (checked_row_numbers(column, notes) for column in columns)
        used = {file.name for file in files}
        sizes = {"user": int(user.max()) + 1, "item": int(item.max()) + 1}
        ids = {node: _original_ids(folder, node, sizes[node], used, notes) for node in sizes}
        split = [
            np.full(len(part[0]), _PARTS[file.name], dtype=np.int8)
            for file, part in zip(files, parts, strict=True)
        ]
        data, duplicates = interaction_graph(
            user,
            item,
            ids["user"],
            ids["item"],
            notes,
            split=np.concatenate(split),
            keep=keep,
            where=columns[0].where,
        )
        note_unread_files(folder, used, notes)
        super().__init__(data, describe(data, duplicates=duplicates, notes=notes))


def _read(path: Path, notes: list[str]) -> tuple[Column, Column]:
    """The users and items of all interactions in a file."""
    users: list[int] = []
    items: list[np.ndarray] = []
    counts: list[int] = []
    blank = without = 0
    with path.open("rb") as file:
        for number, line in lines_of(file, path):
            fields = line.split()
            try:
                values = np.fromiter(map(int, fields), dtype=np.int64, count=len(fields))
            except (ValueError, OverflowError):
                column, field = next(
                    (place, field)
                    for place, field in enumerate(fields, start=1)
                    if not field.isdigit() or len(field) > 18
                )
                raise ValueError(
                    f"{path}, line {number}, column {column}: row numbers separated by blanks are "
                    f"needed (got {repr_short(field.decode(errors='replace'))})"
                ) from None
            if len(values) == 0:
                blank += 1
            elif len(values) == 1:
                without += 1
            users.append(int(values[0]) if len(values) else 0)
            items.append(values[1:])
            counts.append(max(0, len(values) - 1))
    if blank:
        notes.append(f"{path.name}: {blank:,} blank lines skipped")
    if without:
        notes.append(f"{path.name}: {without:,} users without items")
    if not sum(counts):
        raise ValueError(f"{path}, line 1: at least one user with an item is needed")
    lines = np.repeat(np.arange(1, len(counts) + 1), counts)

    def where(row: int) -> str:
        return f"{path}, line {lines[row]}"

    user = np.repeat(np.array(users, dtype=np.int64), counts)
    return Column("user", user, where), Column("item", np.concatenate(items), where)


def _original_ids(
    folder: Path, node: str, count: int, used: set[str], notes: list[str]
) -> np.ndarray:
    path = folder / _LISTS[node]
    if not path.is_file():
        return np.arange(count)
    used.add(path.name)
    ids, rows, lines = [], [], []
    with path.open(encoding="utf-8-sig") as file:
        if file.readline().split() != ["org_id", "remap_id"]:
            raise ValueError(f"{path}, line 1: the header 'org_id remap_id' is needed")
        for number, line in enumerate(file, start=2):
            original, _, row = line.rstrip("\n").rpartition(" ")
            if not line.strip():
                continue
            if not original or not row.isascii() or not row.isdigit():
                raise ValueError(
                    f"{path}, line {number}: an id and a row index are needed "
                    f"(got {repr_short(line)})"
                )
            ids.append(original)
            rows.append(int(row))
            lines.append(number)
    if not ids:
        raise ValueError(f"{path}, line 2: at least one id is needed")

    def where(row: int) -> str:
        return f"{path}, line {lines[row]}"

    row_column = Column("remap_id", np.array(rows, dtype=np.int64), where)
    id_column = arrow_ids("org_id", pa.chunked_array([ids]), where)
    return ids_by_row(path, row_column, id_column, count, notes)
