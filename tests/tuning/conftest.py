"""Trials, and sweeps as processes of their own."""

import copy
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.settings import published_settings
from alignrec_pyg.models import AlignRec
from alignrec_pyg.tuning.trial import Trial, TrialInputs, TrialJob

ROOT = Path(__file__).parents[2]
QUICK = ("--batch-size", "64", "--device", "cpu", "--threads", "1")


@pytest.fixture(scope="session")
def start_sweep():
    """Starts ``tuning/search.py`` in a session of its own, its output in a file."""

    def start(log, *arguments, script=ROOT / "tuning" / "search.py"):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "RAY_raylet_start_wait_time_s": "200",  # on a busy machine
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or each worker compiles all imports
        command = [sys.executable, str(script), *QUICK, *arguments]
        with log.open("w") as file:
            return subprocess.Popen(
                [str(word) for word in command],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    return start


@pytest.fixture(scope="session")
def run_sweep(start_sweep):
    """Runs ``tuning/search.py`` to its end; gives what it says, or fails with it."""

    def run(log, *arguments):
        status = start_sweep(log, *arguments).wait(timeout=900)
        assert status == 0, log.read_text()[-5000:]
        return log.read_text()

    return run


@pytest.fixture
def job(checkerboard, tmp_path):
    """What the trials of a small sweep share; its number of neighbours picks the item graph."""
    train, test = (copy.copy(part) for part in checkerboard)
    for part in (train, test):
        part["item", "knn_wide", "item"].edge_index = part["item", "knn_mm", "item"].edge_index
        part["item", "knn_wide", "item"].edge_weight = (
            1 + part["item", "knn_mm", "item"].edge_weight
        )
    settings = published_settings(AlignRec, "").with_changes(batch_size=128, max_epochs=4, lr=0.01)
    inputs = {
        k: TrialInputs({"features": ["mm"], "item_graph": graph}, f"data {k}")
        for k, graph in {5: "mm", 10: "wide"}.items()
    }
    return TrialJob(
        train=train, val=test, settings=settings, inputs=inputs, item_neighbors=10, code="code",
        device="cpu", threads=1, cells=tmp_path / "cells", checkpoint_seconds=0.0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_trial():
    """Makes the result of a trial."""

    def make(number, seed=0, recall=None, outcome="finished", reason="", point=None):
        val = {} if recall is None else {**dict.fromkeys(METRICS, 0.5), "recall@20": recall}
        return Trial(
            number=number, seed=seed, point=point or {"lr": number / 100}, outcome=outcome,
            reason=reason, val=val, best_epoch=3 if val else 0, epochs=7, seconds=1.25,
        )  # fmt: skip

    return make


class Processes:
    """Stands in for Ray: runs a task when it is waited for, the latest first."""

    def __init__(self):
        self.most = 0

    def remote(self, function):
        return SimpleNamespace(options=lambda **options: self.task(function, options))

    def task(self, function, options):
        self.options = options
        return SimpleNamespace(remote=lambda *call: partial(function, *call))

    def put(self, value):
        return value

    def wait(self, running):
        self.most = max(self.most, len(running))
        return running[-1:], running[:-1]

    def get(self, ended):
        return ended()


@pytest.fixture
def processes(monkeypatch):
    found = Processes()
    monkeypatch.setitem(sys.modules, "ray", found)
    return found
