from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from alignrec_pyg.pretraining import PretrainConfig
from alignrec_pyg.pretraining.distributed import _absolute, run_with_ray
from alignrec_pyg.pretraining.job import PretrainJob


def test_paths_hold_in_another_working_directory():
    job = PretrainJob(out=Path("o"), data=Path("d.csv"), spm=Path("s.spm"))
    found = _absolute(job)
    assert (found.out, found.data, found.spm) == tuple(
        Path.cwd() / name for name in ("o", "d.csv", "s.spm")
    )
    assert found.images is None


def test_missing_ray_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray.train", None)
    with pytest.raises(ImportError, match=r"alignrec-pyg\[tune\].*torchrun"):
        run_with_ray(PretrainJob(out=tmp_path), 2, use_gpu=False)


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # Ray warns about itself
def test_two_workers_on_one_machine(tmp_path, monkeypatch):
    import ray

    pytest.importorskip("torchscale", exc_type=ImportError)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")  # on a busy machine
    ray.init("local", num_cpus=3, include_dashboard=False)
    try:
        job = PretrainJob(
            out=tmp_path, size="tiny", vocab_size=600, num_codes=32,
            config=PretrainConfig(epochs=1, batch_size=64, micro_batch_size=32, lr=2e-3),
        )  # fmt: skip
        folder = run_with_ray(job, 2, use_gpu=False)
    finally:
        ray.shutdown()
    notes = json.loads((folder / "beit3.json").read_text())["notes"]
    assert notes["metrics"]["val_loss"] > 0
    assert json.loads((tmp_path / "run" / "state.json").read_text())["run"]["workers"] == 2
