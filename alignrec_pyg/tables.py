"""Feature tables: reading without pickle, checks, casts in blocks, and alignment by id."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from alignrec_pyg.checks import check_choice

NonFinite = Literal["error", "missing"]
"""Whether rows with NaN or infinity are an error, or mark items without the feature."""

MMAP_BYTES = 256 * 2**20
"""Files larger than this (256 MiB) are memory-mapped."""

_BLOCK_ELEMENTS = 1 << 24


def repr_short(value: object) -> str:
    """The ``repr`` of a value for messages, at most about 60 characters long."""
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:60]}... ({len(text):,} characters)"


def read_npy(path: Path) -> np.ndarray:
    """Reads an array, memory-mapped (copy on write) if the file exceeds :data:`MMAP_BYTES`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or contains Python objects, which are not read because
            unpickling may run code.
    """
    try:
        # mapping compares the shape with the size of the file before anything is allocated
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("a zip file of arrays")
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged header is parsed as Python, which raises all kinds
        raise ValueError(
            f"{path} needs to be an intact .npy array of numbers ({str(error)[:200]}): write it "
            "anew with numpy.save, or leave it out"
        ) from error
    return array if array.nbytes > MMAP_BYTES else np.array(array)


def check_table(name: str, table: np.ndarray, expected_rows: int) -> None:
    """Checks that a table has two dimensions, ``expected_rows`` rows and real numbers."""
    if table.ndim != 2 or table.shape[0] != expected_rows or table.shape[1] == 0:
        raise ValueError(
            f"feature '{name}' needs the shape [{expected_rows}, dim] with dim >= 1 "
            f"(got {list(table.shape)})"
        )
    if table.dtype.kind not in "biuf":
        raise ValueError(f"feature '{name}' needs real numbers (got dtype {table.dtype})")


def check_nonfinite(nonfinite: str) -> None:
    """Checks that a value is one of :data:`NonFinite`."""
    check_choice("nonfinite", nonfinite, ("error", "missing"))


def check_finite(name: str, broken: np.ndarray) -> None:
    """Checks that no row of a table is marked as not finite (:func:`nonfinite_and_zero_rows`).

    Raises:
        ValueError: If a row is marked; the message lists the first ones.
    """
    rows = np.flatnonzero(broken)
    if len(rows):
        first = ", ".join(str(row) for row in rows[:5])
        raise ValueError(
            f"feature '{name}' needs finite float32 values: {len(rows):,} of {len(broken):,} "
            f"rows hold NaN or infinity (first rows: {first}); nonfinite='missing' takes them "
            "as missing"
        )


def match_rows(argument: str, ids: np.ndarray, item_id: np.ndarray) -> np.ndarray:
    """Finds the row of each item in a table whose rows are identified by ``ids``; -1 without one.

    Raises:
        ValueError: If an id occurs twice, or none belongs to an item.
    """
    twice = pd.Series(ids).duplicated().to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        raise ValueError(
            f"'{argument}' row {row}: each id needs to occur once ({repr_short(ids[row])})"
        )
    rows = pd.Index(ids).get_indexer(pd.Index(item_id))
    note_on_shared_ids(f"'{argument}'", int((rows >= 0).sum()), ids, item_id)
    return rows


def note_on_shared_ids(
    source: str,
    num_shared: int,
    ids: Sequence[Any] | np.ndarray,
    item_id: Sequence[Any] | np.ndarray,
) -> str | None:
    """Checks that the ids of another source are those of the items.

    Args:
        source: Where ``ids`` are from, which begins the message.
        num_shared: Number of them that are in ``item_id``.
        ids: The ids of the source.
        item_id: The ids of the items.

    Returns:
        A note if fewer than half of those that could be shared are; otherwise ``None``.

    Raises:
        ValueError: If none is shared; the message has an example of each side.
    """
    if len(ids) == 0:
        return None
    examples = f"got {repr_short(ids[0])}, the items are like {repr_short(item_id[0])}"
    if num_shared == 0:
        raise ValueError(
            f"{source} needs ids of the items: none of {len(ids):,} is one ({examples}): both need "
            "to be of one type and written alike, leading zeros included"
        )
    if 2 * num_shared >= min(len(ids), len(item_id)):
        return None
    return (
        f"ATTENTION: {source}: only {num_shared:,} of {len(ids):,} ids are among the "
        f"{len(item_id):,} items ({examples})"
    )


def block_rows(width: int) -> int:
    """Number of rows of a table with ``width`` columns that are processed at a time."""
    return max(1, _BLOCK_ELEMENTS // width)


def as_float32(table: np.ndarray) -> np.ndarray:
    """The table as a C-contiguous, writeable float32 array; no copy is made if it already is."""
    if table.dtype == np.float32 and table.flags.c_contiguous and table.flags.writeable:
        return table
    values = np.empty(table.shape, dtype=np.float32)
    step = block_rows(table.shape[1])
    with np.errstate(over="ignore"):  # values out of range become infinite; the caller checks them
        for start in range(0, len(table), step):
            values[start : start + step] = table[start : start + step]
    return values


def nonfinite_and_zero_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Marks the rows that are not finite in float32 and the rows of zeros, each bool ``[rows]``."""
    broken = np.zeros(len(table), dtype=bool)
    zero = np.zeros(len(table), dtype=bool)
    step = block_rows(table.shape[1])
    for start in range(0, len(table), step):
        block = as_float32(table[start : start + step])
        broken[start : start + step] = ~np.isfinite(block).all(axis=1)
        zero[start : start + step] = ~block.any(axis=1)
    return broken, zero
