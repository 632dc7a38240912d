"""The end of a sweep: finalists with all seeds, the chosen one on the test links, and by hand.

Both run as tasks of Ray, not as trials: there is nothing to stop or to propose, and the processes
that trained finalists are there to score them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch

from alignrec_pyg.experiments.cells import Cell, CellStore
from alignrec_pyg.experiments.presets import Preset
from alignrec_pyg.experiments.provenance import commit
from alignrec_pyg.experiments.runner import METRICS, Parts, RunOutcome, cell_key, run_cells
from alignrec_pyg.experiments.session import Session, log
from alignrec_pyg.tuning.configurations import Trial
from alignrec_pyg.tuning.spaces import ITEM_NEIGHBORS, Point
from alignrec_pyg.tuning.trial import TrialJob, cell_lock, train

ResultT = TypeVar("ResultT")

_LISTS = ("features", "tables", "neighbors")
_SINGLE = ("feature_scale", "split", "seeds", "epochs", "patience", "batch_size")


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a task gets of the machines.

    Args:
        cpus: Processors.
        gpus: Share of a GPU.
        max_concurrent: Most tasks at a time (default: what the machines hold).
    """

    cpus: float
    gpus: float
    max_concurrent: int | None


def train_finalists(job: TrialJob, asked: Sequence[dict[str, Any]], share: Share) -> list[Trial]:
    """Trains configurations to the end; validation links only.

    Args:
        job: What all trials share.
        asked: Number, configuration and seed of each, as ``trial.train`` takes them.
        share: What each gets of the machines.

    Returns:
        What became of each, in the order of ``asked``.
    """
    shared = ray.put(job)
    trials: dict[int, Trial] = {}
    for index, trial in _as_they_end(_finalist, [(one, shared) for one in asked], share):
        trials[index] = trial
        value = f"{trial.val['recall@20']:.4f}" if trial.val else f"none ({trial.reason})"
        log(
            f"[{len(trials)}/{len(asked)}] configuration {trial.number}, seed {trial.seed}: "
            f"validation recall@20 {value}, {trial.outcome} after {trial.epochs} epochs"
        )
    return [trials[index] for index in range(len(asked))]


def _finalist(asked: Mapping[str, Any], job: TrialJob) -> Trial:
    ended = partial(Trial, number=asked["number"], seed=asked["seed"], point=asked["point"])
    try:
        fitted = train(asked, job)
    except Exception as error:  # as in the search: one that fails is told, the others go on
        reason = f"{type(error).__name__}: {error}"
        return ended(outcome="failed", reason=reason, val={}, best_epoch=0, epochs=0, seconds=0.0)
    return ended(
        outcome="finished",
        reason="",
        val={name: fitted.best_metrics[name] for name in METRICS},
        best_epoch=fitted.best_epoch + 1,
        epochs=fitted.num_epochs,
        seconds=fitted.seconds,
    )


def run_finals(
    session: Session, rows: Mapping[str, tuple[Session, Preset]], share: Share
) -> RunOutcome:
    """Scores every row's test links, with all seeds; what trials trained is not trained again.

    Args:
        session: The script at work.
        rows: Settings by name of the row, and the session whose data they read.
        share: What a cell gets of the machines.
    """
    calls = []
    for row, (owner, preset) in rows.items():
        parts = ray.put(owner.data.parts)
        for cell in owner.cells(row, preset):
            arguments = (cell, parts, session.out / "cells", session.device.type)
            calls.append((*arguments, torch.get_num_threads()))
    outcomes: dict[int, RunOutcome] = {}
    for index, outcome in _as_they_end(_score, calls, share):
        outcomes[index] = outcome
        for result in outcome.results:
            log(f"{result.row} seed {result.seed}: {result.metrics['recall@20']:.4f} on test")
    in_order = [outcomes[index] for index in range(len(calls))]
    ours = commit()  # workers have a copy of this checkout's code, without its history
    return RunOutcome(
        results=[
            replace(result, origin=replace(result.origin, commit=ours))
            for outcome in in_order
            for result in outcome.results
        ],
        failed={name: why for outcome in in_order for name, why in outcome.failed.items()},
    )


def _score(cell: Cell, parts: Parts, folder: Path, device: str, threads: int) -> RunOutcome:
    torch.set_num_threads(threads)
    where = torch.device(device)
    store = CellStore(folder)
    with cell_lock(store, cell, cell_key(cell, parts, where)):
        return run_cells([cell], parts, store, where, lambda line: None)


def _as_they_end(
    function: Callable[..., ResultT], calls: Sequence[tuple[Any, ...]], share: Share
) -> Iterator[tuple[int, ResultT]]:
    """Calls a function in other processes; gives the index and result of each call that ended."""
    task = ray.remote(function).options(num_cpus=share.cpus, num_gpus=share.gpus)
    waiting = iter(enumerate(calls))
    running: dict[Any, int] = {}
    places = len(calls) if share.max_concurrent is None else share.max_concurrent
    while True:
        for index, call in islice(waiting, places - len(running)):
            running[task.remote(*call)] = index
        if not running:
            return
        (ended, *_), _ = ray.wait(list(running))
        yield running.pop(ended), ray.get(ended)


def by_hand(session: Session, point: Point) -> str:
    """The command line of ``benchmarks/compare.py`` that trains a configuration anew.

    Args:
        session: The script at work.
        point: The configuration.
    """
    options = session.options
    (model,) = session.presets
    words = ["python", "benchmarks/compare.py", "--data", options.data, "--models", model]
    for name in _LISTS:
        if given := getattr(options, name):
            words += [_option(name), *given]
    for name in _SINGLE:
        if (value := getattr(options, name)) is not None:
            words += [_option(name), str(value)]
    item_neighbors = point.get(ITEM_NEIGHBORS, options.item_neighbors)
    if not options.neighbors:
        words += [_option(ITEM_NEIGHBORS), str(item_neighbors)]
    words += ["--device", session.device.type, "--threads", str(torch.get_num_threads())]
    if options.lr is not None and "lr" not in point:
        words += ["--lr", str(options.lr)]
    for override in options.set:
        words += ["--set", override]
    for name, value in point.items():
        if name != ITEM_NEIGHBORS:
            words += ["--set", f"{model}.{name}={value!r}"]
    return shlex.join([*words, "--out", os.fspath(session.out / "by_hand")])


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
