"""The course of a sweep: search with one seed, finalists with all seeds, the test links once."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch

import alignrec_pyg
from alignrec_pyg.checks import require_package, unknown_names
from alignrec_pyg.experiments.cells import data_version
from alignrec_pyg.experiments.description import SELECTED_BY, header
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.session import Session, log
from alignrec_pyg.experiments.settings import ModelSettings, SettingsError
from alignrec_pyg.graph import content_hash
from alignrec_pyg.models import Recommender
from alignrec_pyg.storage import read_manifest, write_manifest
from alignrec_pyg.training.state import discard
from alignrec_pyg.tuning.finals import run_finals, train_finalists
from alignrec_pyg.tuning.report import write_report, write_trial_curves
from alignrec_pyg.tuning.spaces import (
    DEFAULT,
    ITEM_NEIGHBORS,
    Choice,
    Kind,
    Point,
    Space,
    default_point,
    grid_points,
    holding,
    random_points,
    search_space,
    with_point,
)
from alignrec_pyg.tuning.sweep import Plan, Resources, run_sweep
from alignrec_pyg.tuning.trial import (
    Configuration,
    TrialConfig,
    TrialInputs,
    TrialJob,
    collect,
    ranked,
)

DEFINITION = "sweep.json"
"""File of the options and versions that define a sweep."""
_MAY_DIFFER = ("address", "data")
"""Options that may differ when a sweep resumes: data and results may have been moved."""
_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers run in this very environment
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep, not just its present step
}
_NUM_SAMPLES = 20
_GPUS = 0.25
_CHECKPOINT_SECONDS = 10.0
"""Between saves of a trial; after a kill, at most these seconds of training are repeated."""


def search(session: Session, by_hand: Callable[[Session, Point], str]) -> int:
    """Runs a sweep, or continues it, from its first trial to the table of test metrics.

    ``by_hand`` gives the command line that trains a configuration anew.

    Raises:
        ImportError: If Ray or Optuna is missing.
        SettingsError: If options do not fit each other, or the sweep in ``--out`` is another.
    """
    options = session.options
    (name,) = session.models
    settings = session.required(name)
    space = _space(session, settings)
    plan = _plan(session, space, settings.completed(session.data.train))
    space = plan.space
    for variable, value in _RAY_ENVIRONMENT.items():  # read when Ray is imported
        os.environ.setdefault(variable, value)
    for package in ("ray", "optuna"):
        require_package(package, "a sweep", "'ray[tune]' optuna", extra="tune")
    session = replace(session, device=torch.device("cuda" if plan.resources.gpus else "cpu"))
    sessions = _sessions(session, space)
    job = _job(session, sessions, settings)
    _start_or_resume(
        session,
        {
            "data": content_hash(*(job.inputs[k].data_hash for k in sorted(job.inputs))),
            "code": job.code,
            "device": job.device,
            "threads": str(job.threads),
        },
    )
    print(header(session.data, session.out), flush=True)
    try:
        with _ray(options.address, settings.model):
            trials = run_sweep(session.out / "ray" / "search", job, plan)
            best = _finalists(collect(trials), options.finalists, plan.default)
            if not best:
                log("no trial has a result: nothing to choose from")
                return 1
            trials += train_finalists(job, _unfinished(session.seeds, best), plan.resources)
            configurations = collect(trials)
            chosen = ranked(configurations)[0]
            owner = sessions[int(chosen.point.get(ITEM_NEIGHBORS, session.data.item_neighbors))]
            tuned = with_point(settings, chosen.point)
            rows = {f"{name}, tuned": (owner, tuned), f"{name}, defaults": (session, settings)}
            outcome = run_finals(session, rows, plan.resources)
    except KeyboardInterrupt:
        log(f"the sweep continues with --resume --out {session.out}")
        raise
    line = by_hand(session, chosen.point)
    choice = _choice(chosen, configurations[DEFAULT], len(session.seeds))
    written = write_report(session, configurations, space, line)
    written.append(write_trial_curves(session.out / "search_curves.csv", job, configurations))
    print(f"written: {', '.join(str(path) for path in written)}")
    status = session.conclude(
        "best",
        f"{name}: the best of {len(configurations)} configurations on validation",
        outcome,
        models={name: tuned},
        style=TableStyle(costs=False),
        notes=[choice, f"by hand: {line}"],
    )
    print(f"\n{choice}\nby hand: {line}")
    if options.time_budget is None:  # else --resume goes on with the trials that were stopped
        for unfinished in (session.out / "cells").glob("*.unfinished"):
            discard(unfinished)
    return status


def _space(session: Session, settings: ModelSettings) -> Space:
    options = session.options
    (name,) = session.models
    kind: Kind = options.space or ("paper" if options.search == "grid" else "wide")
    found = search_space(settings, kind)
    if found is None:
        raise SettingsError([f"--space {kind}: there is no published grid of {name}"])
    space = dict(found)
    if options.neighbors:
        space.pop(ITEM_NEIGHBORS, None)  # the lists have their own number
    if options.batch_size is not None:
        space.pop("batch_size", None)
    axes = list(dict.fromkeys(options.axes)) or list(space)
    problems = unknown_names("setting", axes, list(space))
    overridden = {text.partition("=")[0].rpartition(".")[2] for text in options.set}
    given = [f"--set {name}.{axis}" for axis in axes if axis in overridden]
    if options.lr is not None and "lr" in axes:
        given.append("--lr")
    if options.item_neighbors is not None and ITEM_NEIGHBORS in axes:
        given.append("--item-neighbors")
    problems += [f"{text}: the space decides it (unless --axes leaves it out)" for text in given]
    if problems:
        raise SettingsError(problems)
    return {axis: space[axis] for axis in axes}


def _plan(session: Session, space: Space, settings: ModelSettings) -> Plan:
    options = session.options
    number = options.num_samples or _NUM_SAMPLES
    default = default_point(space, settings, session.data.item_neighbors)
    trials: list[TrialConfig] | int = number
    if options.search == "grid":
        if options.num_samples is not None:
            raise SettingsError(["--num-samples: a grid determines the number itself"])
        try:
            trials = _numbered(default, grid_points(space))
        except ValueError as error:
            raise SettingsError([f"--search grid: {error} (--space paper has lists)"]) from error
    elif options.search == "random":
        drawn = random_points(space, number, seed=0)
        trials = _numbered(default, drawn)[:number]
    gpus = options.gpus_per_trial
    if gpus is None:
        gpus = _GPUS if session.device.type == "cuda" else 0.0
    if bool(gpus) != (options.device == "cuda") and options.device != "auto":
        rule = "above 0" if options.device == "cuda" else "0"
        raise SettingsError(
            [
                f"--gpus-per-trial: needs to be {rule} with --device {options.device} (got "
                f"{gpus:g}): leave one of the two out"
            ]
        )
    if gpus and session.device.type != "cuda" and options.address is None:
        raise SettingsError(["--gpus-per-trial: torch finds no GPU on this machine"])
    return Plan(
        trials=trials,
        space=holding(space, default),
        default=default,
        max_epochs=settings.config.max_epochs if options.scheduler == "asha" else None,
        time_budget=options.time_budget,
        resources=Resources(
            cpus=options.cpus_per_trial or torch.get_num_threads(),
            gpus=gpus,
            max_concurrent=options.jobs,
        ),
    )


def _numbered(default: Point, points: list[Point]) -> list[TrialConfig]:
    """The default settings, then the other points."""
    ordered = [default, *(point for point in points if point != default)]
    return [{"number": i, "seed": 0, "point": point} for i, point in enumerate(ordered, DEFAULT)]


def _finalists(found: list[Configuration], number: int, default: Point) -> list[Configuration]:
    """The best configurations, and the default settings unless their training failed.

    With them the chosen one is never worse on validation than the default settings.
    """
    best = ranked(found)[:number]
    if any(entry.number == DEFAULT for entry in best):
        return best
    if found and found[0].number == DEFAULT:
        return best if found[0].failed else [*best, found[0]]
    return [*best, Configuration(number=DEFAULT, point=default, trials=())]


def _sessions(session: Session, space: Space) -> dict[int, Session]:
    """The session with each number of neighbours that item graphs may have."""
    axis = space.get(ITEM_NEIGHBORS)
    searched = map(int, axis.values) if isinstance(axis, Choice) else ()
    return {
        number: replace(session, data=replace(session.data, item_neighbors=number))
        for number in sorted({session.data.item_neighbors, *searched})
    }


def _job(session: Session, sessions: dict[int, Session], settings: ModelSettings) -> TrialJob:
    inputs = {}
    for number, owner in sessions.items():
        (cell,) = owner.cells("", settings, seeds=[0])
        session.check([cell])
        inputs[number] = TrialInputs(
            owner.data.inputs(settings.model), data_version(cell, owner.data.parts)
        )
    return TrialJob(
        train=session.data.train,
        val=session.data.val,
        settings=settings,
        inputs=inputs,
        item_neighbors=session.data.item_neighbors,
        code=cell.code(),
        device=session.device.type,
        threads=torch.get_num_threads(),
        cells=session.out / "cells",
        checkpoint_seconds=_CHECKPOINT_SECONDS,
    )


def _start_or_resume(session: Session, context: Mapping[str, str]) -> None:
    """Writes the sweep's definition, or checks that it is the one being resumed.

    ``context`` holds what trials depend on beside the options, such as hashes of data and code.

    Raises:
        SettingsError: If there is a sweep and it is not to be resumed, or another one is.
    """
    path = session.out / DEFINITION
    options = {n: v for n, v in vars(session.options).items() if n not in ("out", "path", "resume")}
    definition = {"options": options, "context": dict(context)}
    if not session.options.resume:
        if path.exists():
            raise SettingsError(
                [
                    f"--out {session.out}: holds a sweep; --resume continues it, another folder "
                    "starts a new one"
                ]
            )
        write_manifest(path, definition)
        return
    stored = read_manifest(path, {"options": dict, "context": dict})
    problems = [
        f"--resume: the sweep was started with {name} {stored[part].get(name)!r} "
        f"(got {value!r}); another --out starts a new one"
        for part, values in json.loads(json.dumps(definition)).items()
        for name, value in values.items()
        if name not in _MAY_DIFFER and stored[part].get(name) != value
    ]
    if problems:
        raise SettingsError(problems)


def _unfinished(seeds: range, best: list[Configuration]) -> list[TrialConfig]:
    """The trainings that the best configurations still lack, seed by seed."""
    done = {
        (trial.number, trial.seed)
        for entry in best
        for trial in entry.trials
        if trial.outcome == "finished"
    }
    return [
        {"number": entry.number, "seed": seed, "point": entry.point}
        for seed in seeds
        for entry in best
        if (entry.number, seed) not in done
    ]


def _choice(chosen: Configuration, default: Configuration, num_seeds: int) -> str:
    if chosen.number == DEFAULT:
        against = "the default settings: no finalist is better on validation"
    elif default.values and not default.failed:
        against = f"the best of the finalists; the default settings have {default.mean:.4f}"
    else:
        against = "the best of the finalists; the default settings failed"
    point = ", ".join(f"{name} {value!r}" for name, value in chosen.point.items())
    spread = "" if chosen.std is None else f" ± {chosen.std:.4f}"
    return (
        f"chosen: configuration {chosen.number} ({point}), validation {SELECTED_BY} "
        f"{chosen.mean:.4f}{spread} over {len(chosen.values)} of {num_seeds} seeds, {against}"
    )


@contextmanager
def _ray(address: str | None, model: type[Recommender]) -> Iterator[None]:
    """Ray on this machine or the cluster at ``address``.

    Its workers get the code of the package and, of a model of the user's own, that of its module.
    """
    import ray

    own = sys.modules[model.__module__.partition(".")[0]]
    local = {} if address else {"include_dashboard": False}  # it is one more process here
    ray.init(
        address=address or "local",  # "local": never a cluster that runs here by chance
        runtime_env={"py_modules": list(dict.fromkeys([alignrec_pyg, own]))},
        log_to_driver=False,
        **local,
    )
    try:
        yield
    finally:
        ray.shutdown()
