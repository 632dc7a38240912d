"""The end of a sweep: finalists with all seeds, and the chosen one on the test links.

Both run as tasks of Ray, not as trials, since nothing is stopped or proposed, and the processes
that trained finalists can be reused to score them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from alignrec_pyg.experiments.cells import METRICS, Cell, Parts
from alignrec_pyg.experiments.description import SELECTED_BY
from alignrec_pyg.experiments.provenance import commit
from alignrec_pyg.experiments.runner import RunOutcome, run_cells
from alignrec_pyg.experiments.session import Session, log
from alignrec_pyg.experiments.settings import ModelSettings
from alignrec_pyg.experiments.store import CellStore
from alignrec_pyg.tuning.sweep import Resources
from alignrec_pyg.tuning.trial import Trial, TrialConfig, TrialJob, train

ResultT = TypeVar("ResultT")


def train_finalists(
    job: TrialJob, configs: Sequence[TrialConfig], resources: Resources
) -> list[Trial]:
    """Trains configurations to the end, on validation links only; results come in their order."""
    import ray

    shared = ray.put(job)
    trials: dict[int, Trial] = {}
    for index, trial in _as_completed(_finalist, [(one, shared) for one in configs], resources):
        trials[index] = trial
        value = f"{trial.val[SELECTED_BY]:.4f}" if trial.val else f"none ({trial.reason})"
        log(
            f"[{len(trials)}/{len(configs)}] configuration {trial.number}, seed {trial.seed}: "
            f"validation {SELECTED_BY} {value}, {trial.outcome} after {trial.epochs} epochs"
        )
    return [trials[index] for index in range(len(configs))]


def _finalist(config: TrialConfig, job: TrialJob) -> Trial:
    try:
        fitted = train(config, job)
    except Exception as error:  # as in the search: a failure is reported, the others go on
        reason = f"{type(error).__name__}: {error}"
        return Trial(
            **config, outcome="failed", reason=reason, val={}, best_epoch=0, epochs=0, seconds=0.0
        )
    return Trial(
        **config,
        outcome="finished",
        reason="",
        val={name: fitted.best_metrics[name] for name in METRICS},
        best_epoch=fitted.best_epoch,
        epochs=fitted.num_epochs,
        seconds=fitted.seconds,
    )


def run_finals(
    session: Session, rows: Mapping[str, tuple[Session, ModelSettings]], resources: Resources
) -> RunOutcome:
    """Scores every row on its test links, with all seeds; nothing is trained a second time."""
    import ray

    calls = []
    for row, (owner, settings) in rows.items():
        parts = ray.put(owner.data.parts)
        for cell in owner.cells(row, settings):
            arguments = (cell, parts, session.out / "cells", session.device.type)
            calls.append((*arguments, torch.get_num_threads()))
    outcomes: dict[int, RunOutcome] = {}
    for index, outcome in _as_completed(_score, calls, resources):
        outcomes[index] = outcome
        for result in outcome.results:
            log(f"{result.row} seed {result.seed}: {result.metrics[SELECTED_BY]:.4f} on test")
    in_order = [outcomes[index] for index in range(len(calls))]
    here = commit()  # workers have a copy of this checkout's code, without its history
    return RunOutcome(
        results=[
            replace(result, origin=replace(result.origin, commit=here))
            for outcome in in_order
            for result in outcome.results
        ],
        failed={name: why for outcome in in_order for name, why in outcome.failed.items()},
    )


def _score(cell: Cell, parts: Parts, folder: Path, device: str, threads: int) -> RunOutcome:
    torch.set_num_threads(threads)
    return run_cells([cell], parts, CellStore(folder), torch.device(device), lambda line: None)


def _as_completed(
    function: Callable[..., ResultT], calls: Sequence[tuple[Any, ...]], resources: Resources
) -> Iterator[tuple[int, ResultT]]:
    """Calls a function in other processes; gives the index and result of each call that ended."""
    import ray

    task = ray.remote(function).options(num_cpus=resources.cpus, num_gpus=resources.gpus)
    waiting = iter(enumerate(calls))
    running: dict[Any, int] = {}
    limit = resources.max_concurrent or len(calls)
    while True:
        for index, call in islice(waiting, limit - len(running)):
            running[task.remote(*call)] = index
        if not running:
            return
        (ended, *_), _ = ray.wait(list(running))
        yield running.pop(ended), ray.get(ended)
