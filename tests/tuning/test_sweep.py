import json
import os
from types import SimpleNamespace

import pytest

from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.tuning.spaces import TRIAL, Choice, Interval

pytest.importorskip("optuna", reason="needs Optuna ('tune' extra)")
pytest.importorskip("ray.tune", reason="needs Ray ('tune' extra)")

import ray
from ray import tune
from ray.exceptions import RayActorError

from alignrec_pyg.tuning import sweep
from alignrec_pyg.tuning.sweep import Plan, Resources, grace_period
from alignrec_pyg.tuning.trial import EPOCHS, FINISHED, METRIC

pytestmark = pytest.mark.tune_extra

CONFIG = {"number": 4, "seed": 1, "point": {"lr": 0.001, "num_layers": 2}}
REPORTED = {
    **{f"best_{name}": value for name, value in zip(METRICS, (0.1, 0.2, 0.3, 0.4), strict=True)},
    "best_epoch": 6.0,
    EPOCHS: 8,
    "time_total_s": 3.5,
}


PENDING = "TUNE_MAX_PENDING_TRIALS_PG"


@pytest.fixture(autouse=True)
def machines(monkeypatch):
    """A cluster of 8 processors and 2 GPUs."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    monkeypatch.setenv(PENDING, "")  # so that it is put back
    monkeypatch.delenv(PENDING)


def plan(**changes):
    settings = {
        "trials": 5, "space": {}, "default": {}, "max_epochs": None, "time_budget": None,
        "resources": Resources(cpus=1.0, gpus=0.0),
    }  # fmt: skip
    return Plan(**{**settings, **changes})


@pytest.mark.parametrize(
    ("metrics", "error", "outcome", "reason"),
    [
        ({**REPORTED, FINISHED: True, "seconds": 9.0}, None, "finished", ""),
        (REPORTED, None, "stopped", ""),
        (REPORTED, RuntimeError("traceback\n  line\nTrainingDivergedError: bad\n"), "failed",
         "TrainingDivergedError: bad"),
        ({}, RuntimeError("early"), "failed", "early"),
    ],
)  # fmt: skip
def test_what_became_of_a_trial(metrics, error, outcome, reason, tmp_path):
    (tmp_path / "params.json").write_text(json.dumps({TRIAL: CONFIG}))
    config = {TRIAL: CONFIG} if metrics else None  # as Ray has it
    found = sweep._trial(
        SimpleNamespace(config=config, metrics=metrics, error=error, path=str(tmp_path))
    )
    assert (found.number, found.seed, found.point) == (4, 1, CONFIG["point"])
    assert (found.outcome, found.reason) == (outcome, reason)
    if metrics:
        assert found.val == dict(zip(METRICS, (0.1, 0.2, 0.3, 0.4), strict=True))
        assert (found.best_epoch, found.epochs) == (6, 8)
        assert found.seconds == metrics.get("seconds", 3.5)
    else:
        assert (found.val, found.best_epoch, found.epochs, found.seconds) == ({}, 0, 0, 0.0)


def test_a_trial_that_never_began_is_none(tmp_path):
    waiting = SimpleNamespace(config=None, metrics={}, error=None, path=str(tmp_path))
    assert sweep._trial(waiting) is None


def test_rungs_end_at_the_limit_of_epochs():
    assert [grace_period(n) for n in (1, 26, 54, 200, 1000)] == [1, 1, 2, 7, 37]


def test_the_scheduler_never_stops_the_last_epoch():
    scheduler = sweep._tune_config(plan(max_epochs=27)).scheduler
    assert scheduler._max_t == 28
    assert scheduler._brackets[0]._rungs[-1][0] == 1
    assert sweep._tune_config(plan()).scheduler is None


def test_the_scheduler_stops_every_trial_but_that_of_the_default_settings():
    def ends(number):
        """Whether a trial is stopped whose first rungs are worse than all others'."""
        scheduler = sweep._tune_config(plan(max_epochs=27)).scheduler
        scheduler.set_search_properties(METRIC, "max")
        found = []
        for trial, recall in [(n, 0.5) for n in range(10, 16)] + [(number, 0.1)]:
            entry = SimpleNamespace(trial_id=str(trial), config={TRIAL: {"number": trial}})
            scheduler.on_trial_add(None, entry)
            found.append(scheduler.on_trial_result(None, entry, {EPOCHS: 3, METRIC: recall}))
        return found[-1] == scheduler.STOP

    assert ends(1)
    assert not ends(0)


def test_optuna_proposes_the_default_settings_first_and_to_the_last_digit():
    space = {"lr": Interval(1e-4, 1e-2), "num_layers": Choice((1, 2))}
    default = {"lr": 0.00123456789, "num_layers": 2}
    searcher = sweep._tune_config(plan(space=space, default=default)).search_alg
    first, second = (searcher.suggest(name)[TRIAL] for name in ("a", "b"))
    assert first == {"number": 0, "seed": 0, "point": default}
    assert (second["number"], second["point"] == default) == (1, False)
    assert float(f"{second['point']['lr']:.3g}") == second["point"]["lr"]


def test_a_list_of_trials_is_run_once_and_optuna_proposes_a_number():
    listed = sweep._tune_config(plan(trials=[CONFIG]))
    assert (listed.search_alg, listed.num_samples) == (None, 1)
    proposed = sweep._tune_config(plan(trials=5))
    assert proposed.search_alg is not None
    assert (proposed.num_samples, proposed.metric, proposed.mode) == (5, METRIC, "max")


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ({}, 8),
        ({"cpus": 3.0}, 2),
        ({"gpus": 0.25}, 8),
        ({"cpus": 0.5, "gpus": 0.25}, 8),
        ({"cpus": 1.0, "gpus": 2.0}, 1),
        ({"cpus": 16.0}, 1),
        ({"max_concurrent": 3}, 3),
    ],
)
def test_as_many_trials_at_a_time_as_the_machines_hold(share, expected):
    resources = Resources(**{"cpus": 1.0, "gpus": 0.0, **share})
    assert resources.concurrent() == expected
    config = sweep._tune_config(plan(resources=resources))
    assert config.max_concurrent_trials == share.get("max_concurrent")


@pytest.mark.parametrize(
    ("trials", "user", "expected"), [(5, None, "8"), ([CONFIG] * 5, None, None), (5, "3", "3")]
)
def test_processes_of_proposed_trials_start_together(trials, user, expected, monkeypatch, tmp_path):
    """Those of listed ones do without our doing; what the user has set stays."""
    if user is not None:
        monkeypatch.setenv(PENDING, user)
    monkeypatch.setattr(sweep, "_fit", lambda *_: [])
    sweep.run_sweep(tmp_path, None, plan(trials=trials))
    assert os.environ.get(PENDING) == expected


def test_a_trial_whose_worker_died_on_the_way_to_it_is_started_again(monkeypatch, tmp_path, capsys):
    """But not for ever, and not one that failed by itself."""
    lost, own = RayActorError(), ValueError("own")
    config = {TRIAL: CONFIG}

    def ended(error):
        return SimpleNamespace(error=error, metrics=REPORTED, config=config, path=tmp_path)

    def outcomes(*runs):
        waiting = iter(runs)
        monkeypatch.setattr(sweep, "_fit", lambda *_: [ended(error) for error in next(waiting)])
        found = sweep.run_sweep(tmp_path, None, plan(trials=2))
        return [trial.outcome for trial in found], len(list(waiting))

    assert outcomes([None, lost], [own, lost], [own, None], []) == (["failed", "stopped"], 1)
    assert capsys.readouterr().err.count("a worker died: its trial is started again") == 2
    assert outcomes([own, None], []) == (["failed", "stopped"], 1)
    assert outcomes(*[[None, lost]] * 5) == (["stopped", "failed"], 1)


def test_ray_keeps_trying_when_workers_die_and_stops_at_no_failure(tmp_path):
    run_config = sweep._run_config(tmp_path / "search", plan())
    assert run_config.failure_config.max_failures == 3
    assert not run_config.failure_config.fail_fast
    assert run_config.storage_path == str(tmp_path.resolve())


def test_every_end_of_a_trial_is_told(capsys):
    progress = sweep._Progress(2)
    ended = SimpleNamespace(
        config={TRIAL: CONFIG}, last_result={**REPORTED, FINISHED: True}, is_finished=lambda: True
    )
    failed = SimpleNamespace(
        config={TRIAL: CONFIG}, get_pickled_error=lambda: ValueError("a\nb: c"), last_result=None,
        is_finished=lambda: False,
    )  # fmt: skip
    progress.on_trial_complete(trials=[ended, failed], trial=ended)
    progress.on_trial_error(trials=[ended, failed], trial=failed)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "[1/2] configuration 4, seed 1 (lr 0.001, num_layers 2): validation recall@20 0.2000, "
        "finished after 8 epochs",
        "[2/2] configuration 4, seed 1 (lr 0.001, num_layers 2): failed: b: c",
    ]


def test_a_sweep_that_ray_has_not_saved_yet_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(tune.Tuner, "can_restore", lambda folder: True)
    assert not sweep._restorable(tmp_path)
    (tmp_path / "experiment_state-2026.json").touch()
    assert sweep._restorable(tmp_path)


@pytest.mark.parametrize("restorable", [False, True])
def test_trials_come_in_the_order_of_their_numbers(restorable, tmp_path, monkeypatch, capsys):
    """Ray lists them as they were made, and those that it continued once more."""

    def results():
        for number, seed in ((2, 0), (0, 1), (0, 0)):
            config = {TRIAL: {**CONFIG, "number": number, "seed": seed}}
            yield SimpleNamespace(config=config, metrics=REPORTED, error=None, path=str(tmp_path))
        yield SimpleNamespace(config=None, metrics={}, error=None, path=str(tmp_path / "none"))

    tuner = SimpleNamespace(fit=lambda: list(results()))
    monkeypatch.setattr(sweep, "_restorable", lambda folder: restorable)
    monkeypatch.setattr(tune, "with_parameters", lambda function, job: function)
    monkeypatch.setattr(tune, "with_resources", lambda function, share: function)

    def made(*arguments, **options):
        return tuner

    monkeypatch.setattr(tune, "Tuner", SimpleNamespace(restore=made) if restorable else made)
    found = sweep.run_sweep(tmp_path, None, plan(trials=4))
    assert [(trial.number, trial.seed) for trial in found] == [(0, 0), (0, 1), (2, 0)]
    assert "1 of 4 trials did not begin" in capsys.readouterr().err
