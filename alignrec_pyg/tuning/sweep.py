"""A sweep on Ray Tune: starts it or continues it, and tells what became of every trial."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from optuna.samplers import TPESampler
from ray import tune
from ray.exceptions import RayActorError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from alignrec_pyg.experiments.runner import METRICS
from alignrec_pyg.experiments.session import log
from alignrec_pyg.tuning.configurations import Outcome, Trial
from alignrec_pyg.tuning.spaces import TRIAL, Space, suggested
from alignrec_pyg.tuning.trial import EPOCHS, FINISHED, METRIC, TrialJob, run_trial

_WORKER_FAILURES = 3
_REDUCTION = 3
"""Of the trials at a rung, one in three goes on to three times as many epochs."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which trials there are to be.

    Args:
        trials: Configurations, each ``{"number", "point", "seed"}``; or how many Optuna proposes.
        space: What Optuna proposes from.
        max_epochs: Most epochs of a trial, if unpromising ones are to be stopped (ASHA).
        time_budget: Seconds after which running trials are stopped, counted from every start.
        max_concurrent: Most trials at a time (default: what the machines hold).
        cpus: Processors of a trial.
        gpus: Share of a GPU of a trial.
    """

    trials: Sequence[dict[str, Any]] | int
    space: Space
    max_epochs: int | None
    time_budget: float | None
    max_concurrent: int | None
    cpus: float
    gpus: float

    @property
    def number(self) -> int:
        """How many trials there are to be."""
        return self.trials if isinstance(self.trials, int) else len(self.trials)


def run_sweep(folder: Path, job: TrialJob, plan: Plan) -> list[Trial]:
    """Runs the trials; those that an earlier start finished are not run again.

    Where Ray has saved nothing that can be continued (it does so every ten seconds), the sweep
    begins anew, and its trials continue from their cells.

    Args:
        folder: Where Ray keeps the sweep.
        job: What all trials share.
        plan: Which trials there are to be, and how they run.

    Returns:
        All trials that began, in the order of their numbers and seeds.
    """
    if isinstance(plan.trials, int):
        # Of proposed trials Ray would prepare one process at a time, and give its trial to the
        # first that is free: trials shorter than an import of torch would all run in one process.
        os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(places(plan)))
    results = _fit(folder, job, plan)
    for _ in range(_WORKER_FAILURES):
        # Ray itself starts a trial again whose worker died, but not one that was still on its way
        # to the worker.
        if not any(isinstance(result.error, RayActorError) for result in results):
            break
        log("a worker died: its trial is started again")
        results = _fit(folder, job, plan)
    found = [trial for result in results if (trial := _trial(result)) is not None]
    if len(found) < plan.number:
        log(f"out of time: {plan.number - len(found)} of {plan.number} trials did not begin")
    return sorted(found, key=lambda trial: (trial.number, trial.seed))


def _fit(folder: Path, job: TrialJob, plan: Plan) -> tune.ResultGrid:
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, job=job), {"cpu": plan.cpus, "gpu": plan.gpus}
    )
    if _restorable(folder):
        tuner = tune.Tuner.restore(str(folder), trainable, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={}
            if isinstance(plan.trials, int)
            else {TRIAL: tune.grid_search(list(plan.trials))},
            tune_config=_tune_config(plan),
            run_config=_run_config(folder, _Progress(plan)),
        )
    return tuner.fit()


def _restorable(folder: Path) -> bool:
    """Whether Ray has saved the sweep's definition and, at least once, its state."""
    return tune.Tuner.can_restore(folder) and any(folder.glob("experiment_state-*.json"))


def _tune_config(plan: Plan) -> tune.TuneConfig:
    proposed = isinstance(plan.trials, int)
    return tune.TuneConfig(
        metric=METRIC,
        mode="max",
        search_alg=OptunaSearch(
            partial(suggested, plan.space), metric=METRIC, mode="max", sampler=TPESampler(seed=0)
        )
        if proposed
        else None,
        num_samples=plan.trials if proposed else 1,
        scheduler=None
        if plan.max_epochs is None
        else ASHAScheduler(
            time_attr=EPOCHS,
            max_t=plan.max_epochs + 1,  # the last epoch is no reason to stop: training ends itself
            grace_period=grace_period(plan.max_epochs),
            reduction_factor=_REDUCTION,
        ),
        time_budget_s=plan.time_budget,
        max_concurrent_trials=plan.max_concurrent,
        reuse_actors=True,  # or every trial would import torch anew
        trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
    )


def places(plan: Plan) -> int:
    """Trials at a time: as many as asked for, or as the machines hold."""
    if plan.max_concurrent is not None:
        return plan.max_concurrent
    there = ray.cluster_resources()
    asked = {"CPU": plan.cpus, "GPU": plan.gpus}
    return max(1, min(int(there.get(kind, 0) / share) for kind, share in asked.items() if share))


def grace_period(max_epochs: int) -> int:
    """Epochs before the first rung; the third after it, at 27 times as many, is the limit."""
    return max(1, max_epochs // _REDUCTION**3)


def _run_config(folder: Path, progress: tune.Callback) -> tune.RunConfig:
    return tune.RunConfig(
        name=folder.name,
        storage_path=str(folder.parent.resolve()),
        failure_config=tune.FailureConfig(max_failures=_WORKER_FAILURES),
        callbacks=[progress],
        verbose=0,
    )


def _trial(result: tune.Result) -> Trial | None:
    """What became of a trial; ``None`` if it never began."""
    told = result.metrics or {}
    asked_file = Path(result.path) / "params.json"
    if result.config:
        asked = result.config[TRIAL]
    elif asked_file.exists():  # it failed before its first report
        asked = json.loads(asked_file.read_text(encoding="utf-8"))[TRIAL]
    else:
        return None
    outcome, reason = _outcome(told, result.error)
    return Trial(
        number=asked["number"],
        seed=asked["seed"],
        point=asked["point"],
        outcome=outcome,
        reason=reason,
        val={name: told[f"best_{name}"] for name in METRICS} if METRIC in told else {},
        best_epoch=int(told.get("best_epoch", -1)) + 1,
        epochs=int(told.get(EPOCHS, 0)),
        seconds=float(told.get("seconds", told.get("time_total_s", 0.0))),
    )


def _outcome(told: dict[str, Any], error: Exception | None) -> tuple[Outcome, str]:
    if error is not None:
        return "failed", str(error).strip().splitlines()[-1]
    return ("finished" if told.get(FINISHED) else "stopped"), ""


class _Progress(tune.Callback):
    """Says a line for every trial that has ended."""

    def __init__(self, plan: Plan) -> None:
        self._planned = plan.number

    def on_trial_complete(self, *, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        told = trial.last_result or {}
        value = f"{told[METRIC]:.4f}" if METRIC in told else "none"
        how = "finished" if told.get(FINISHED) else "stopped"
        text = f"validation recall@20 {value}, {how} after {told.get(EPOCHS, 0)} epochs"
        self._log(trials, trial, text)

    def on_trial_error(self, *, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error() or "without a reason"
        self._log(trials, trial, f"failed: {str(error).strip().splitlines()[-1]}")

    def _log(self, trials: Sequence[Any], trial: Any, text: str) -> None:
        ended = sum(other is trial or other.is_finished() for other in trials)
        asked = trial.config[TRIAL]
        point = ", ".join(f"{name} {value:g}" for name, value in asked["point"].items())
        log(
            f"[{ended}/{self._planned}] configuration {asked['number']}, seed {asked['seed']} "
            f"({point}): {text}"
        )
