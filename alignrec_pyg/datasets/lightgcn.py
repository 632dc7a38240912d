"""The files of LightGCN and NGCF: a line per user."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from alignrec_pyg.datasets.columns import Column, checked_row_numbers
from alignrec_pyg.datasets.interactions import InteractionDataset, Keep, interaction_graph
from alignrec_pyg.report import describe
from alignrec_pyg.tables import repr_short

_PARTS = {"train.txt": 0, "valid.txt": 1, "val.txt": 1, "test.txt": 2}
_LISTS = {"user": "user_list.txt", "item": "item_list.txt"}


class LightGCNFolder(InteractionDataset):
    """A folder with ``train.txt`` and ``test.txt``, as LightGCN and NGCF published theirs.

    The form is that of the `LightGCN <https://arxiv.org/abs/2002.02126>`_ repository.

    A line is a user and all of its items, row numbers from 0 separated by blanks; a user may have
    none. The file is the split (``valid.txt`` or ``val.txt`` is read where it is there). The number
    of users or items is the largest number + 1. ``user_list.txt`` and ``item_list.txt`` (header
    ``org_id remap_id``) give ids of the outside world; the row numbers themselves where there are
    none. Other files are left alone and named in the report.

    Args:
        path: The folder.
        keep: Whether the first or the last of a repeated (user, item) pair stays.

    Raises:
        ValueError: If a file is not as described; the message names the line.
    """

    def __init__(self, path: str | Path, *, keep: Keep = "first") -> None:
        folder = Path(path)
        files = [folder / name for name in _PARTS if (folder / name).is_file()]
        if not any(file.name == "train.txt" for file in files):
            raise ValueError(f"'path' needs to be a folder with train.txt (got {str(path)!r})")
        notes: list[str] = []
        parts = [_read(file, notes) for file in files]
        lines = [(file, user_lines) for file, (_, _, user_lines) in zip(files, parts, strict=True)]
        ends = np.cumsum([len(item) for _, item, _ in parts])

        def where(row: int) -> str:
            part = int(np.searchsorted(ends, row, side="right"))
            file, line_of = lines[part]
            return f"{file}, line {line_of[row - int(ends[part] - len(line_of))]}"

        user, item = (
            checked_row_numbers(Column(name, np.concatenate([p[i] for p in parts]), where), notes)
            for i, name in enumerate(("user", "item"))
        )
        used = {file.name for file in files}
        counts = {"user": int(user.max()) + 1, "item": int(item.max()) + 1}
        ids = {what: _outside_ids(folder, what, counts[what], used, notes) for what in counts}
        data, duplicates = interaction_graph(
            user,
            item,
            ids["user"],
            ids["item"],
            notes,
            split=np.concatenate(
                [
                    np.full(len(part[0]), _PARTS[file.name], dtype=np.int8)
                    for file, part in zip(files, parts, strict=True)
                ]
            ),
            keep=keep,
            where=where,
        )
        left_alone = sorted(entry.name for entry in folder.iterdir() if entry.name not in used)
        if left_alone:
            notes.append(f"{len(left_alone)} other files left alone: {', '.join(left_alone)}")
        super().__init__(data, describe(data, duplicates=duplicates, notes=notes))


def _read(path: Path, notes: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and line numbers of all interactions, int64 ``[E]`` each."""
    users: list[int] = []
    items: list[np.ndarray] = []
    counts: list[int] = []
    blank = without = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
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
    return (
        np.repeat(np.array(users, dtype=np.int64), counts),
        np.concatenate(items),
        np.repeat(np.arange(1, len(counts) + 1), counts),
    )


def _outside_ids(
    folder: Path, what: str, count: int, used: set[str], notes: list[str]
) -> np.ndarray:
    path = folder / _LISTS[what]
    if not path.is_file():
        return np.arange(count)
    used.add(path.name)
    result = np.full(count, None, dtype=object)
    beyond = 0
    with path.open(encoding="utf-8-sig") as file:
        if file.readline().split() != ["org_id", "remap_id"]:
            raise ValueError(f"{path}, line 1: the header 'org_id remap_id' is needed")
        for number, line in enumerate(file, start=2):
            outside, _, row = line.rstrip("\n").rpartition(" ")
            if not line.strip():
                continue
            if not outside or not row.isascii() or not row.isdigit():
                raise ValueError(
                    f"{path}, line {number}: an id and a row number are needed "
                    f"(got {repr_short(line)})"
                )
            if int(row) >= count:
                beyond += 1
            elif result[int(row)] is not None:
                raise ValueError(f"{path}, line {number}, column 2: row {row} occurs twice")
            else:
                result[int(row)] = outside
    missing = np.flatnonzero([entry is None for entry in result])
    if len(missing):
        raise ValueError(
            f"{path}: an id is needed for every row from 0 to {count - 1} ({len(missing):,} are "
            f"missing, the first is {missing[0]})"
        )
    if beyond:
        notes.append(f"{path.name}: {beyond:,} rows beyond the {count:,} in use left out")
    return result
