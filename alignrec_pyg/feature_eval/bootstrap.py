"""Confidence intervals of recall and of differences in recall, by bootstrapping queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.feature_eval.recall import FeatureRecall

_BLOCK_COUNTS = 1 << 22  # random numbers that are drawn at a time


@dataclass(frozen=True, kw_only=True)
class BootstrapInterval:
    """A mean over queries with its confidence interval.

    Args:
        mean: Mean of the values.
        low: Lower end of the interval.
        high: Upper end of the interval.
        confidence: Confidence level, such as 0.95.
        num_values: Number of values.
        share_positive: Share of the resamples with a positive mean.
    """

    mean: float
    low: float
    high: float
    confidence: float
    num_values: int
    share_positive: float


def bootstrap_interval(
    values: Tensor, *, confidence: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> BootstrapInterval:
    r"""Computes the mean of ``values`` with its percentile bootstrap interval (Efron 1979).

    Each of ``num_resamples`` resamples draws as many values with replacement; the interval contains
    the middle share ``confidence`` of their means. A resample is drawn as the counts of the
    distinct values (multinomial), which is equivalent and faster if values repeat, as hits do.

    Args:
        values: One number per query, ``[n]``, such as :meth:`FeatureRecall.hits
            <alignrec_pyg.feature_eval.FeatureRecall.hits>`.
        confidence: Confidence level, between 0 and 1.
        num_resamples: Number of resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: If there are no values, one is not finite, or an argument is out of range.
    """
    if values.dim() != 1 or values.numel() == 0 or not bool(values.isfinite().all()):
        raise ValueError(
            f"'values' needs finite numbers, one per query (got shape {tuple(values.shape)})"
        )
    check_number("confidence", confidence, above=0, below=1)
    check_integer("num_resamples", num_resamples, 1)
    value, count = np.unique(values.double().cpu().numpy(), return_counts=True)
    total = int(count.sum())
    generator = np.random.default_rng(seed)
    means = []
    step = max(1, _BLOCK_COUNTS // len(value))
    for start in range(0, num_resamples, step):
        size = min(step, num_resamples - start)
        means.append(generator.multinomial(total, count / total, size=size) @ value / total)
    mean = np.concatenate(means)
    low, high = np.quantile(mean, [(1 - confidence) / 2, (1 + confidence) / 2])
    return BootstrapInterval(
        mean=float(count @ value / total),
        low=float(low),
        high=float(high),
        confidence=confidence,
        num_values=total,
        share_positive=float((mean > 0).mean()),
    )


def bootstrap_difference(
    first: FeatureRecall,
    second: FeatureRecall,
    k: int = 20,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> BootstrapInterval:
    """Bootstraps the difference in recall@k between ``first`` and ``second``, paired by query.

    An interval that excludes 0 indicates that the order of the two generalises to other queries of
    the same kind.

    Raises:
        ValueError: If the two have different queries, or as :func:`bootstrap_interval`.
    """
    if not torch.equal(first.query, second.query):
        raise ValueError(
            f"'first' and 'second' need to have the same queries (got {first.num_queries} and "
            f"{second.num_queries}): evaluate both with one protocol on the same data"
        )
    return bootstrap_interval(
        first.hits(k) - second.hits(k),
        confidence=confidence,
        num_resamples=num_resamples,
        seed=seed,
    )
