"""The steps of a sweep: search with one seed, finalists with all seeds, the test links once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch

from alignrec_pyg.cli.options import unknown_names
from alignrec_pyg.experiments.prepare import NUM_NEIGHBORS
from alignrec_pyg.experiments.presets import Preset
from alignrec_pyg.experiments.provenance import code_version
from alignrec_pyg.experiments.results import header
from alignrec_pyg.experiments.runner import data_version
from alignrec_pyg.experiments.session import Session, log
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.experiments.table import Look
from alignrec_pyg.graph import content_hash
from alignrec_pyg.tuning.configurations import Configuration, collect, ranked
from alignrec_pyg.tuning.definition import agree
from alignrec_pyg.tuning.final import Share, by_hand, run_finals, train_finalists
from alignrec_pyg.tuning.report import write_report
from alignrec_pyg.tuning.spaces import (
    ITEM_NEIGHBORS,
    SPACES,
    Choice,
    Kind,
    Space,
    grid_points,
    random_points,
    with_point,
)
from alignrec_pyg.tuning.sweep import Plan, run_sweep
from alignrec_pyg.tuning.trial import ModelInputs, TrialJob

_ROOT = Path(__file__).resolve().parents[2]
_SAMPLES = 20
_GPU_SHARE = 0.25
_CHECKPOINT_SECONDS = 10.0
"""Between saves of a trial: what a kill costs at most is training these seconds again."""


def search(session: Session) -> int:
    """Runs a sweep from its first trial, or from where it was left, to the table of test metrics.

    Raises:
        SettingsError: If arguments do not fit each other, or the sweep in ``--out`` is another.
    """
    options = session.options
    (name,) = session.presets
    preset = session.required(name)
    space = _space(session, preset)
    plan = _plan(session, space, preset)
    session = replace(session, device=torch.device("cuda" if plan.gpus else "cpu"))
    sessions = _sessions(session, space)
    job = _job(session, sessions, preset)
    agree(
        session,
        {
            "data": content_hash(*(job.inputs[k].data for k in sorted(job.inputs))),
            "code": job.code,
            "device": job.device,
            "threads": str(job.threads),
        },
    )
    print(header(session.data, {name: preset}), flush=True)
    with _ray(options.address):
        trials = run_sweep(session.out / "ray" / "search", job, plan)
        best = ranked(collect(trials))[: options.finalists]
        if not best:
            log("no trial has a result: nothing to choose from")
            return 1
        share = Share(cpus=plan.cpus, gpus=plan.gpus, max_concurrent=plan.max_concurrent)
        trials += train_finalists(job, _unfinished(session, best), share)
        configurations = collect(trials)
        chosen = ranked(configurations)[0]
        owner = sessions[int(chosen.point.get(ITEM_NEIGHBORS, options.item_neighbors))]
        tuned = with_point(preset, chosen.point)
        rows = {f"{name}, tuned": (owner, tuned), f"{name}, defaults": (session, preset)}
        outcome = run_finals(session, rows, share)
    line = by_hand(session, chosen.point)
    written = write_report(session, configurations, space, line)
    print(f"written: {', '.join(str(path) for path in written)}")
    status = session.conclude(
        "best",
        f"{name}: the best of {len(configurations)} configurations on validation",
        outcome,
        presets={name: tuned},
        look=Look(costs=False),
        notes=[_choice(chosen, len(session.seeds)), f"by hand: {line}"],
    )
    if options.time_budget is None:  # else --resume goes on with the trials that were stopped
        for unfinished in (session.out / "cells").glob("*.unfinished"):
            shutil.rmtree(unfinished)
    return status


def _space(session: Session, preset: Preset) -> Space:
    options = session.options
    (name,) = session.presets
    kind: Kind = options.space or ("paper" if options.search == "grid" else "wide")
    if name not in SPACES[kind]:
        raise SettingsError([f"--space {kind}: there is none for {name}"])
    space = dict(SPACES[kind][name])
    if options.neighbors:
        space.pop(ITEM_NEIGHBORS, None)  # the lists have their own number
    axes = list(space) if options.axes is None else list(dict.fromkeys(options.axes))
    problems = unknown_names("setting", axes, list(space))
    overridden = {text.partition("=")[0].partition(".")[2] for text in options.set}
    problems += [
        f"--set {name}.{axis}: the space decides it (unless --axes leaves it out)"
        for axis in axes
        if axis in overridden
    ]
    if options.lr is not None and "lr" in axes:
        problems.append("--lr: the space decides it (unless --axes leaves it out)")
    if options.item_neighbors != NUM_NEIGHBORS and ITEM_NEIGHBORS in axes:
        problems.append("--item-neighbors: the space decides it (unless --axes leaves it out)")
    if problems:
        raise SettingsError(problems)
    return {axis: space[axis] for axis in axes}


def _plan(session: Session, space: Space, preset: Preset) -> Plan:
    options = session.options
    trials: list[dict[str, Any]] | int = options.num_samples or _SAMPLES
    if options.search == "grid":
        if options.num_samples is not None:
            raise SettingsError(["--num-samples: a grid has as many as it has"])
        try:
            points = grid_points(space)
        except ValueError as error:
            raise SettingsError([f"--search grid: {error} (--space paper has lists)"]) from error
        trials = _numbered(points)
    elif options.search == "random":
        trials = _numbered(random_points(space, options.num_samples or _SAMPLES, seed=0))
    gpus = options.gpus_per_trial
    if gpus is None:
        gpus = _GPU_SHARE if session.device.type == "cuda" else 0.0
    if bool(gpus) != (options.device == "cuda") and options.device != "auto":
        need = "above 0" if options.device == "cuda" else "0"
        raise SettingsError(
            [
                f"--gpus-per-trial: needs to be {need} with --device {options.device} (got "
                f"{gpus:g}): leave one of the two out"
            ]
        )
    if gpus and session.device.type != "cuda" and options.address is None:
        raise SettingsError(["--gpus-per-trial: torch finds no GPU on this machine"])
    return Plan(
        trials=trials,
        space=space,
        max_epochs=preset.train.max_epochs if options.scheduler == "asha" else None,
        time_budget=options.time_budget,
        max_concurrent=options.max_concurrent,
        cpus=options.cpus_per_trial or torch.get_num_threads(),
        gpus=gpus,
    )


def _numbered(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"number": i, "seed": 0, "point": point} for i, point in enumerate(points)]


def _sessions(session: Session, space: Space) -> dict[int, Session]:
    """The session with each number of neighbours that item graphs may have."""
    axis = space.get(ITEM_NEIGHBORS)
    numbers = {
        session.data.item_neighbors,
        *(map(int, axis.values) if isinstance(axis, Choice) else []),
    }
    return {
        number: replace(session, data=replace(session.data, item_neighbors=number))
        for number in sorted(numbers)
    }


def _job(session: Session, sessions: dict[int, Session], preset: Preset) -> TrialJob:
    inputs = {}
    for number, owner in sessions.items():
        (cell,) = owner.cells("", preset, seeds=[0])
        session.check([cell])
        inputs[number] = ModelInputs(
            owner.data.inputs(preset), data_version(cell, owner.data.parts)
        )
    return TrialJob(
        train=session.data.train,
        val=session.data.val,
        preset=preset,
        inputs=inputs,
        item_neighbors=session.data.item_neighbors,
        code=code_version(),
        device=session.device.type,
        threads=torch.get_num_threads(),
        cells=session.out / "cells",
        checkpoint_seconds=_CHECKPOINT_SECONDS,
    )


def _unfinished(session: Session, best: list[Configuration]) -> list[dict[str, Any]]:
    """What is still to train of the best configurations, seed by seed."""
    done = {
        (trial.number, trial.seed)
        for entry in best
        for trial in entry.trials
        if trial.outcome == "finished"
    }
    return [
        {"number": entry.number, "seed": seed, "point": entry.point}
        for seed in session.seeds
        for entry in best
        if (entry.number, seed) not in done
    ]


def _choice(chosen: Configuration, num_seeds: int) -> str:
    point = ", ".join(f"{name} {value!r}" for name, value in chosen.point.items())
    spread = "" if chosen.std is None else f" ± {chosen.std:.4f}"
    return (
        f"chosen: configuration {chosen.number} ({point}), validation recall@20 {chosen.mean:.4f}"
        f"{spread} over {len(chosen.values)} of {num_seeds} seeds, the best of the finalists"
    )


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Ray on this machine or the cluster at ``address``, with the repository's code."""
    modules = [str(_ROOT / name) for name in ("alignrec_pyg", "benchmarks", "tuning")]
    here = {} if address else {"include_dashboard": False}  # one more process on this machine
    # "local": never by chance a cluster that somebody else has running here
    where = address or "local"
    ray.init(address=where, runtime_env={"py_modules": modules}, log_to_driver=False, **here)
    try:
        yield
    finally:
        ray.shutdown()
