"""Features that exist already, as an encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from alignrec_pyg.encoders.base import ItemContent
from alignrec_pyg.graph import content_hash
from alignrec_pyg.tables import (
    NonFinite,
    as_float32,
    check_finite,
    check_nonfinite,
    check_table,
    match_rows,
    nonfinite_and_zero_rows,
    read_npy,
    repr_short,
)


class Precomputed:
    """Rows of a table, found by item id.

    ``fit`` finds the row of each item of the catalogue. Items without a row, and those whose row
    holds NaN or infinity with ``nonfinite="missing"``, get a zero row, which
    :class:`~alignrec_pyg.transforms.EncodeItems` counts as missing. Rows of items that are not in
    the catalogue are not read.

    Args:
        features: The table ``[rows, dim]`` of real numbers, or the ``.npy`` file that holds it;
            large files stay on the disk.
        ids: Id of the item that each row belongs to, ``[rows]``, of the type of
            ``data["item"].id``; by default row r belongs to item r, and there has to be one for
            each item.
        nonfinite: Whether a row with NaN or infinity is an error or a missing row.

    Raises:
        ValueError: If the table is damaged, of another form, or not finite; by ``fit``, if rows and
            items do not fit.
    """

    modalities = ("id",)

    def __init__(
        self,
        features: str | Path | ArrayLike,
        ids: ArrayLike | None = None,
        *,
        nonfinite: NonFinite = "error",
    ) -> None:
        check_nonfinite(nonfinite)
        if isinstance(features, str | Path):
            self.name = Path(features).name
            self._table = read_npy(Path(features))
        else:
            self.name = "features"
            self._table = _array(features)
        self._ids = None if ids is None else _id_array(ids)
        owners = self._table if self._ids is None else self._ids
        check_table(self.name, self._table, expected_rows=len(owners) if owners.ndim else 0)
        self._missing, _ = nonfinite_and_zero_rows(self._table)
        if nonfinite == "error":
            check_finite(self.name, self._missing)
        self._items: pd.Index | None = None
        self._row = np.zeros(0, dtype=np.int64)

    @property
    def out_dim(self) -> int:
        """Width of the table."""
        return int(self._table.shape[1])

    @property
    def cache_key(self) -> str:
        """Content of the table, its ids and the items that they were matched with."""
        items = "not fitted" if self._items is None else content_hash(self._items.to_numpy())
        return f"{self.arguments_key}, {items}"

    @property
    def arguments_key(self) -> str:
        """Content of the table and its ids."""
        ids = "item order" if self._ids is None else content_hash(self._ids)
        return f"precomputed {content_hash(self._table)} {content_hash(self._missing)} {ids}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the result should know."""
        if self._ids is None:
            return (f"ATTENTION: {self.name} came without ids: row r is taken for item r",)
        return ()

    def fit(self, items: ItemContent) -> None:
        """Finds the row of each item."""
        item_id = _id_array(_ids(items))
        if self._ids is None:
            check_table(self.name, self._table, expected_rows=len(item_id))
            self._row = np.arange(len(item_id))
        else:
            self._row = match_rows("ids", self._ids, item_id)
        self._items = pd.Index(item_id)

    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``; zero for items without one."""
        if self._items is None:
            raise ValueError("'Precomputed' needs to be fitted first: call fit(items)")
        item_id = _id_array(_ids(items))
        position = self._items.get_indexer(pd.Index(item_id))
        if (position < 0).any():
            unknown = item_id[int(np.argmin(position))]
            raise ValueError(f"'items' needs items that were fitted (got {repr_short(unknown)})")
        row = self._row[position]
        rows = np.zeros((len(row), self.out_dim), dtype=np.float32)
        found = (row >= 0) & ~self._missing[row]
        rows[found] = as_float32(self._table[row[found]])
        return torch.from_numpy(rows)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.name}, out_dim={self.out_dim})"


def _ids(items: ItemContent) -> ArrayLike:
    if items.id is None:
        raise ValueError("'items' needs ids (got texts or images only)")
    return items.id


def _array(values: ArrayLike | Tensor) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)


def _id_array(ids: ArrayLike) -> np.ndarray:
    """Ids one by one: NumPy would turn [1, "a"] into two strings."""
    if isinstance(ids, np.ndarray | Tensor):
        return _array(ids)
    return pd.Index(list(ids)).to_numpy()  # type: ignore[arg-type]
