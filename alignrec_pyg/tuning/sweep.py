"""The trials of a sweep on Ray Tune: started or continued, and their results."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.description import SELECTED_BY
from alignrec_pyg.experiments.session import log
from alignrec_pyg.tuning.spaces import DEFAULT, TRIAL, Point, Space, suggested, unfolded
from alignrec_pyg.tuning.trial import (
    EPOCHS,
    FINISHED,
    METRIC,
    Outcome,
    Trial,
    TrialConfig,
    TrialJob,
    run_trial,
)

if TYPE_CHECKING:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

_WORKER_FAILURES = 3
_REDUCTION = 3
"""Of the trials at a rung, one in three goes on to three times as many epochs."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Resources of each trial: processors, and a share of a GPU."""

    cpus: float
    gpus: float
    max_concurrent: int | None = None  # default: as many trials as the machines hold

    def concurrent(self) -> int:
        """Trials at a time: ``max_concurrent``, or as many as fit on the machines."""
        import ray

        if self.max_concurrent is not None:
            return self.max_concurrent
        total = ray.cluster_resources()
        needed = {"CPU": self.cpus, "GPU": self.gpus}
        fitting = (int(total.get(kind, 0) / need) for kind, need in needed.items() if need)
        return max(1, min(fitting))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trials of a search; the first has the default settings, and is stopped by time alone."""

    trials: Sequence[TrialConfig] | int  # or how many Optuna is to propose from the space
    space: Space
    default: Point
    max_epochs: int | None  # of a trial, if unpromising ones are to be stopped (ASHA)
    time_budget: float | None  # seconds, counted from every start
    resources: Resources

    @property
    def num_trials(self) -> int:
        """The number of trials."""
        return self.trials if isinstance(self.trials, int) else len(self.trials)


def run_sweep(folder: Path, job: TrialJob, plan: Plan) -> list[Trial]:
    """Runs the trials; those that an earlier start finished are not run again.

    Where Ray has saved nothing that can be continued (it does so every ten seconds), the sweep
    begins anew, and its trials continue from their cells. The result has all trials that began, in
    the order of their numbers and seeds.
    """
    from ray.exceptions import RayActorError

    if isinstance(plan.trials, int):
        # Of proposed trials Ray would prepare one process at a time, and give its trial to the
        # first that is free: trials shorter than an import of torch would all run in one process.
        os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", str(plan.resources.concurrent()))
    results = _fit(folder, job, plan)
    for _ in range(_WORKER_FAILURES):
        # Ray itself starts a trial again whose worker died, but not one that was still on its way
        # to the worker.
        if not any(isinstance(result.error, RayActorError) for result in results):
            break
        log("a worker died: its trial is started again")
        results = _fit(folder, job, plan)
    found = [trial for result in results if (trial := _trial(result)) is not None]
    if len(found) < plan.num_trials:
        log(
            f"out of time: {plan.num_trials - len(found)} of {plan.num_trials} trials did not begin"
        )
    return sorted(found, key=lambda trial: (trial.number, trial.seed))


def _fit(folder: Path, job: TrialJob, plan: Plan) -> tune.ResultGrid:
    from ray import tune

    resources = {"cpu": plan.resources.cpus, "gpu": plan.resources.gpus}
    trainable = tune.with_resources(tune.with_parameters(run_trial, job=job), resources)
    if _restorable(folder):
        return tune.Tuner.restore(str(folder), trainable, resume_errored=True).fit()
    listed = not isinstance(plan.trials, int)
    return tune.Tuner(
        trainable,
        param_space={TRIAL: tune.grid_search(list(plan.trials))} if listed else {},
        tune_config=_tune_config(plan),
        run_config=_run_config(folder, plan),
    ).fit()


def _restorable(folder: Path) -> bool:
    """Whether Ray has saved the sweep's definition and, at least once, its state."""
    from ray import tune

    return tune.Tuner.can_restore(folder) and any(folder.glob("experiment_state-*.json"))


def _tune_config(plan: Plan) -> tune.TuneConfig:
    from optuna.samplers import TPESampler
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    proposed = isinstance(plan.trials, int)
    return tune.TuneConfig(
        metric=METRIC,
        mode="max",
        search_alg=OptunaSearch(
            partial(suggested, plan.space),
            points_to_evaluate=[unfolded(plan.default)],
            metric=METRIC,
            mode="max",
            sampler=TPESampler(seed=0),
        )
        if proposed
        else None,
        num_samples=plan.trials if proposed else 1,
        scheduler=None if plan.max_epochs is None else _scheduler(plan.max_epochs),
        time_budget_s=plan.time_budget,
        max_concurrent_trials=plan.resources.max_concurrent,
        reuse_actors=True,  # or every trial would import torch anew
        trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
    )


def _scheduler(max_epochs: int) -> ASHAScheduler:
    """Stops unpromising trials; the default settings are compared with the others, not stopped.

    Rungs are counted in epochs, since the limit of every trial is: a rung is then the same share of
    it, and the same number of passes over the links, whatever the batch size. A trial with larger
    batches has taken fewer steps at a rung and may be stopped for that; ``--scheduler none`` trains
    every configuration to the end.
    """
    from ray.tune.schedulers import ASHAScheduler

    class SparingDefault(ASHAScheduler):
        """ASHA, which lets the trial of the default settings go on."""

        def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
            decision: str = super().on_trial_result(controller, trial, result)
            return self.CONTINUE if trial.config[TRIAL]["number"] == DEFAULT else decision

    return SparingDefault(
        time_attr=EPOCHS,
        max_t=max_epochs + 1,  # so that it never stops the last epoch
        grace_period=grace_period(max_epochs),
        reduction_factor=_REDUCTION,
    )


def grace_period(max_epochs: int) -> int:
    """Epochs before the first rung; the others are at 3 and 9, the limit at 27 times as many."""
    return max(1, max_epochs // _REDUCTION**3)


def _run_config(folder: Path, plan: Plan) -> tune.RunConfig:
    from ray import tune

    class ProgressCallback(_Progress, tune.Callback):
        """Logs the progress, as a callback of Ray Tune."""

    return tune.RunConfig(
        name=folder.name,
        storage_path=str(folder.parent.resolve()),
        failure_config=tune.FailureConfig(max_failures=_WORKER_FAILURES),
        callbacks=[ProgressCallback(plan.num_trials)],
        verbose=0,
    )


class _Progress:
    """Logs a line for every trial that has ended."""

    def __init__(self, num_trials: int) -> None:
        self._num_trials = num_trials

    def on_trial_complete(self, *, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        metrics = trial.last_result or {}
        value = f"{metrics[METRIC]:.4f}" if METRIC in metrics else "none"
        outcome = "finished" if metrics.get(FINISHED) else "stopped"
        epochs = metrics.get(EPOCHS, 0)
        text = f"validation {SELECTED_BY} {value}, {outcome} after {epochs} epochs"
        self._log(trials, trial, text)

    def on_trial_error(self, *, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        error = trial.get_pickled_error() or trial.get_error() or "without a reason"
        self._log(trials, trial, f"failed: {_last_line(error)}")

    def _log(self, trials: Sequence[Any], trial: Any, text: str) -> None:
        ended = sum(other is trial or other.is_finished() for other in trials)
        config: TrialConfig = trial.config[TRIAL]
        point = ", ".join(f"{name} {value:g}" for name, value in config["point"].items())
        log(
            f"[{ended}/{self._num_trials}] configuration {config['number']}, seed "
            f"{config['seed']} ({point}): {text}"
        )


def _trial(result: tune.Result) -> Trial | None:
    """The trial of a result of Ray Tune; ``None`` if it never began."""
    metrics = result.metrics or {}
    saved_config = Path(result.path) / "params.json"
    if result.config:
        config = result.config[TRIAL]
    elif saved_config.exists():  # it failed before its first report
        config = json.loads(saved_config.read_text(encoding="utf-8"))[TRIAL]
    else:
        return None
    outcome: Outcome = "finished" if metrics.get(FINISHED) else "stopped"
    return Trial(
        **config,
        outcome=outcome if result.error is None else "failed",
        reason="" if result.error is None else _last_line(result.error),
        val={name: metrics[f"best_{name}"] for name in METRICS} if METRIC in metrics else {},
        best_epoch=int(metrics.get("best_epoch", 0)),
        epochs=int(metrics.get(EPOCHS, 0)),
        seconds=float(metrics.get("seconds", metrics.get("time_total_s", 0.0))),
    )


def _last_line(error: object) -> str:
    """The exception at the end of a traceback."""
    return str(error).strip().splitlines()[-1]
