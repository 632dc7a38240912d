"""From finished cells to rows of a table, and the comparison of the best with the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from alignrec_pyg.evaluation.metrics import user_metrics
from alignrec_pyg.experiments.cells import TEST
from alignrec_pyg.experiments.statistics import Comparison, UserValues, compare_to, holm
from alignrec_pyg.experiments.store import CellResult

USER_K = 20
"""Cut-off of the per-user recall behind the tests of significance."""
COMPARED = f"recall@{USER_K}"
"""The value of a user that rows are compared by."""


class Measurement(NamedTuple):
    """What a table shows of a cell.

    Args:
        values: Columns by name.
        user: Users scored, int64 ``[n]``.
        user_value: The value of each that rows are compared by, ``[n]``.
        seedless: Columns that are the same for all seeds by their nature: without a spread.
    """

    values: Mapping[str, float]
    user: Tensor
    user_value: Tensor
    seedless: tuple[str, ...] = ()


Measure = Callable[[CellResult], Measurement]


def of_test_links(links: Tensor) -> Measure:
    """The cell's test metrics; rows are compared by recall@20.

    Args:
        links: Test links ``[2, L]``.
    """

    def measure(cell: CellResult) -> Measurement:
        users = user_metrics(cell.rankings[TEST], links, USER_K)
        return Measurement(cell.metrics, users.user, users.recall)

    return measure


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: a model over its seeds.

    Args:
        name: Name of the row.
        seeds: Seeds with a result, in order.
        missing: Seeds asked for that gave none; such a row competes with no other.
        mean: Mean of every column over the seeds.
        std: Standard deviation over the seeds (divisor n - 1); ``None`` with one seed, NaN for a
            column that is the same for all seeds by its nature.
        epochs: Mean number of epochs trained.
        best_epoch: Mean number of the best epoch.
        stopped_early: Whether every cell stopped by itself, not at the limit of epochs.
        seconds: Mean time of training and validation.
        peak_bytes: Largest peak memory of the cells, where measured.
        num_parameters: Trainable parameters.
        user: Users scored, int64 ``[n]``.
        user_value: The value they are compared by, mean over the seeds, float64 ``[n]``.
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
    user_value: Tensor

    @property
    def label(self) -> str:
        """The name, with a mark where seeds are missing."""
        if not self.missing:
            return self.name
        return f"{self.name} ({len(self.seeds)}/{len(self.seeds) + len(self.missing)} seeds)"

    @property
    def user_values(self) -> UserValues:
        """The users' values, as tests of significance take them."""
        return UserValues(
            name=self.name, user=self.user, value=self.user_value, num_seeds=len(self.seeds)
        )


def rows(results: Sequence[CellResult], seeds: Sequence[int], measure: Measure) -> list[Row]:
    """One row per name, in the order of their first cells.

    Args:
        results: Finished cells.
        seeds: Seeds asked for.
        measure: What to show of each.
    """
    by_name: dict[str, list[CellResult]] = {}
    for result in results:
        by_name.setdefault(result.row, []).append(result)
    return [_row(name, cells, seeds, measure) for name, cells in by_name.items()]


def compare_rows(table: Sequence[Row], reference: str | None = None) -> list[Comparison]:
    """The reference row against every other, user by user; rows with missing seeds take no part.

    Args:
        table: The rows.
        reference: Name of a row (default: the one of the highest mean of :data:`COMPARED`).
    """
    complete = [row for row in table if not row.missing]
    if reference is None and complete:
        reference = max(complete, key=lambda row: float(row.user_value.mean())).name
    first = next((row for row in complete if row.name == reference), None)
    if first is None:
        return []
    others = [row.user_values for row in complete if row is not first]
    return compare_to(first.user_values, others, metric=COMPARED)


def compare_pairs(table: Sequence[Row], pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """The first row of each pair against the second; all pairs are one family of tests.

    Pairs with a row that is not there or misses seeds are left out.
    """
    complete = {row.name: row.user_values for row in table if not row.missing}
    found = [
        compare_to(complete[first], [complete[second]], metric=COMPARED)[0]
        for first, second in pairs
        if first in complete and second in complete
    ]
    corrected = holm([comparison.p for comparison in found])
    return [
        replace(comparison, p_holm=p, num_comparisons=len(found))
        for comparison, p in zip(found, corrected, strict=True)
    ]


def best_values(table: Sequence[Row]) -> dict[str, float]:
    """The highest mean of each column; none with fewer than two rows that miss no seed."""
    complete = [row for row in table if not row.missing]
    if len(complete) < 2:
        return {}
    return {column: max(row.mean[column] for row in complete) for column in complete[0].mean}


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
        seconds=fmean(cell.seconds for cell in cells),
        peak_bytes=max(peaks) if peaks else None,
        num_parameters=cells[0].num_parameters,
        user=measured[0].user,
        user_value=torch.stack([entry.user_value.double() for entry in measured]).mean(dim=0),
    )
