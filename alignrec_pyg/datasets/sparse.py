"""Datasets from sparse matrices of SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike

from alignrec_pyg.datasets.columns import Column, checked_ids
from alignrec_pyg.datasets.interactions import InteractionDataset, interaction_graph
from alignrec_pyg.report import describe


def from_scipy(
    train: Any,
    val: Any = None,
    test: Any = None,
    *,
    user_id: ArrayLike | None = None,
    item_id: ArrayLike | None = None,
) -> InteractionDataset:
    """Creates a dataset from sparse matrices with users in rows and items in columns.

    Non-zero entries are interactions; their values are the ratings, unless all values are 1.

    Args:
        train: A sparse matrix or array of any format, ``[num_users, num_items]``. Without ``val``
            and ``test`` it contains all interactions, without split labels.
        val: Validation interactions.
        test: Test interactions.
        user_id: Original ids, ``[num_users]``; the row numbers by default.
        item_id: Original ids, ``[num_items]``; the column numbers by default.

    Raises:
        ValueError: If a matrix is not sparse, the shapes differ, a value is not finite, the ids are
            too few, not distinct or of mixed types, or there are no interactions.

    Example:
        >>> from scipy.sparse import csr_array
        >>> from alignrec_pyg.datasets import from_scipy
        >>> from_scipy(csr_array([[1, 1, 0], [1, 0, 0]]), item_id=["cup", "tea", "pot"])
        InteractionDataset(users=2, items=3, interactions=3)
    """
    notes: list[str] = []
    given = {"train": train, "val": val, "test": test}
    parts = {
        name: _entries(name, matrix, notes) for name, matrix in given.items() if matrix is not None
    }
    shapes = {name: given[name].shape for name in parts}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the matrices need to have the same users and items (got {shapes})")
    num_users, num_items = train.shape
    user, item, value = (np.concatenate([part[i] for part in parts.values()]) for i in range(3))
    if len(user) == 0:
        raise ValueError(f"'train' needs at least one entry that is not 0 (shape {train.shape})")
    labels = {"train": 0, "val": 1, "test": 2}
    split = np.concatenate(
        [np.full(len(part[0]), labels[name], dtype=np.int8) for name, part in parts.items()]
    )
    data, duplicates = interaction_graph(
        user,
        item,
        _ids("user_id", user_id, num_users, notes),
        _ids("item_id", item_id, num_items, notes),
        notes,
        rating=None if (value == 1).all() else value,
        split=split if len(parts) > 1 else None,
        where=lambda row: f"entry ({user[row]}, {item[row]})",
    )
    return InteractionDataset(data, describe(data, duplicates=duplicates, notes=notes))


def _entries(name: str, matrix: Any, notes: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not scipy.sparse.issparse(matrix) or len(matrix.shape) != 2:
        raise ValueError(
            f"'{name}' needs to be a sparse matrix of users x items (got {type(matrix).__name__})"
        )
    coo = matrix.tocoo()
    value = coo.data.astype(np.float64)
    if not np.isfinite(value).all():
        raise ValueError(f"'{name}' needs finite values (it holds NaN or infinity)")
    stored = value != 0
    zeros = int((~stored).sum())
    if zeros:
        notes.append(f"'{name}': {zeros:,} stored zeros left out")
    return coo.row[stored].astype(np.int64), coo.col[stored].astype(np.int64), value[stored]


def _ids(name: str, ids: ArrayLike | None, count: int, notes: list[str]) -> np.ndarray:
    if ids is None:
        return np.arange(count)
    listed = list(ids)  # type: ignore[arg-type]
    if len(listed) != count:
        raise ValueError(f"'{name}' needs {count} ids (got {len(listed)})")
    values = np.fromiter(listed, dtype=object, count=count)
    column = Column(name, values, lambda row: f"'{name}' row {row}")
    checked = checked_ids(column, notes).values
    if len(set(checked.tolist())) < count:
        raise ValueError(f"'{name}' needs distinct ids")
    return checked
