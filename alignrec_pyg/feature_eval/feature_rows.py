"""Access to the rows of one or several feature tables in double precision, block by block."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import ITEM, feature_mask, feature_table
from alignrec_pyg.nn.features import check_feature_table, uneven_rows

_CAST_ELEMENTS = 1 << 22  # numbers that are cast to double precision at a time: 32 MiB


class FeatureRows:
    """Concatenated feature tables, whose rows are cast when they are read, without a copy.

    The rows of masked items are zero, whatever values the table has. With ``normalize_parts`` the
    rows of each table are scaled to length 1 before concatenation; without it there is a warning
    if those of one table are ten times as long as those of another.

    Raises:
        ValueError: If ``features`` is empty or has duplicates, ``data`` lacks a table, or a table
            is not a finite matrix with one row per item.
    """

    def __init__(
        self, data: HeteroData, features: str | Sequence[str], *, normalize_parts: bool = True
    ) -> None:
        names = (features,) if isinstance(features, str) else tuple(features)
        if not names or len(set(names)) != len(names):
            raise ValueError(
                f"'features' needs the name of a feature table, or several distinct names "
                f"(got {features!r})"
            )
        self.num_items = int(data[ITEM].num_nodes)
        self._parts = [
            (feature_table(data, name).detach(), feature_mask(data, name)) for name in names
        ]
        self._normalize_parts = normalize_parts
        for name, (table, mask) in zip(names, self._parts, strict=True):
            check_feature_table(name, table, mask, self.num_items)
        if not normalize_parts and (uneven := uneven_rows(data, names)) is not None:
            warnings.warn(
                f"{uneven}: concatenated, they dominate the similarity ('normalize_parts' scales "
                "them)",
                stacklevel=3,
            )
        self.device = self._parts[0][0].device
        self.dim = sum(table.size(1) for table, _ in self._parts)

    @property
    def step(self) -> int:
        """Number of rows to read at a time."""
        return max(1, _CAST_ELEMENTS // self.dim)

    def __getitem__(self, items: Tensor | slice) -> Tensor:
        """The rows of ``items``, float64 ``[len(items), dim]``."""
        parts = []
        for table, mask in self._parts:
            part = table[items].double().masked_fill_(mask[items].unsqueeze(1), 0)
            parts.append(unit_length(part) if self._normalize_parts else part)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def blocks(self) -> Iterator[slice]:
        """Slices of :attr:`step` items that cover all items."""
        for start in range(0, self.num_items, self.step):
            yield slice(start, min(start + self.step, self.num_items))


def unit_length(rows: Tensor) -> Tensor:
    """Scales the rows to length 1; rows of zeros remain zero."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(length > 0, length, 1)
