"""From finished cells to rows of a table, and the significance of differences between rows.

A row averages over the seeds; intervals and paired tests are over users, each with the mean over
the seeds. They say what generalises to other users of the same kind, and nothing about other data
sets or settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from scipy.stats import t as student
from torch import Tensor

from alignrec_pyg.evaluation.metrics import user_metrics
from alignrec_pyg.experiments.cells import TEST
from alignrec_pyg.experiments.store import CellResult

USER_K = 20
"""Cut-off of the recall of every user that models are compared by."""


class Measurement(NamedTuple):
    """The values of a cell in a table: columns by name, and the value that rows are compared by.

    That is the ``user_value`` of every ``user`` scored, called ``compared``. Columns that do not
    depend on the seed, ``seedless`` ones, have no deviation.
    """

    values: Mapping[str, float]
    user: Tensor
    user_value: Tensor
    seedless: tuple[str, ...] = ()
    compared: str = f"recall@{USER_K}"


Measure = Callable[[CellResult], Measurement]


def of_test_links(links: Tensor) -> Measure:
    """The cell's test metrics; rows are compared by recall@20."""

    def measure(cell: CellResult) -> Measurement:
        users = user_metrics(cell.rankings[TEST], links, USER_K)
        return Measurement(cell.metrics, users.user, users.recall)

    return measure


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: means over the seeds of a model; ``missing`` seeds gave no result.

    ``std`` (divisor n - 1) is ``None`` with one seed, and NaN for a column that does not depend on
    the seed. ``stopped_early`` says that every cell ended by patience, ``still_rising`` that
    validation of some was rising at the end. ``user_value`` holds what rows are compared by, mean
    over the seeds, for each ``user`` scored.
    """

    name: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    mean: Mapping[str, float]
    std: Mapping[str, float] | None
    epochs: float
    best_epoch: float
    stopped_early: bool
    still_rising: bool
    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    num_parameters: int
    compared: str
    user: Tensor
    user_value: Tensor

    @property
    def label(self) -> str:
        """The name, with a mark where seeds are missing."""
        if not self.missing:
            return self.name
        return f"{self.name} ({len(self.seeds)}/{len(self.seeds) + len(self.missing)} seeds)"

    @property
    def compared_mean(self) -> float:
        """Mean over users of the value that rows are compared by."""
        return float(self.user_value.mean())


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    r"""A mean over users and its confidence interval, :math:`\bar x \pm t_{n-1} s / \sqrt n`.

    The ends are NaN with fewer than two users.
    """

    mean: float
    low: float
    high: float
    confidence: float
    num_users: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Student's paired t-test, two-sided, over users, of a reference against another row.

    The interval is of this difference alone: Holm's correction widens none. ``t`` and ``p`` are NaN
    with one user or if no user differs.
    """

    reference: str
    other: str
    metric: str
    difference: MeanInterval
    t: float
    p: float
    p_holm: float
    num_comparisons: int
    num_seeds: tuple[int, int]

    def __str__(self) -> str:
        """One line that says what the test is."""
        interval = self.difference
        holm = ""
        if self.num_comparisons > 1:
            holm = f", p = {self.p_holm:.2g} after Holm's correction for {self.num_comparisons}"
        averaged = ""
        if max(self.num_seeds) > 1:
            first, second = self.num_seeds
            seeds = f"{first}" if first == second else f"{first} and {second}"
            averaged = f", each with the mean over {seeds} seeds"
        return (
            f"{self.reference} against {self.other}: {self.metric} {interval.mean:+.4f} per user "
            f"({interval.confidence:.0%} interval {interval.low:+.4f} to {interval.high:+.4f}), "
            f"t = {self.t:.2f}, p = {self.p:.2g}{holm} (two-sided paired t-test over "
            f"{interval.num_users:,} users{averaged})"
        )


def summarize(results: Sequence[CellResult], seeds: Sequence[int], measure: Measure) -> list[Row]:
    """One row per name, in the order of their first cells, over the seeds asked for."""
    by_name: dict[str, list[CellResult]] = {}
    for result in results:
        by_name.setdefault(result.row, []).append(result)
    return [_row(name, cells, seeds, measure) for name, cells in by_name.items()]


def best_first(table: Sequence[Row]) -> list[Row]:
    """The rows by the value that they are compared by, descending; those that miss seeds last."""
    return sorted(table, key=lambda row: (bool(row.missing), -row.compared_mean))


def best_values(table: Sequence[Row]) -> dict[str, float]:
    """The highest mean of each column; none with fewer than two rows that miss no seed."""
    complete = [row for row in table if not row.missing]
    if len(complete) < 2:
        return {}
    return {column: max(row.mean[column] for row in complete) for column in complete[0].mean}


def compare_rows(table: Sequence[Row], reference: str | None = None) -> list[Comparison]:
    """Tests a reference row (default: the best) against every other.

    Rows with missing seeds take no part. The comparisons are one family for Holm's correction. It
    allows for their number, not for a reference that was picked because it is the best on the same
    users.

    Raises:
        ValueError: If rows were scored on different users.
    """
    complete = [row for row in table if not row.missing]
    if reference is None and complete:
        reference = max(complete, key=lambda row: row.compared_mean).name
    others = [row.name for row in complete if row.name != reference]
    return compare_pairs(table, [(str(reference), other) for other in others])


def compare_pairs(table: Sequence[Row], pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Tests the first row of each pair against the second, user by user.

    All pairs are one family for Holm's correction. Pairs with a row that is not there or misses
    seeds are left out.

    Raises:
        ValueError: If the rows of a pair were scored on different users.
    """
    complete = {row.name: row for row in table if not row.missing}
    found = [
        _compared(complete[first], complete[second])
        for first, second in pairs
        if first in complete and second in complete
    ]
    corrected = holm([comparison.p for comparison in found])
    return [
        replace(comparison, p_holm=p, num_comparisons=len(found))
        for comparison, p in zip(found, corrected, strict=True)
    ]


def mean_interval(values: Tensor, *, confidence: float = 0.95) -> MeanInterval:
    """The mean over users with its t interval."""
    mean, error = _mean_and_error(values)
    half = float(student.ppf((1 + confidence) / 2, values.numel() - 1)) * error
    return MeanInterval(
        mean=mean,
        low=mean - half,
        high=mean + half,
        confidence=confidence,
        num_users=values.numel(),
    )


def holm(p: Sequence[float]) -> list[float]:
    r"""Probabilities corrected for their number, by Holm's step-down method.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`, the corrected
    :math:`p_{(j)}` is :math:`\max_{i \le j} \min(1, (m - i + 1)\, p_{(i)})`. Rejecting where it is
    at most :math:`\alpha` keeps the probability of any false rejection at :math:`\alpha` or below
    (`Holm 1979 <https://www.jstor.org/stable/4615733>`_).

    A NaN, of a test that could not be made, stays NaN. It counts among the :math:`m`, as 1 would:
    the family is what was to be compared, not what turned out comparable.

    Returns:
        The corrected ones, in the same order.
    """
    corrected = [math.nan] * len(p)
    largest = 0.0
    testable = [position for position, value in enumerate(p) if not math.isnan(value)]
    for step, position in enumerate(sorted(testable, key=lambda position: p[position])):
        largest = max(largest, min(1.0, (len(p) - step) * p[position]))
        corrected[position] = largest
    return corrected


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error (divisor n - 1); NaN where there is none."""
    values = values.double()
    if values.numel() < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(values.std()) / math.sqrt(values.numel())


def _t_test(difference: Tensor) -> tuple[float, float]:
    """Statistic and two-sided probability; SciPy's own test warns where all differ alike."""
    mean, error = _mean_and_error(difference)
    if math.isnan(error) or (mean == 0 and error == 0):
        return math.nan, math.nan
    t = mean / error if error else math.copysign(math.inf, mean)
    return t, 2 * float(student.sf(abs(t), difference.numel() - 1))


def _compared(reference: Row, other: Row) -> Comparison:
    """The test of one pair, not corrected yet."""
    if not torch.equal(reference.user, other.user):
        raise ValueError(f"{reference.name} and {other.name} need to be scored on the same users")
    difference = reference.user_value - other.user_value
    t, p = _t_test(difference)
    return Comparison(
        reference=reference.name,
        other=other.name,
        metric=reference.compared,
        difference=mean_interval(difference),
        t=t,
        p=p,
        p_holm=p,
        num_comparisons=1,
        num_seeds=(len(reference.seeds), len(other.seeds)),
    )


def _row(name: str, cells: Sequence[CellResult], seeds: Sequence[int], measure: Measure) -> Row:
    done = tuple(cell.seed for cell in cells)
    measured = [measure(cell) for cell in cells]
    columns = {
        column: [measurement.values[column] for measurement in measured]
        for column in measured[0].values
    }
    peaks = [cell.peak_bytes for cell in cells if cell.peak_bytes is not None]
    return Row(
        name=name,
        seeds=done,
        missing=tuple(seed for seed in seeds if seed not in done),
        mean={column: fmean(values) for column, values in columns.items()},
        std={
            column: math.nan if column in measured[0].seedless else stdev(values)
            for column, values in columns.items()
        }
        if len(cells) > 1
        else None,
        epochs=fmean(cell.num_epochs for cell in cells),
        best_epoch=fmean(cell.best_epoch for cell in cells),
        stopped_early=all(cell.stopped_early for cell in cells),
        still_rising=any(cell.still_rising for cell in cells),
        seconds=fmean(cell.seconds for cell in cells),
        cpu_seconds=fmean(cell.cpu_seconds for cell in cells),
        peak_bytes=max(peaks) if peaks else None,
        num_parameters=cells[0].num_parameters,
        compared=measured[0].compared,
        user=measured[0].user,
        user_value=torch.stack([entry.user_value.double() for entry in measured]).mean(dim=0),
    )
