"""Tables of numbers: read without pickle, checked and cast in blocks, rows found by id."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from alignrec_pyg.checks import check_choice

NonFinite = Literal["error", "missing"]
"""What rows with NaN or infinity mean: an error, or an item that lacks the feature."""

MMAP_BYTES = 256 * 2**20
"""Files larger than this (256 MiB) are memory-mapped."""

_BLOCK_ELEMENTS = 1 << 24


def repr_short(value: object) -> str:
    """A value as messages show it: of plain Python and not too long."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:60]}... ({len(text):,} characters)"


def read_npy(path: Path) -> np.ndarray:
    """Read an array, memory-mapped (copy on write) if the file exceeds :data:`MMAP_BYTES`.

    Raises:
        ValueError: If the file is damaged or holds Python objects, which only unpickling could
            read and unpickling may run code.
    """
    mode: Literal["c"] | None = "c" if path.stat().st_size > MMAP_BYTES else None
    try:
        array: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} needs to be an intact .npy array of numbers ({error}): write it anew with "
            "numpy.save, or leave it out"
        ) from error
    return array


def check_table(name: str, table: np.ndarray, expected_rows: int) -> None:
    """Refuses what is no table of real numbers with ``expected_rows`` rows.

    Raises:
        ValueError: If it is none; ``name`` names it in the message.
    """
    if table.ndim != 2 or table.shape[0] != expected_rows or table.shape[1] == 0:
        raise ValueError(
            f"feature '{name}' needs the shape [{expected_rows}, dim] with dim >= 1 "
            f"(got {list(table.shape)})"
        )
    if table.dtype.kind not in "biuf":
        raise ValueError(f"feature '{name}' needs real numbers (got dtype {table.dtype})")


def check_nonfinite(nonfinite: str) -> None:
    """Refuses what is no :data:`NonFinite`.

    Raises:
        ValueError: If it is none.
    """
    check_choice("nonfinite", nonfinite, ("error", "missing"))


def check_finite(name: str, broken: np.ndarray) -> None:
    """Refuses a table some rows of which are ``broken``, bool ``[rows]``.

    Raises:
        ValueError: If one is; the message names the first.
    """
    rows = np.flatnonzero(broken)
    if len(rows):
        first = ", ".join(str(row) for row in rows[:5])
        raise ValueError(
            f"feature '{name}' needs finite float32 values: {len(rows):,} of {len(broken):,} "
            f"rows hold NaN or infinity (first rows: {first}); nonfinite='missing' takes them "
            "as missing"
        )


def row_of_item(argument: str, ids: np.ndarray, item_id: np.ndarray) -> np.ndarray:
    """Where each item's row is in a table whose rows belong to ``ids``.

    Args:
        argument: What the table is, for messages.
        ids: Id of each row, ``[rows]``.
        item_id: ``[num_items]``.

    Returns:
        Row numbers, int64 ``[num_items]``, -1 for items without a row.

    Raises:
        ValueError: If an id occurs twice, or no id is an item's.
    """
    twice = pd.Series(ids).duplicated().to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        raise ValueError(
            f"'{argument}' row {row}: each id needs to occur once ({repr_short(ids[row])})"
        )
    rows = pd.Index(ids).get_indexer(pd.Index(item_id))
    if not (rows >= 0).any():
        raise ValueError(
            f"'{argument}' needs ids of the items: none of {len(ids):,} is one "
            f"(got {repr_short(ids[0])}, items are like {repr_short(item_id[0])})"
        )
    return rows


def block_rows(width: int) -> int:
    """Rows of a table of ``width`` columns that are worked on at a time."""
    return max(1, _BLOCK_ELEMENTS // width)


def as_float32(table: np.ndarray) -> np.ndarray:
    """The table as C-contiguous writeable float32; the very same array where it is one."""
    if table.dtype == np.float32 and table.flags.c_contiguous and table.flags.writeable:
        return table
    values = np.empty(table.shape, dtype=np.float32)
    step = block_rows(table.shape[1])
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is met by the caller
        for start in range(0, len(table), step):
            values[start : start + step] = table[start : start + step]
    return values


def odd_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the rows that are not finite in float32, and of those that are zero.

    Returns:
        Two arrays, bool ``[rows]``.
    """
    broken = np.zeros(len(table), dtype=bool)
    zero = np.zeros(len(table), dtype=bool)
    step = block_rows(table.shape[1])
    for start in range(0, len(table), step):
        block = as_float32(table[start : start + step])
        broken[start : start + step] = ~np.isfinite(block).all(axis=1)
        zero[start : start + step] = ~block.any(axis=1)
    return broken, zero
