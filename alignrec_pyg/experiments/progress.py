"""One progress bar for all cells of an experiment, with an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from alignrec_pyg.experiments.cells import Cell
from alignrec_pyg.experiments.estimate import Seconds, Trial
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.training.progress import Progress

_PATIENCES = 3.5
# Epochs of a run as a multiple of its patience, before anything is known: the median of twelve runs
# with the default settings on Baby, Last.fm-2K and MovieLens (1.5 to 9.4).


@dataclass
class _Running:
    """A cell that is being trained: when it began, the epochs done and the best one so far."""

    start: float
    epoch: int = 0
    best_epoch: int = 0
    epoch_steps: int = 1


class CellsProgress:
    """Shows the progress of all cells together.

    The time of a cell is estimated from finished cells of its row. In a row without any, the
    seconds of an epoch are those of a cell in training, or of the trial of the row, and the number
    of epochs is the mean of finished cells of other rows, but at least until the patience has run
    out. A cell with neither is estimated by the mean time of the others.

    Args:
        cells: The cells.
        stored: Those that have finished before, by number.
        jobs: Cells that run at a time.
        trials: Trials by row.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        stored: Mapping[int, CellResult],
        jobs: int,
        trials: Mapping[str, Trial] | None = None,
    ) -> None:
        self._cells = cells
        self._trials = trials or {}
        self._finished = dict(stored)
        self._failed: set[int] = set()
        self._to_run = [index for index in range(len(cells)) if index not in stored]
        self._jobs = max(1, jobs)
        self._running: dict[int, _Running] = {}
        self._bar = Progress("training", shown=bool(self._to_run))

    def __enter__(self) -> CellsProgress:
        self._bar.__enter__()
        self.refresh()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.__exit__(None, None, None)

    def begin(self, index: int) -> None:
        """Notes that a cell has begun."""
        self._running[index] = _Running(time.monotonic())

    def report(self, index: int, epoch: int, entry: Mapping[str, float]) -> None:
        """Notes an epoch, as ``fit`` reports it."""
        cell = self._running.setdefault(index, _Running(time.monotonic()))
        cell.epoch, cell.best_epoch = epoch, int(entry["best_epoch"])
        cell.epoch_steps = max(1, int(entry["step"]) // epoch)
        self.refresh()

    def reporter(self, index: int) -> Callable[[int, dict[str, float]], None]:
        """The ``report`` of a cell that begins now."""
        self.begin(index)
        return lambda epoch, entry: self.report(index, epoch, entry)

    def finish(self, index: int, result: CellResult) -> None:
        """Notes the result of a cell."""
        self._running.pop(index, None)
        self._finished[index] = result
        self.refresh()

    def fail(self, index: int) -> None:
        """Notes that a cell has no result."""
        self._running.pop(index, None)
        self._failed.add(index)
        self.refresh()

    def expected_seconds(self, index: int) -> float:
        """Estimated time of a whole cell; 0 while there is nothing to estimate it from."""
        epochs, seconds = self._expected_epochs(index), self._epoch_seconds(index)
        return 0.0 if seconds is None else epochs * seconds

    def seconds_to_go(self) -> Seconds:
        """Estimated time of all unfinished cells by the clock, before anything has begun."""
        least, most = zip(*(self._bounds(index) for index in self._to_run), strict=True)
        expected = [self.expected_seconds(index) for index in self._to_run]
        return Seconds(
            least=self._at_a_time(least),
            expected=self._at_a_time(expected),
            most=self._at_a_time(most),
        )

    def _at_a_time(self, seconds: Sequence[float]) -> float:
        """Seconds by the clock of cells that take ``seconds`` each."""
        return max(sum(seconds) / self._jobs, *seconds, 0.0)

    def _bounds(self, index: int) -> tuple[float, float]:
        """Least seconds of a cell, by its patience, and most, by its limit of epochs."""
        trial = self._trials.get(self._cells[index].row)
        if trial is None:
            return (self.expected_seconds(index),) * 2
        config, steps = self._cells[index].config, trial.epoch_steps
        interval = config.evaluation_epochs(steps)
        first = (config.patience_evaluations(steps) + 2) * interval
        least = min(max(first, -(-config.min_steps // steps)), config.max_epochs)
        each = self._epoch_seconds(index) or 0.0
        return least * each, config.max_epochs * each

    def refresh(self) -> None:
        """Shows the present state."""
        if not self._to_run:
            return
        left = {
            index: self.expected_seconds(index) * (1 - self._share_done(index))
            for index in self._to_run
            if index not in self._finished and index not in self._failed
        }
        total = sum(self.expected_seconds(index) for index in self._to_run)
        done = len(self._to_run) - len(left)
        known = total > 0
        share = 1 - sum(left.values()) / total if known else done / len(self._to_run)
        seconds = self._at_a_time(list(left.values())) if known else None
        running = ", ".join(
            f"{self._cells[index].row} seed {self._cells[index].seed} epoch {cell.epoch}"
            for index, cell in self._running.items()
        )
        self._bar.update(share, seconds, f"{done} of {len(self._to_run)} runs: {running}")

    def _share_done(self, index: int) -> float:
        running = self._running.get(index)
        return 0.0 if running is None else min(1.0, running.epoch / self._expected_epochs(index))

    def _of_row(self, index: int) -> list[CellResult]:
        row = self._cells[index].row
        return [result for result in self._finished.values() if result.row == row]

    def _expected_epochs(self, index: int) -> float:
        config = self._cells[index].config
        trained = [result for result in self._finished.values() if result.num_epochs > 1]
        others = self._of_row(index) or trained
        running = self._running.get(index)
        trial = self._trials.get(self._cells[index].row)
        if running is not None and running.epoch:
            steps = running.epoch_steps
        elif trial is not None:
            steps = trial.epoch_steps
        else:
            steps = max((cell.epoch_steps for cell in self._running.values()), default=1)
        patience = (config.patience_evaluations(steps) + 1) * config.evaluation_epochs(steps)
        expected = fmean(other.num_epochs for other in others) if others else _PATIENCES * patience
        if running is not None and running.epoch:
            least = -(-config.min_steps // steps)
            expected = max(expected, running.best_epoch + patience, least)
        return min(expected, config.max_epochs)

    def _epoch_seconds(self, index: int) -> float | None:
        running = self._running.get(index)
        if running is not None and running.epoch:
            return (time.monotonic() - running.start) / running.epoch
        of_row = [other.seconds / other.num_epochs for other in self._of_row(index)]
        if of_row:
            return fmean(of_row)
        trial = self._trials.get(self._cells[index].row)
        if trial is not None:
            interval = self._cells[index].config.evaluation_epochs(trial.epoch_steps)
            return trial.epoch_seconds + trial.evaluation_seconds / interval
        known = [other.seconds / other.num_epochs for other in self._finished.values()]
        known += [
            (time.monotonic() - cell.start) / cell.epoch
            for cell in self._running.values()
            if cell.epoch
        ]
        return fmean(known) if known else None
