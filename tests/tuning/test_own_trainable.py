"""The example of a sweep by one's own training function."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alignrec_pyg import AlignRec, TrainConfig, fit
from tuning import own_trainable


def test_a_trial_reports_the_epochs_of_the_weights_it_is_given(job, monkeypatch):
    reported = []
    stand_in = SimpleNamespace(report=lambda metrics: reported.append(dict(metrics)))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(tune=stand_in))
    inputs = {"features": ["mm"], "item_graph": "mm"}
    weights = {"cca_weight": 0.5, "reg_weight": 0.02}
    torch.manual_seed(0)
    own_trainable.trial(weights, job.train, job.val, inputs, epochs=2)
    torch.manual_seed(0)
    model = AlignRec(job.train, **inputs, **weights)
    fitted = fit(model, job.train, job.val, TrainConfig(max_epochs=2, eval_every=1))
    assert [metrics["loss"] for metrics in reported] == [e["loss"] for e in fitted.history]
    assert reported[-1]["best_recall@20"] == fitted.best_metrics["recall@20"]


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_finds_weights(tiny_folder, tmp_path):
    script = Path(own_trainable.__file__)
    words = [tiny_folder, "--num-samples", 2, "--epochs", 2, "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, script, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(script.parents[1]), "RAY_USAGE_STATS_ENABLED": "0"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("best validation")]
    assert [part.split()[0] for part in line.partition(": ")[2].split(", ")] == [
        "cca_weight", "uia_weight", "reg_weight",
    ]  # fmt: skip
    assert len(list(tmp_path.glob("own_trainable/trial_*/result.json"))) == 2
