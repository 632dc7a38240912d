"""How sure the differences of a table are: intervals and paired tests over users.

The values are one metric of every user, averaged over the seeds. Intervals and tests ask what would
carry over to other users of the same kind; they know nothing of other data sets or settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from scipy.stats import t as student
from torch import Tensor

from alignrec_pyg.checks import check_number


@dataclass(frozen=True, kw_only=True)
class UserValues:
    """One metric of every user, for one row of a table.

    Args:
        name: Name of the row.
        user: Users scored, int64 ``[n]``.
        value: Their values, mean over the seeds, float64 ``[n]``.
        num_seeds: Number of seeds.
    """

    name: str
    user: Tensor
    value: Tensor
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class MeanInterval:
    r"""A mean over users and its confidence interval, :math:`\bar x \pm t_{n-1} s / \sqrt n`.

    Args:
        mean: Mean; NaN without users.
        low: Lower end; NaN with fewer than two users.
        high: Upper end; NaN with fewer than two users.
        confidence: Level, such as 0.95.
        num_users: Number of users.
    """

    mean: float
    low: float
    high: float
    confidence: float
    num_users: int

    def __str__(self) -> str:
        """Mean and interval."""
        return (
            f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}] ({self.confidence:.0%} over "
            f"{self.num_users:,} users)"
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    r"""Student's paired t-test, two-sided, over users, of a reference against another row.

    Args:
        reference: Row that is compared with the others.
        other: One of the others.
        metric: What the values are.
        difference: Mean over users of reference minus other, with its confidence interval (of this
            difference alone: Holm's correction widens no interval).
        t: Statistic; NaN with one user or if no user differs.
        p: Probability of a difference this large if there were none; NaN as ``t``.
        p_holm: The same after Holm's correction for all comparisons with the reference.
        num_comparisons: How many these are.
        num_seeds: Number of seeds of the reference and of the other.
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


def mean_interval(values: Tensor, *, confidence: float = 0.95) -> MeanInterval:
    """The mean over users with its t interval.

    Args:
        values: One value per user, ``[n]``.
        confidence: Level, between 0 and 1.

    Raises:
        ValueError: If ``confidence`` is not between 0 and 1.
    """
    check_number("confidence", confidence, above=0, below=1)
    mean, error = _mean_and_error(values)
    half = float(student.ppf((1 + confidence) / 2, values.numel() - 1)) * error
    return MeanInterval(
        mean=mean,
        low=mean - half,
        high=mean + half,
        confidence=confidence,
        num_users=values.numel(),
    )


def compare_to(
    reference: UserValues,
    others: Sequence[UserValues],
    *,
    metric: str,
    confidence: float = 0.95,
) -> list[Comparison]:
    """Tests a reference against every other row, user by user.

    The comparisons with the reference are one family for Holm's correction. It allows for their
    number, not for a reference that was picked because it looked best on the same users.

    Args:
        reference: The row to compare with the others, such as the best.
        others: The other rows.
        metric: What the values are, such as ``"recall@20"``.
        confidence: Level of the intervals.

    Returns:
        One comparison per other row, in their order.

    Raises:
        ValueError: If a row was scored on other users than the reference.
    """
    comparisons = []
    for other in others:
        if not torch.equal(reference.user, other.user):
            raise ValueError(
                f"{reference.name} and {other.name} need to be scored on the same users"
            )
        difference = reference.value.double() - other.value.double()
        t, p = _t_test(difference)
        comparisons.append(
            Comparison(
                reference=reference.name,
                other=other.name,
                metric=metric,
                difference=mean_interval(difference, confidence=confidence),
                t=t,
                p=p,
                p_holm=math.nan,
                num_comparisons=len(others),
                num_seeds=(reference.num_seeds, other.num_seeds),
            )
        )
    corrected = holm([comparison.p for comparison in comparisons])
    return [
        replace(comparison, p_holm=p) for comparison, p in zip(comparisons, corrected, strict=True)
    ]


def holm(p: Sequence[float]) -> list[float]:
    r"""Probabilities corrected for their number, by Holm's step-down method.

    With :math:`p_{(1)} \le \dots \le p_{(m)}`, the corrected
    :math:`p_{(j)}` is :math:`\max_{i \le j} \min(1, (m - i + 1)\, p_{(i)})`. Rejecting where it is
    at most :math:`\alpha` keeps the probability of any false rejection at :math:`\alpha` or below
    (`Holm 1979 <https://www.jstor.org/stable/4615733>`_).

    A NaN, of a test that could not be made, stays NaN. It counts among the :math:`m`, as 1 would:
    the family is what was to be compared, not what turned out comparable.

    Args:
        p: Probabilities of one family.

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
