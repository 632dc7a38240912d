import copy

import pytest
import torch

from alignrec_pyg.experiments import runner
from alignrec_pyg.experiments.cells import CellStore
from alignrec_pyg.experiments.runner import Parts, cell_key, data_version
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.training.loop import TrainingDivergedError, fit
from alignrec_pyg.tuning.spaces import TRIAL

pytest.importorskip("ray.tune", reason="needs Ray ('tune' extra)")

from alignrec_pyg.tuning import trial
from alignrec_pyg.tuning.trial import EPOCHS, FINISHED, METRIC, run_trial

pytestmark = pytest.mark.tune_extra


@pytest.fixture
def reported(monkeypatch):
    """What trials report."""
    found = []
    monkeypatch.setattr(trial.tune, "report", found.append)
    return found


def config(seed=0, **point):
    return {TRIAL: {"number": 7, "seed": seed, "point": point}}


def test_every_epoch_is_reported_with_the_running_best(job, reported):
    run_trial(config(cca_weight=0.1), job)
    assert [told[EPOCHS] for told in reported] == [1, 2, 3, 4, 4]
    assert [told.get(FINISHED) for told in reported] == [None] * 4 + [True]
    best = [told[METRIC] for told in reported]
    seen = [told["recall@20"] for told in reported[:-1]]
    assert best[:-1] == [max(seen[: n + 1]) for n in range(4)]
    assert best[-1] == best[-2]
    assert reported[-1]["best_epoch"] == seen.index(max(seen))
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
    monkeypatch.setattr(runner, "code_version", lambda: "code")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    cell, _ = job.cell({}, 0)
    inputs = {k: entry._replace(data=data_version(cell, parts)) for k, entry in job.inputs.items()}
    object.__setattr__(job, "inputs", inputs)
    cell, key = job.cell({}, 0)
    assert key == cell_key(cell, parts, torch.device("cpu"))


def test_a_killed_trial_goes_on_to_the_same_end(job, reported, monkeypatch):
    run_trial(config(cca_weight=0.1), job)
    expected = [(t[EPOCHS], t[METRIC]) for t in reported]
    again = copy.copy(job)
    object.__setattr__(again, "cells", job.cells.parent / "again")

    def killed(told):
        if told[EPOCHS] == 3:
            raise SystemExit
        reported.append(told)

    reported.clear()
    monkeypatch.setattr(trial.tune, "report", killed)
    with pytest.raises(SystemExit):
        run_trial(config(cca_weight=0.1), again)
    monkeypatch.setattr(trial.tune, "report", reported.append)
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


def test_a_cell_is_kept_to_one_process(job):
    cell, key = job.cell({}, 0)
    store = CellStore(job.cells)
    path = store.checkpoint_dir(cell, key).with_suffix(".lock")
    with trial.cell_lock(store, cell, key):
        other = trial.FileLock(path, is_singleton=False)
        with pytest.raises(TimeoutError):
            other.acquire(timeout=0)
    with trial.FileLock(path, is_singleton=False).acquire(timeout=0):
        pass


def test_trials_hold_no_test_links(job):
    assert not [name for name in vars(job) if "test" in name]
    assert job.train[INTERACTS].edge_index.shape[1] > 0
