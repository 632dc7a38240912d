"""Picking rows of everything a node or edge store holds, features and texts alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def select_rows(values: dict[str, Any], rows: Tensor, size: int, owner: str) -> dict[str, Any]:
    """The same attributes, of ``rows`` only.

    Tensors, arrays, lists and tuples hold one entry per row; scalars, strings, dictionaries and
    ``None`` describe the whole store and stay as they are.

    Args:
        values: Attributes by name.
        rows: Row numbers to keep, in the order wanted, int64 ``[R]``.
        size: Rows that every attribute needs to have.
        owner: What the rows are ("items"), for messages.

    Raises:
        ValueError: If an attribute has another number of rows.
    """
    selected: dict[str, Any] = {}
    for name, value in values.items():
        # No np.ndim of a sequence: NumPy would turn its texts or images into one array.
        scalar = isinstance(value, Tensor | np.ndarray) and value.ndim == 0
        if scalar or not isinstance(value, Tensor | np.ndarray | list | tuple):
            selected[name] = value
            continue
        if len(value) != size:
            raise ValueError(
                f"'{name}' needs one row for each of the {size} {owner} (got {len(value)} rows): "
                f"align it, or remove it before this transform"
            )
        if isinstance(value, Tensor):
            selected[name] = value[rows.to(value.device)]
        elif isinstance(value, np.ndarray):
            selected[name] = value[rows.cpu().numpy()]
        else:
            selected[name] = type(value)(value[row] for row in rows.tolist())
    return selected


def group_ranks(group: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Position of each entry among those of its group, in the order given, and the group's size.

    Shapes:
        - **input:** group int64 :math:`(E)`, values below ``num_groups``
        - **output:** rank int64 :math:`(E)`, size int64 :math:`(E)`
    """
    size = torch.bincount(group, minlength=num_groups)
    start = size.cumsum(0) - size
    order = group.argsort(stable=True)
    rank = torch.empty_like(group)
    rank[order] = torch.arange(group.numel(), device=group.device) - start[group[order]]
    return rank, size[group]
