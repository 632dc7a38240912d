"""From finished cells to rows of a table, and the paired test of the best against the second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from scipy.stats import ttest_rel
from torch import Tensor

from benchmarks.cells import CellResult
from benchmarks.runner import METRICS, USER_K

SELECTION = "recall@20"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: a model over its seeds.

    Args:
        name: Name of the row.
        seeds: Seeds with a result, in order.
        missing: Seeds asked for that gave none; such a row competes with no other.
        mean: Mean of every test metric over the seeds.
        std: Standard deviation over the seeds (divisor n - 1); ``None`` with one seed.
        epochs: Mean number of epochs trained.
        best_epoch: Mean number of the best epoch.
        stopped_early: Whether every cell stopped by itself, not at the limit of epochs.
        seconds: Mean time of training and validation.
        peak_bytes: Largest peak memory of the cells, where measured.
        num_parameters: Trainable parameters.
        user: Users scored, int64 ``[n]``.
        user_recall: Their recall@20, mean over the seeds, float64 ``[n]``.
    """

    name: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    mean: Mapping[str, float]
    std: Mapping[str, float] | None
    epochs: float
    best_epoch: float
    stopped_early: bool
    seconds: float
    peak_bytes: int | None
    num_parameters: int
    user: Tensor
    user_recall: Tensor

    @property
    def label(self) -> str:
        """The name, with a mark where seeds are missing."""
        if not self.missing:
            return self.name
        return f"{self.name} ({len(self.seeds)}/{len(self.seeds) + len(self.missing)} seeds)"


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Student's paired t-test, two-sided, over users.

    The values are a user's recall@20, averaged over the seeds where there are several. The test
    asks whether the difference between the two sets of trained models carries over to other users;
    it knows nothing of other data sets or settings.

    Args:
        best: Row with the highest mean recall@20.
        second: The next one.
        difference: Mean difference per user.
        t: Statistic.
        p: Probability of a difference this large if there were none; NaN if no user differs.
        num_users: Number of users.
        num_seeds: Number of seeds of either row.
    """

    best: str
    second: str
    difference: float
    t: float
    p: float
    num_users: int
    num_seeds: int

    def __str__(self) -> str:
        """One line that says what the test is."""
        averaged = ", each with the mean over seeds" if self.num_seeds > 1 else ""
        return (
            f"{self.best} against {self.second}: recall@{USER_K} {self.difference:+.4f} per user, "
            f"t = {self.t:.2f}, p = {self.p:.2g} (two-sided paired t-test over {self.num_users:,} "
            f"users{averaged})"
        )


def rows(results: Sequence[CellResult], seeds: Sequence[int]) -> list[Row]:
    """One row per name, in the order of their first cells.

    Args:
        results: Finished cells.
        seeds: Seeds asked for.
    """
    by_name: dict[str, list[CellResult]] = {}
    for result in results:
        by_name.setdefault(result.row, []).append(result)
    return [_row(name, cells, seeds) for name, cells in by_name.items()]


def paired_test(table: Sequence[Row]) -> PairedTest | None:
    """The best row against the second by recall@20; ``None`` with fewer than two rows.

    Rows with missing seeds take no part.

    Raises:
        ValueError: If the two were not scored on the same users.
    """
    complete = [row for row in table if not row.missing]
    if len(complete) < 2:
        return None
    best, second = sorted(complete, key=lambda row: -row.mean[SELECTION])[:2]
    if not torch.equal(best.user, second.user):
        raise ValueError(f"{best.name} and {second.name} need to be scored on the same users")
    difference = (best.user_recall - second.user_recall).mean().item()
    t, p = float("nan"), float("nan")
    if not torch.equal(best.user_recall, second.user_recall) and best.user.numel() > 1:
        test = ttest_rel(best.user_recall.numpy(), second.user_recall.numpy())
        t, p = float(test.statistic), float(test.pvalue)
    return PairedTest(
        best=best.name,
        second=second.name,
        difference=difference,
        t=t,
        p=p,
        num_users=best.user.numel(),
        num_seeds=len(best.seeds),
    )


def best_values(table: Sequence[Row]) -> dict[str, float]:
    """The highest mean of each metric; none with fewer than two rows that miss no seed."""
    complete = [row for row in table if not row.missing]
    if len(complete) < 2:
        return {}
    return {metric: max(row.mean[metric] for row in complete) for metric in METRICS}


def _row(name: str, cells: Sequence[CellResult], seeds: Sequence[int]) -> Row:
    done = tuple(cell.seed for cell in cells)
    columns = {metric: [cell.metrics[metric] for cell in cells] for metric in METRICS}
    peaks = [cell.peak_bytes for cell in cells if cell.peak_bytes is not None]
    return Row(
        name=name,
        seeds=done,
        missing=tuple(seed for seed in seeds if seed not in done),
        mean={metric: fmean(values) for metric, values in columns.items()},
        std={metric: stdev(values) for metric, values in columns.items()}
        if len(cells) > 1
        else None,
        epochs=fmean(cell.num_epochs for cell in cells),
        best_epoch=fmean(cell.best_epoch for cell in cells),
        stopped_early=all(cell.stopped_early for cell in cells),
        seconds=fmean(cell.seconds for cell in cells),
        peak_bytes=max(peaks) if peaks else None,
        num_parameters=cells[0].num_parameters,
        user=cells[0].users.user,
        user_recall=torch.stack([cell.users.recall.double() for cell in cells]).mean(dim=0),
    )
