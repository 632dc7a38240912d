"""One table of several feature sets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.graph import ITEM, feature_key, feature_mask, feature_table, mask_key


class ConcatFeatures(BaseTransform):
    """Puts feature tables side by side into one, for models that take a single fused table.

    Adds ``data["item"].x_<name>`` of the summed width and ``data["item"].mask_<name>``, true for
    items that lack all of the tables. An item that lacks one has zeros in its place.

    Args:
        names: The feature sets, in the order wanted.
        name: Name of the result.
        normalize: Whether each part has rows of length 1 (zero rows stay zero), so that no table
            outweighs the others by its scale.

    Raises:
        ValueError: If ``names`` is empty, repeats itself or holds ``name``; when applied, if
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
        """Adds the table; the input is left as it was."""
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
