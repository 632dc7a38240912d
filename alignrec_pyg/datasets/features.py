"""Feature tables of items: alignment by id, and masks of missing rows."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import ITEM, feature_key, mask_key
from alignrec_pyg.tables import (
    NonFinite,
    as_float32,
    block_rows,
    check_finite,
    check_nonfinite,
    check_table,
    match_rows,
    nonfinite_and_zero_rows,
    note_on_shared_ids,
)


def feature_name(stem: str) -> str:
    """The attribute-safe name of a table: other characters are replaced by underscores.

    >>> feature_name("all-MiniLM-L6-v2")
    'all_MiniLM_L6_v2'
    """
    return re.sub(r"\W+", "_", stem)


def check_feature_name(name: str) -> None:
    """Checks that a name is attribute-safe.

    Raises:
        ValueError: If it is not.
    """
    if feature_name(name) != name:
        raise ValueError(
            f"'features' needs attribute-safe names, like '{feature_name(name)}' (got {name!r})"
        )


def aligned_rows(
    name: str, ids: np.ndarray, table: np.ndarray, item_id: np.ndarray, notes: list[str]
) -> np.ndarray:
    """Aligns the rows of ``table`` with ``item_id``.

    Items without a row get a row of zeros, and rows of unknown items are ignored; both are noted.

    Returns:
        The aligned table, float32 ``[num_items, dim]``.

    Raises:
        ValueError: If the shape or type is invalid, an id is repeated, or none belongs to an item.
    """
    check_table(name, table, expected_rows=len(ids))
    rows = match_rows(f"features[{name!r}]", ids, item_id)
    targets = np.flatnonzero(rows >= 0)
    unknown = len(ids) - len(targets)
    if unknown:
        notes.append(f"feature '{name}': {unknown:,} rows of unknown items left out")
    few = note_on_shared_ids(f"feature '{name}'", len(targets), ids, item_id)
    if few:
        notes.append(few)
    without = len(item_id) - len(targets)
    if without:
        notes.append(f"feature '{name}': {without:,} of {len(item_id):,} items have no row")
    result = np.zeros((len(item_id), table.shape[1]), dtype=np.float32)
    step = block_rows(table.shape[1])
    with np.errstate(over="ignore"):  # values out of range become infinite and are checked later
        for start in range(0, len(targets), step):
            target = targets[start : start + step]
            result[target] = table[rows[target]]
    return result


def add_feature(
    data: HeteroData, name: str, table: np.ndarray, nonfinite: NonFinite, notes: list[str]
) -> None:
    """Adds a table to ``data["item"]`` as ``x_<name>``, with ``mask_<name>``.

    Float32 tables are not copied (memory-mapped ones stay on disk), others are cast in blocks of
    rows. Rows of zeros mark items without the feature.

    Raises:
        ValueError: If the table has an invalid shape or type, contains NaN or infinity, or all of
            its rows are missing.
    """
    check_nonfinite(nonfinite)
    num_items = int(data[ITEM].num_nodes)
    check_table(name, table, expected_rows=num_items)
    values = as_float32(table)
    broken, zero = nonfinite_and_zero_rows(values)
    if broken.any():
        if nonfinite == "error":
            check_finite(name, broken)
        if np.may_share_memory(values, table) and not isinstance(table, np.memmap):
            values = values.copy()  # the array of the caller is not modified
        values[broken] = 0.0
        count = int(broken.sum())
        notes.append(
            f"ATTENTION: feature '{name}': {count:,} rows with NaN or infinity taken as missing"
        )
    missing = broken | zero
    if missing.all():
        raise ValueError(
            f"feature '{name}' needs at least one finite row that is not zero "
            f"(all {num_items:,} are missing): leave it out"
        )
    if zero.any():
        notes.append(
            f"feature '{name}': {int(zero.sum()):,} of {num_items:,} rows are zero: missing"
        )
    data[ITEM][feature_key(name)] = torch.from_numpy(values)
    data[ITEM][mask_key(name)] = torch.from_numpy(missing)


def add_feature_by_id(
    data: HeteroData,
    name: str,
    ids: np.ndarray,
    table: np.ndarray,
    nonfinite: NonFinite,
    notes: list[str],
) -> str:
    """As :func:`add_feature`, for a table with the item ids ``ids`` of its rows.

    Returns:
        The element type of ``table``.

    Raises:
        ValueError: As :func:`aligned_rows` and :func:`add_feature`.
    """
    aligned = aligned_rows(name, ids, table, data[ITEM].id, notes)
    add_feature(data, name, aligned, nonfinite, notes)
    return str(table.dtype)
