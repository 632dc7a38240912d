from __future__ import annotations

import sys

import pytest
import torch

from alignrec_pyg import AlignRec, TrainConfig, fit, fit_with_ray
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


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # Ray warns about itself
def test_two_workers_on_one_machine_do_what_one_does(checkerboard, tmp_path, monkeypatch):
    import ray

    train, test = checkerboard
    config = TrainConfig(lr=0.01, batch_size=250, max_epochs=2, seed=3)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(AlignRec(train, embedding_dim=8))
    expected = fit(models[0], train, test, config)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")  # on a busy machine
    monkeypatch.chdir(tmp_path)
    ray.init("local", num_cpus=3, include_dashboard=False)
    try:
        found = fit_with_ray(models[1], train, test, config, num_workers=2, checkpoint_dir="run")
    finally:
        ray.shutdown()
    assert read_manifest(tmp_path / "run" / "state.json")["state"]["finished"]
    assert not models[1].training
    for one, two in zip(expected.history, found.history, strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
    with torch.no_grad():
        for one, two in zip(models[0](train), models[1](train), strict=True):
            torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-3)
