from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from alignrec_pyg import AlignRec, TrainConfig, evaluate, fit, fit_with_ray
from alignrec_pyg.graph import on_device
from alignrec_pyg.storage import read_manifest


def test_missing_ray_is_named(monkeypatch, checkerboard, tmp_path):
    train, test = checkerboard
    monkeypatch.setitem(sys.modules, "ray.train", None)
    with pytest.raises(ImportError, match=r"torchrun.*pip install 'ray\[tune\]'"):
        fit_with_ray(AlignRec(train), train, test, num_workers=2, checkpoint_dir=tmp_path)


def test_a_graph_elsewhere_is_told_before_workers_start(checkerboard, tmp_path):
    train, test = checkerboard
    with pytest.raises(ValueError, match="'val' and the model need to be on one device"):
        fit_with_ray(
            AlignRec(train), train, on_device(test, "meta"), num_workers=2, checkpoint_dir=tmp_path
        )


def _note(path: Path, epoch: int, entry: dict[str, float]) -> None:
    with path.open("a") as file:
        file.write(f"{epoch}\n")


def test_the_model_ends_with_what_the_workers_saved(
    checkerboard, tmp_path, monkeypatch, two_processes
):
    """The workers are forked processes in place of Ray's."""
    train, test = checkerboard
    timeouts = []

    def run(worker, job, folder, **options):
        timeouts.append(worker.keywords["worker_timeout"])
        assert worker.keywords["optimizer"] is torch.optim.SGD
        assert options == {"num_workers": 2, "use_gpu": False}
        two_processes.run(lambda rank: worker(job, torch.device("cpu")))

    monkeypatch.setattr("alignrec_pyg.training.ray.run_with_ray", run)
    config = TrainConfig(lr=0.01, batch_size=250, max_epochs=2, eval_every=1, seed=3)
    model = AlignRec(train, embedding_dim=8)
    options = {"num_workers": 2, "checkpoint_dir": tmp_path / "run", "worker_timeout": 50}
    reports = tmp_path / "reports"
    report = partial(_note, reports)
    found = fit_with_ray(
        model, train, test, config, optimizer=torch.optim.SGD, report=report, **options
    )
    assert sorted(reports.read_text().split()) == ["1", "1", "2", "2"]  # of both workers
    assert timeouts == [50]
    assert found.num_epochs == len(found.history) == 2
    assert found.seconds > 0
    assert not model.training
    metrics = evaluate(model, test)
    assert {name: metrics[name] for name in found.best_metrics} == pytest.approx(found.best_metrics)


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # Ray warns about itself
def test_two_workers_of_ray_do_what_two_processes_do(
    checkerboard, tmp_path, monkeypatch, two_processes
):
    import ray

    train, test = checkerboard
    config = TrainConfig(lr=0.01, batch_size=250, max_epochs=2, eval_every=1, seed=3)

    def make_model():
        torch.manual_seed(0)
        return AlignRec(train, embedding_dim=8)

    def vectors(model):
        with torch.no_grad():
            return model(train)

    def work(rank):
        model = make_model()
        return fit(model, train, test, config), vectors(model)

    expected, expected_vectors = two_processes.run(work)[0]
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")  # on a busy machine
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "200")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 else: what runs beside would starve them
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process less
    monkeypatch.chdir(tmp_path)
    ray.init("local", num_cpus=2, include_dashboard=False)
    model = make_model()
    try:
        found = fit_with_ray(model, train, test, config, num_workers=2, checkpoint_dir="run")
    finally:
        ray.shutdown()
    assert read_manifest(tmp_path / "run" / "state.json")["state"]["finished"]
    assert not model.training
    assert found.best_metrics == pytest.approx(expected.best_metrics, rel=1e-3)
    for one, two in zip(expected.history, found.history, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
    for one, two in zip(expected_vectors, vectors(model), strict=True):
        torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-3)
