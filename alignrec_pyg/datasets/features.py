"""Item feature tables: read without pickle, cast in blocks, aligned by id, missing rows marked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets.columns import shown
from alignrec_pyg.graph import ITEM, feature_key, mask_key

NonFinite = Literal["error", "missing"]
"""What rows with NaN or infinity mean: an error, or an item that lacks the feature."""

MMAP_BYTES = 256 * 2**20
"""Files larger than this (256 MiB) are memory-mapped."""

_BLOCK_ELEMENTS = 1 << 24


def feature_name(stem: str) -> str:
    """Attribute-safe name of a table: each run of other characters becomes one underscore.

    >>> feature_name("all-MiniLM-L6-v2")
    'all_MiniLM_L6_v2'
    """
    return re.sub(r"\W+", "_", stem)


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
            f"{path} needs to be an intact .npy array of numbers ({error}); "
            "'features' chooses which files are read"
        ) from error
    return array


def aligned_rows(
    name: str, ids: np.ndarray, table: np.ndarray, item_id: np.ndarray, notes: list[str]
) -> np.ndarray:
    """Bring the rows of ``table`` into the order of ``item_id``.

    Items without a row get a zero row; rows of unknown items are left out; both are counted.

    Args:
        name: Name of the table, for messages.
        ids: Id of each row, ``[rows]``.
        table: ``[rows, dim]``.
        item_id: ``[num_items]``.
        notes: Counted notes, appended to.

    Returns:
        float32 ``[num_items, dim]``.

    Raises:
        ValueError: If the table is none, an id occurs twice, or no id is an item's.
    """
    _check_shape(name, table, expected_rows=len(ids))
    twice = pd.Series(ids).duplicated().to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        raise ValueError(
            f"'features[{name!r}]' row {row}: each id needs to occur once ({shown(ids[row])})"
        )
    row_of_item = pd.Index(ids).get_indexer(pd.Index(item_id))
    has_row = row_of_item >= 0
    if not has_row.any():
        raise ValueError(
            f"'features[{name!r}]' needs ids of the items: none of {len(ids):,} is one "
            f"(got {shown(ids[0])}, items are like {shown(item_id[0])})"
        )
    unknown = len(ids) - int(has_row.sum())
    if unknown:
        notes.append(f"feature '{name}': {unknown:,} rows of unknown items left out")
    without = len(item_id) - int(has_row.sum())
    if without:
        notes.append(f"feature '{name}': {without:,} of {len(item_id):,} items have no row")
    result = np.zeros((len(item_id), table.shape[1]), dtype=np.float32)
    targets = np.flatnonzero(has_row)
    step = _block_rows(table.shape[1])
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is met below
        for start in range(0, len(targets), step):
            target = targets[start : start + step]
            result[target] = table[row_of_item[target]]
    return result


def add_feature(
    data: HeteroData, name: str, table: np.ndarray, nonfinite: NonFinite, notes: list[str]
) -> None:
    """Put a table into ``data["item"]`` as ``x_<name>``, with ``mask_<name>``.

    Float32 tables stay as they are (memory-mapped ones stay on disk), others are cast in blocks
    of rows. A row of zeros means that the item lacks the feature.

    Args:
        data: Its items are the rows.
        name: Attribute-safe name.
        table: ``[num_items, dim]``, any real element type.
        nonfinite: Whether a row with NaN or infinity is an error or a missing row.
        notes: Counted notes, appended to.

    Raises:
        ValueError: If the table has another shape or type, holds NaN or infinity, or no row.
    """
    if nonfinite not in ("error", "missing"):
        raise ValueError(f"'nonfinite' needs to be 'error' or 'missing' (got {nonfinite!r})")
    num_items = int(data[ITEM].num_nodes)
    _check_shape(name, table, expected_rows=num_items)
    values = _float32(table)
    broken, zero = _odd_rows(values)
    if broken.any():
        rows = np.flatnonzero(broken)
        first = ", ".join(str(row) for row in rows[:5])
        if nonfinite == "error":
            raise ValueError(
                f"feature '{name}' needs finite float32 values: {len(rows):,} of {num_items:,} "
                f"rows hold NaN or infinity (first rows: {first}); nonfinite='missing' takes them "
                "as missing"
            )
        if np.may_share_memory(values, table) and not isinstance(table, np.memmap):
            values = values.copy()  # the caller's array stays as it is
        values[rows] = 0.0
        notes.append(f"feature '{name}': {len(rows):,} rows with NaN or infinity taken as missing")
    missing = broken | zero
    if missing.all():
        raise ValueError(
            f"feature '{name}' needs at least one row that is not zero "
            f"(all {num_items:,} are missing): leave it out"
        )
    if zero.any():
        notes.append(
            f"feature '{name}': {int(zero.sum()):,} of {num_items:,} rows are zero: missing"
        )
    data[ITEM][feature_key(name)] = torch.from_numpy(values)
    data[ITEM][mask_key(name)] = torch.from_numpy(missing)


def _check_shape(name: str, table: np.ndarray, expected_rows: int) -> None:
    if table.ndim != 2 or table.shape[0] != expected_rows or table.shape[1] == 0:
        raise ValueError(
            f"feature '{name}' needs the shape [{expected_rows}, dim] with dim >= 1 "
            f"(got {list(table.shape)})"
        )
    if table.dtype.kind not in "biuf":
        raise ValueError(f"feature '{name}' needs real numbers (got dtype {table.dtype})")


def _block_rows(width: int) -> int:
    return max(1, _BLOCK_ELEMENTS // width)


def _float32(table: np.ndarray) -> np.ndarray:
    """The table as C-contiguous writeable float32; the very same array where it is one."""
    if table.dtype == np.float32 and table.flags.c_contiguous and table.flags.writeable:
        return table
    values = np.empty(table.shape, dtype=np.float32)
    step = _block_rows(table.shape[1])
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is met by the caller
        for start in range(0, len(table), step):
            values[start : start + step] = table[start : start + step]
    return values


def _odd_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the rows that are not finite and of those that are zero, bool ``[rows]`` each."""
    broken = np.zeros(len(values), dtype=bool)
    zero = np.zeros(len(values), dtype=bool)
    step = _block_rows(values.shape[1])
    for start in range(0, len(values), step):
        block = values[start : start + step]
        broken[start : start + step] = ~np.isfinite(block).all(axis=1)
        zero[start : start + step] = ~block.any(axis=1)
    return broken, zero
