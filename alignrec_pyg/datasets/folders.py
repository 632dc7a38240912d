"""Shared parts of the datasets that are read from a folder of files."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from alignrec_pyg.datasets.columns import Column, checked_ids, checked_row_numbers

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Suffixes of the image files that are read, in lower case."""


def existing_folder(path: str | Path) -> Path:
    """The absolute path of an existing folder.

    Raises:
        ValueError: If there is no folder at ``path``.
    """
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise ValueError(f"'path' needs to be a folder (got {str(path)!r})")
    return folder


def choose_stem(folder: Path, stems: Collection[str], name: str | None) -> str:
    """The stem of the ``.inter`` files to read: ``name``, or by default that of the folder.

    Raises:
        ValueError: If there are no files, ``name`` is not one of them, or they are ambiguous.
    """
    if not stems:
        raise ValueError(f"'path' needs to contain a file <name>.inter (none in {folder})")
    if name is None:
        name = folder.name if folder.name in stems or len(stems) > 1 else next(iter(stems))
    if name not in stems:
        raise ValueError(f"'name' needs to be one of {sorted(stems)} in {folder} (got {name!r})")
    return name


def single_path(paths: Iterable[Path], folder: Path, what: str) -> Path | None:
    """The only one of ``paths``, or ``None`` if there is none.

    Raises:
        ValueError: If there are several; ``what`` describes them in the message.
    """
    found = sorted(paths)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} contains several {what} ({names}): keep one of them")
    return found[0] if found else None


def note_unread_files(folder: Path, used: Collection[str], notes: list[str]) -> None:
    """Adds a note on the files of ``folder`` whose names are not in ``used``."""
    unread = sorted(entry.name for entry in folder.iterdir() if entry.name not in used)
    if unread:
        notes.append(f"{len(unread)} other files not read: {', '.join(unread)}")


def ids_by_row(path: Path, rows: Column, ids: Column, count: int, notes: list[str]) -> np.ndarray:
    """Original ids in the order of their row indices, from a file that maps one to the other.

    The first ``count`` rows need an id; further rows are noted.

    Raises:
        ValueError: If a row index or an id occurs twice, or a row has no id.
    """
    row = checked_row_numbers(rows, notes)
    original = checked_ids(ids, notes).values
    for column, values in ((rows, row), (ids, original)):
        repeated = pd.Series(values).duplicated().to_numpy()
        if repeated.any():
            column.refuse(repeated, "each row index and each id needs to occur once")
    used = row < count
    if not used.all():
        unused = int((~used).sum())
        notes.append(f"{path.name}: {unused:,} rows after the {count:,} in use are ignored")
    result = np.empty(count, dtype=original.dtype)
    result[row[used]] = original[used]
    missing = np.setdiff1d(np.arange(count), row)
    if len(missing):
        raise ValueError(
            f"{path}: an id is needed for each '{rows.name}' from 0 to {count - 1} "
            f"({len(missing):,} are missing, the first is {missing[0]})"
        )
    return result
