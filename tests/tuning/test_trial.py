import copy
import sys
from statistics import stdev
from types import SimpleNamespace

import pytest
import torch

from alignrec_pyg.experiments.cells import Cell, Parts, cell_key, data_version
from alignrec_pyg.experiments.store import CellStore
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.training.loop import fit
from alignrec_pyg.training.run import TrainingDivergedError
from alignrec_pyg.tuning import trial
from alignrec_pyg.tuning.spaces import TRIAL
from alignrec_pyg.tuning.trial import (
    EPOCHS,
    FINISHED,
    METRIC,
    collect,
    ranked,
    run_trial,
)


@pytest.fixture
def reported(monkeypatch):
    """What trials report."""
    found = []
    stand_in = SimpleNamespace(report=found.append)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(tune=stand_in))
    return found


def config(seed=0, **point):
    return {TRIAL: {"number": 7, "seed": seed, "point": point}}


def test_every_epoch_is_reported_with_the_running_best(job, reported):
    run_trial(config(cca_weight=0.1), job)
    assert [metrics[EPOCHS] for metrics in reported] == [1, 2, 3, 4, 4]
    assert [metrics.get(FINISHED) for metrics in reported] == [None] * 4 + [True]
    best = [metrics[METRIC] for metrics in reported]
    seen = [metrics["recall@20"] for metrics in reported[:-1]]
    assert best[:-1] == [max(seen[: n + 1]) for n in range(4)]
    assert best[-1] == best[-2]
    assert reported[-1]["best_epoch"] == seen.index(max(seen)) + 1
    assert {"loss", "loss/cca"} <= set(reported[0])


def test_the_point_and_seed_are_what_is_trained(job, reported):
    run_trial(config(seed=3, cca_weight=0.5, lr=0.02, item_neighbors=5), job)
    cell, _ = job.cell({"cca_weight": 0.5, "lr": 0.02, "item_neighbors": 5}, 3)
    assert cell.hparams["cca_weight"] == 0.5
    assert cell.hparams["item_graph"] == "mm"
    assert (cell.config.lr, cell.config.seed, cell.config.max_epochs) == (0.02, 3, 4)
    result = fit(cell.build(job.train), job.train, job.val, cell.config)
    assert reported[-1][METRIC] == result.best_metrics["recall@20"]
    other, _ = job.cell({"cca_weight": 0.5, "lr": 0.02}, 3)
    assert other.hparams["item_graph"] == "wide"


def test_the_key_is_the_one_of_scripts(job, monkeypatch):
    parts = Parts(job.train, job.val, {"test": job.val})
    monkeypatch.setattr(Cell, "code", lambda self: "code")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    cell, _ = job.cell({}, 0)
    inputs = {
        k: entry._replace(data_hash=data_version(cell, parts)) for k, entry in job.inputs.items()
    }
    object.__setattr__(job, "inputs", inputs)
    cell, key = job.cell({}, 0)
    assert key == cell_key(cell, parts, torch.device("cpu"))


def test_a_killed_trial_goes_on_to_the_same_end(job, reported, monkeypatch):
    run_trial(config(cca_weight=0.1), job)
    expected = [(t[EPOCHS], t[METRIC]) for t in reported]
    again = copy.copy(job)
    object.__setattr__(again, "cells", job.cells.parent / "again")

    def killed(metrics):
        if metrics[EPOCHS] == 3:
            raise SystemExit
        reported.append(metrics)

    reported.clear()
    monkeypatch.setattr(sys.modules["ray"].tune, "report", killed)
    with pytest.raises(SystemExit):
        run_trial(config(cca_weight=0.1), again)
    monkeypatch.setattr(sys.modules["ray"].tune, "report", reported.append)
    run_trial(config(cca_weight=0.1), again)
    assert [(t[EPOCHS], t[METRIC]) for t in reported] == expected
    reported.clear()
    run_trial(config(cca_weight=0.1), again)  # finished: nothing is trained again
    assert [(t[EPOCHS], t[METRIC]) for t in reported] == expected[-1:]


def test_a_diverged_trial_fails_and_is_not_tried_again(job, reported, monkeypatch):
    with pytest.raises(TrainingDivergedError, match="not finite"):
        run_trial(config(lr=1e30), job)
    monkeypatch.setattr(trial, "train_cell", lambda *_: pytest.fail("trained again"))
    with pytest.raises(TrainingDivergedError, match="not finite in epoch"):
        run_trial(config(lr=1e30), job)


def test_a_trial_waits_for_another_process_at_the_same_cell(job, monkeypatch):
    locked = []

    def train_cell(cell, parts, folder, *_):
        with CellStore(job.cells).lock(cell, job.cell({}, 0)[1], wait=False) as free:
            locked.append(not free)
        return None, None

    monkeypatch.setattr(trial, "train_cell", train_cell)
    trial.train({"number": 0, "seed": 0, "point": {}}, job)
    assert locked == [True]


def test_trials_hold_no_test_links(job):
    assert not [name for name in vars(job) if "test" in name]
    assert job.train[INTERACTS].edge_index.shape[1] > 0


def test_trials_are_put_together_over_seeds(make_trial):
    found = collect(
        [make_trial(1, 0, 0.1), make_trial(0, 0, 0.2), make_trial(0, 2, 0.4), make_trial(0, 1, 0.3)]
    )
    assert [entry.number for entry in found] == [0, 1]
    assert [t.seed for t in found[0].trials] == [0, 1, 2]
    assert found[0].values == [0.2, 0.3, 0.4]
    assert found[0].mean == pytest.approx(0.3)
    assert found[0].std == pytest.approx(stdev([0.2, 0.3, 0.4]))
    assert (found[1].mean, found[1].std) == (0.1, None)


def test_a_trial_that_went_on_takes_the_place_of_the_stopped_one(make_trial):
    (found,) = collect([make_trial(0, 0, 0.2, outcome="stopped"), make_trial(0, 0, 0.3)])
    assert (found.values, found.finished) == ([0.3], True)


def test_more_seeds_come_first_then_the_mean_then_the_number(make_trial):
    trials = [
        *(make_trial(0, seed, value) for seed, value in enumerate((0.1, 0.2))),
        *(make_trial(1, seed, value) for seed, value in enumerate((0.3, 0.2))),
        make_trial(2, 0, 0.9),
        make_trial(3, 0, 0.9),
        make_trial(4, 0, 0.7, outcome="stopped"),
    ]
    assert [entry.number for entry in ranked(collect(trials))] == [1, 0, 2, 3, 4]


def test_what_failed_or_has_no_value_is_not_chosen(make_trial):
    trials = [
        make_trial(0, 0, 0.9),
        make_trial(0, 1, 0.9, outcome="failed", reason="not finite"),
        make_trial(1, outcome="stopped"),
        make_trial(2, outcome="failed"),
        make_trial(3, 0, 0.1),
    ]
    assert [entry.number for entry in ranked(collect(trials))] == [3]
