"""Mean and standard deviation of the cosine similarity between items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.feature_eval.feature_rows import FeatureRows, unit_length


@dataclass(frozen=True, kw_only=True)
class CosineStatistics:
    """Statistics of the cosine of two different items, over all pairs of items with features.

    Args:
        mean: Mean; NaN with fewer than two items.
        std: Standard deviation; NaN with fewer than two items.
        num_items: Number of items with features.
        num_missing: Number of items without features, whose rows are zero.
    """

    mean: float
    std: float
    num_items: int
    num_missing: int


@torch.no_grad()
def cosine_statistics(
    data: HeteroData, features: str | Sequence[str], *, normalize_parts: bool = True
) -> CosineStatistics:
    r"""Computes the exact mean and standard deviation of the cosine of two items.

    With the matrix :math:`\hat X` of the :math:`m` rows :math:`\hat x_i`, scaled to length 1,

    .. math::
        \sum_{i \ne j} \hat x_i^\top \hat x_j = \Bigl\lVert \sum_i \hat x_i \Bigr\rVert^2 - m,
        \qquad \sum_{i \ne j} (\hat x_i^\top \hat x_j)^2
        = \lVert \hat X^\top \hat X \rVert_F^2 - m,

    so that no pair is enumerated, and memory in addition to the tables is one matrix of
    width x width and a block of rows.

    Args:
        data: Graph with the tables.
        features: Name of a feature table, or of several tables, which are concatenated.
        normalize_parts: Whether to scale the rows of each table to length 1 before concatenation,
            as models read them.

    Raises:
        ValueError: If ``data`` lacks a table, or one is not finite.
    """
    rows = FeatureRows(data, features, normalize_parts=normalize_parts)
    total = torch.zeros(rows.dim, dtype=torch.float64, device=rows.device)
    gram = torch.zeros(rows.dim, rows.dim, dtype=torch.float64, device=rows.device)
    count = 0
    for block in rows.blocks():
        unit = unit_length(rows[block])
        total += unit.sum(0)
        gram.addmm_(unit.T, unit)
        count += int(unit.any(dim=1).sum())
    missing = rows.num_items - count
    if count < 2:
        return CosineStatistics(mean=math.nan, std=math.nan, num_items=count, num_missing=missing)
    pairs = count * (count - 1)
    mean = (float(total.square().sum()) - count) / pairs
    square = (float(gram.square().sum()) - count) / pairs
    return CosineStatistics(
        mean=mean,
        std=math.sqrt(max(square - mean**2, 0.0)),
        num_items=count,
        num_missing=missing,
    )
