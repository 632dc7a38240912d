"""The end of a sweep: chosen settings with all seeds, scored on the test links, and by hand."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import ray
import torch

from benchmarks.cells import Cell, CellStore
from benchmarks.presets import Preset
from benchmarks.provenance import commit
from benchmarks.runner import Parts, RunOutcome, cell_key, run_cells
from benchmarks.session import Session, say
from tuning.spaces import ITEM_NEIGHBORS, Point
from tuning.trial import cell_lock

_LISTS = ("features", "tables", "neighbors")
_SINGLE = ("feature_scale", "split", "seeds", "epochs", "patience", "batch_size")


def run_finals(
    session: Session, rows: Mapping[str, tuple[Session, Preset]], *, cpus: float, gpus: float
) -> RunOutcome:
    """Scores every row's test links, with all seeds; what trials trained is not trained again.

    Args:
        session: The script at work.
        rows: Settings by name of the row, and the session whose data they read.
        cpus: Processors of a cell.
        gpus: Share of a GPU of a cell.
    """
    score = ray.remote(_score).options(num_cpus=cpus, num_gpus=gpus)
    pending = []
    for row, (owner, preset) in rows.items():
        parts = ray.put(owner.data.parts)
        for cell in owner.cells(row, preset):
            arguments = (cell, parts, session.out / "cells", session.device.type)
            pending.append(score.remote(*arguments, torch.get_num_threads()))
    outcomes: list[RunOutcome] = ray.get(pending)
    for outcome in outcomes:
        for result in outcome.results:
            say(f"{result.row} seed {result.seed}: {result.metrics['recall@20']:.4f} on test")
    ours = commit()  # workers have a copy of this checkout's code, without its history
    return RunOutcome(
        results=[
            replace(result, origin=replace(result.origin, commit=ours))
            for outcome in outcomes
            for result in outcome.results
        ],
        failed={name: why for outcome in outcomes for name, why in outcome.failed.items()},
    )


def _score(cell: Cell, parts: Parts, folder: Path, device: str, threads: int) -> RunOutcome:
    torch.set_num_threads(threads)
    where = torch.device(device)
    store = CellStore(folder)
    with cell_lock(store, cell, cell_key(cell, parts, where)):
        return run_cells([cell], parts, store, where, lambda line: None)


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
