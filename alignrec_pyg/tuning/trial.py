"""Trials of a sweep: what they share, how one is trained, and their results by configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments.cells import KS, Cell, Parts, train_cell
from alignrec_pyg.experiments.description import SELECTED_BY
from alignrec_pyg.experiments.settings import ModelSettings
from alignrec_pyg.experiments.store import CellStore
from alignrec_pyg.storage import read_manifest, write_manifest
from alignrec_pyg.training.loop import FitResult
from alignrec_pyg.training.run import TrainingDivergedError
from alignrec_pyg.training.state import saved_history
from alignrec_pyg.tuning.spaces import ITEM_NEIGHBORS, TRIAL, Point, with_point

METRIC = f"best_{SELECTED_BY}"
"""What a sweep maximises: the best validation recall@20 so far, which never falls."""
EPOCHS = "epochs"
"""Epochs trained, by which the scheduler compares trials."""
FINISHED = "finished"
"""Whether training has ended by itself."""

Outcome = Literal["finished", "stopped", "failed"]


class TrialConfig(TypedDict):
    """A configuration and the seed to train it with, as Ray stores it."""

    number: int
    seed: int
    point: Point


class TrialInputs(NamedTuple):
    """The part of the data that a model reads, and a hash of it, the links and the split."""

    arguments: dict[str, Any]  # of the constructor: feature tables and item graphs
    data_hash: str


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """What all trials of a sweep share; it is put into Ray's object store once.

    It holds no test links.
    """

    train: HeteroData
    val: HeteroData
    settings: ModelSettings
    inputs: Mapping[int, TrialInputs]  # by the number of neighbours in the item graph
    item_neighbors: int  # where the configuration does not set it
    code: str
    device: str
    threads: int
    cells: Path  # folder of finished and unfinished cells, the same for all machines
    checkpoint_seconds: float

    def cell(self, point: Point, seed: int) -> tuple[Cell, str]:
        """The cell of a configuration, and its key, which is the same in comparisons."""
        settings = with_point(self.settings, point)
        inputs = self.inputs[int(point.get(ITEM_NEIGHBORS, self.item_neighbors))]
        cell = Cell(
            row=settings.name,
            model=settings.model,
            hparams={**settings.hparams, **inputs.arguments},
            config=replace(settings.complete_config(self.train), seed=seed, ks=KS),
        )
        return cell, cell.key(inputs.data_hash, self.code, self.device, f"{self.threads} threads")


def run_trial(config: dict[str, Any], job: TrialJob) -> None:
    """Trains a configuration of the search; Ray Tune calls it in a worker process."""
    from ray import tune

    def report(epoch: int, metrics: dict[str, float]) -> None:
        tune.report({**metrics, EPOCHS: epoch})

    fitted = train(config[TRIAL], job, report)
    best = {f"best_{name}": value for name, value in fitted.best_metrics.items()}
    tune.report(
        {
            **best,
            "best_epoch": fitted.best_epoch,
            EPOCHS: fitted.num_epochs,
            "seconds": fitted.seconds,
            FINISHED: True,
        }
    )


def train(
    trial: TrialConfig,
    job: TrialJob,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> FitResult:
    """Trains a configuration with a seed, or continues where training was interrupted.

    The state is kept in the folder of the cell, not in checkpoints of Ray: Ray's view of a run is
    some seconds old when its driver is killed, and it may name checkpoints that are gone. A trial
    that starts again, whatever was killed, continues from the cell's last save.

    Raises:
        TrainingDivergedError: If the loss is not finite, now or when this cell was tried before.
    """
    torch.set_num_threads(job.threads)
    cell, key = job.cell(trial["point"], trial["seed"])
    store = CellStore(job.cells)
    # A worker may outlive its killed driver for some seconds, and two trials may be the same.
    with store.lock(cell, key):
        diverged = store.checkpoint_dir(cell, key).with_suffix(".diverged")
        if diverged.exists():
            raise TrainingDivergedError(read_manifest(diverged, {"reason": str})["reason"])
        parts = Parts(job.train, job.val, {}).to(torch.device(job.device))
        try:
            _, fitted = train_cell(
                cell, parts, store.checkpoint_dir(cell, key), report, job.checkpoint_seconds
            )
        except FloatingPointError as error:  # a repetition would diverge again
            write_manifest(diverged, {"reason": str(error)})
            raise
    return fitted


def history(point: Point, seed: int, job: TrialJob) -> list[dict[str, float]]:
    """The learning curve of a configuration with a seed, as far as it was trained and saved."""
    cell, key = job.cell(point, seed)
    store = CellStore(job.cells)
    if found := saved_history(store.checkpoint_dir(cell, key)):
        return found
    result = store.load(cell, key)
    return [] if result is None else result.history


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The result of a trial."""

    number: int
    seed: int
    point: Point
    outcome: Outcome  # a trial is stopped where it is unpromising or time is up
    reason: str  # of a failure
    val: dict[str, float]  # metrics of the best epoch; empty if there is none
    best_epoch: int  # from 1
    epochs: int
    seconds: float  # of a trial that was stopped, since its last start


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration with its trials, one for each seed it was tried with, by seed."""

    number: int
    point: Point
    trials: tuple[Trial, ...]

    @property
    def values(self) -> list[float]:
        """Best validation recall@20 of every trial that has one."""
        return [trial.val[SELECTED_BY] for trial in self.trials if trial.val]

    @property
    def mean(self) -> float:
        """Mean of :attr:`values`; there is at least one."""
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """Their standard deviation (divisor n - 1); ``None`` with fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def failed(self) -> bool:
        """Whether a trial failed: the configuration is not chosen."""
        return any(trial.outcome == "failed" for trial in self.trials)

    @property
    def finished(self) -> bool:
        """Whether every trial trained to its end."""
        return all(trial.outcome == "finished" for trial in self.trials)


def collect(trials: Sequence[Trial]) -> list[Configuration]:
    """Configurations by number; of trials with the same seed the last one counts."""
    found: dict[int, dict[int, Trial]] = {}
    for trial in trials:
        found.setdefault(trial.number, {})[trial.seed] = trial
    return [
        Configuration(
            number=number,
            point=next(iter(by_seed.values())).point,
            trials=tuple(by_seed[seed] for seed in sorted(by_seed)),
        )
        for number, by_seed in sorted(found.items())
    ]


def ranked(configurations: Sequence[Configuration]) -> list[Configuration]:
    """The configurations that may be chosen, the best first.

    Those tried with more seeds come before those tried with fewer; among them the mean validation
    recall@20 decides, and of equal ones the first wins. The best values of stopped trials count:
    trained to the end, they could only be higher.
    """
    valid = [entry for entry in configurations if entry.values and not entry.failed]
    return sorted(valid, key=lambda entry: (-len(entry.values), -entry.mean, entry.number))
