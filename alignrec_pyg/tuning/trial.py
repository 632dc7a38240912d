"""One trial of a sweep: one configuration, trained with one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from ray import tune
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments.cells import Cell, CellStore
from alignrec_pyg.experiments.presets import Preset
from alignrec_pyg.experiments.runner import KS, Parts, train_cell
from alignrec_pyg.storage import read_manifest, write_manifest
from alignrec_pyg.training.loop import FitResult, TrainingDivergedError
from alignrec_pyg.tuning.spaces import ITEM_NEIGHBORS, TRIAL, Point, with_point

METRIC = "best_recall@20"
"""What a sweep maximises: the best validation recall@20 up to now, which never falls."""
EPOCHS = "epochs"
"""Epochs trained, by which the scheduler compares trials."""
FINISHED = "finished"
"""Whether training has ended by itself."""


class ModelInputs(NamedTuple):
    """What a model reads of the data.

    Args:
        arguments: Feature tables and item graphs, as arguments of its constructor.
        data: Hash of these, of the links and of the split.
    """

    arguments: dict[str, Any]
    data: str


@dataclass(frozen=True, kw_only=True)
class TrialJob:
    """What all trials of a sweep have in common; it is put into Ray's object store once.

    There are no test links in it.

    Args:
        train: Graph to train on.
        val: Graph with the links to select by.
        preset: Settings that the configurations change.
        inputs: What the model reads, by the number of neighbours in the item graph.
        item_neighbors: That number where the configuration does not say it.
        code: Version of the code.
        device: ``"cpu"`` or ``"cuda"``.
        threads: Of the processor, for each trial.
        cells: Folder of finished and unfinished cells, the same for all machines.
        checkpoint_seconds: Time between saves.
    """

    train: HeteroData
    val: HeteroData
    preset: Preset
    inputs: Mapping[int, ModelInputs]
    item_neighbors: int
    code: str
    device: str
    threads: int
    cells: Path
    checkpoint_seconds: float

    def cell(self, point: Point, seed: int) -> tuple[Cell, str]:
        """The cell of a configuration, and the key that scripts of ``benchmarks`` know it by."""
        preset = with_point(self.preset, point)
        inputs = self.inputs[int(point.get(ITEM_NEIGHBORS, self.item_neighbors))]
        cell = Cell(
            row=preset.model.__name__,
            model=preset.model,
            hparams={**preset.hparams(), **inputs.arguments},
            config=preset.with_train(seed=seed, ks=KS).train,
        )
        return cell, cell.key(inputs.data, self.code, self.device, f"{self.threads} threads")


def run_trial(config: dict[str, Any], job: TrialJob) -> None:
    """Trains a configuration of the search; Ray Tune calls it in a process of its own.

    Args:
        config: Number, configuration and seed, under :data:`~alignrec_pyg.tuning.spaces.TRIAL`.
        job: What all trials share.

    Raises:
        TrainingDivergedError: See :func:`train`.
    """
    fitted = train(config[TRIAL], job, _report)
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
    asked: Mapping[str, Any],
    job: TrialJob,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> FitResult:
    """Trains a configuration with a seed, or goes on where that was left.

    The state is kept in the folder of the cell, not in checkpoints of Ray: Ray's view of a run is
    some seconds old when its driver is killed, and it may name checkpoints that are gone. A trial
    that starts again, whoever killed it, continues from the cell's last save.

    Args:
        asked: Number, configuration (``"point"``) and seed.
        job: What all trials share.
        report: Is told every epoch.

    Raises:
        TrainingDivergedError: If the loss is not finite, now or when this cell was tried before.
    """
    torch.set_num_threads(job.threads)
    cell, key = job.cell(asked["point"], asked["seed"])
    store = CellStore(job.cells)
    with cell_lock(store, cell, key):
        diverged = store.checkpoint_dir(cell, key).with_suffix(".diverged")
        if diverged.exists():
            raise TrainingDivergedError(read_manifest(diverged)["reason"])
        parts = Parts(job.train, job.val, {}).to(torch.device(job.device))
        try:
            _, fitted = train_cell(
                cell, parts, store.checkpoint_dir(cell, key), report, job.checkpoint_seconds
            )
        except FloatingPointError as error:  # it would be so again
            write_manifest(diverged, {"reason": str(error)})
            raise
    return fitted


@contextmanager
def cell_lock(store: CellStore, cell: Cell, key: str) -> Iterator[None]:
    """Keeps a cell to one process.

    A worker may outlive its killed driver for some seconds, and two trials may ask for the same
    configuration. The system gives the lock back when its process ends, however it ends.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(store.checkpoint_dir(cell, key).with_suffix(".lock")):
        yield


def _report(epoch: int, metrics: dict[str, float]) -> None:
    tune.report({**metrics, EPOCHS: epoch + 1})
