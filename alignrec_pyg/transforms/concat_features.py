"""Concatenation of feature tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.graph import ITEM, feature_key, feature_mask, feature_table, mask_key
from alignrec_pyg.transforms.item_graph import checked_weights


class ConcatFeatures(BaseTransform):
    r"""Concatenates feature tables into one, for models that read a single fused table.

    Adds ``data["item"].x_<name>``, whose width is the sum of the widths, and
    ``data["item"].mask_<name>``, which is true for items that are missing in all tables. The rows
    of items that are missing in one table are zero in this part.

    Args:
        names: The feature tables, in the order of concatenation.
        name: Name of the result.
        normalize: Whether to scale the rows of each table to length 1 (rows of zeros stay zero), so
            that no table dominates by its scale.
        weights: Weight :math:`w_m` of each of the :math:`M` tables, for example those of
            :func:`~alignrec_pyg.feature_eval.table_weights`: its rows are multiplied by
            :math:`\sqrt{M w_m / \sum_n w_n}`, so that the cosine of two fused rows is the weighted
            mean of the cosines in the tables, if the rows have length 1. A table of weight 0 is
            left out (default: all weigh the same).

    Raises:
        ValueError: If ``names`` is empty, has duplicates or contains ``name``, or ``weights`` is
            not for exactly these tables or not finite, not negative and not all zero; when applied,
            if ``data`` lacks a table.
    """

    def __init__(
        self,
        names: Sequence[str],
        name: str = "mm",
        normalize: bool = True,
        *,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if isinstance(names, str) or len(names) == 0 or len(set(names)) != len(names):
            raise ValueError(f"'names' needs a sequence of distinct feature sets (got {names!r})")
        if not name or name in names:
            raise ValueError(f"'name' needs to be new, other than {list(names)} (got {name!r})")
        if weights is not None and weights.keys() != set(names):
            raise ValueError(
                f"'weights' needs a weight for each of {list(names)} (got {dict(weights)})"
            )
        self.names = tuple(names)
        self.name = name
        self.normalize = normalize
        self.weights = None if weights is None else checked_weights("weights", weights)

    def forward(self, data: HeteroData) -> HeteroData:
        """Returns a copy of ``data`` with the table; the input is unchanged."""
        parts, masks = [], []
        weights = dict.fromkeys(self.names, 1.0) if self.weights is None else self.weights
        mean = sum(weights.values()) / len(weights)
        for feature in filter(weights.get, self.names):
            mask = feature_mask(data, feature)
            table = feature_table(data, feature).float().masked_fill(mask.unsqueeze(1), 0)
            table = F.normalize(table) if self.normalize else table
            parts.append(table * math.sqrt(weights[feature] / mean))
            masks.append(mask)
        data[ITEM][feature_key(self.name)] = torch.cat(parts, dim=1)
        data[ITEM][mask_key(self.name)] = torch.stack(masks).all(dim=0)
        return data

    def __repr__(self) -> str:
        weights = "" if self.weights is None else f", weights={self.weights}"
        return f"{self.__class__.__name__}({list(self.names)}, name='{self.name}'{weights})"
