"""Concatenation of feature tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.graph import ITEM, feature_key, feature_mask, feature_table, mask_key


class ConcatFeatures(BaseTransform):
    """Concatenates feature tables into one, for models that read a single fused table.

    Adds ``data["item"].x_<name>``, whose width is the sum of the widths, and
    ``data["item"].mask_<name>``, which is true for items that are missing in all tables. The rows
    of items that are missing in one table are zero in this part.

    Args:
        names: The feature tables, in the order of concatenation.
        name: Name of the result.
        normalize: Whether to scale the rows of each table to length 1 (rows of zeros stay zero), so
            that no table dominates by its scale.

    Raises:
        ValueError: If ``names`` is empty, has duplicates or contains ``name``; when applied, if
            ``data`` lacks a table.
    """

    def __init__(self, names: Sequence[str], name: str = "mm", normalize: bool = True) -> None:
        if isinstance(names, str) or len(names) == 0 or len(set(names)) != len(names):
            raise ValueError(f"'names' needs a sequence of distinct feature sets (got {names!r})")
        if not name or name in names:
            raise ValueError(f"'name' needs to be new, other than {list(names)} (got {name!r})")
        self.names = tuple(names)
        self.name = name
        self.normalize = normalize

    def forward(self, data: HeteroData) -> HeteroData:
        """Returns a copy of ``data`` with the table; the input is unchanged."""
        parts, masks = [], []
        for feature in self.names:
            mask = feature_mask(data, feature)
            table = feature_table(data, feature).float().masked_fill(mask.unsqueeze(1), 0)
            parts.append(F.normalize(table) if self.normalize else table)
            masks.append(mask)
        data[ITEM][feature_key(self.name)] = torch.cat(parts, dim=1)
        data[ITEM][mask_key(self.name)] = torch.stack(masks).all(dim=0)
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({list(self.names)}, name='{self.name}')"
