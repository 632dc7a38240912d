import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.experiments.cells import Cell
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.store import CellResult, CellStore
from alignrec_pyg.models import BPR
from alignrec_pyg.storage import read_manifest, write_manifest
from alignrec_pyg.train_config import TrainConfig

CELL = Cell(
    row="BPR",
    model=BPR,
    hparams={"embedding_dim": 8, "reg_weight": 0.1},
    config=TrainConfig(seed=3),
)


def make_result(key):
    return CellResult(
        row="BPR",
        model="BPR",
        seed=3,
        key=key,
        settings=CELL.settings(),
        metrics={"recall@20": 0.1 + 0.2},
        val_metrics={"recall@20": 1 / 3},
        best_epoch=4,
        num_epochs=9,
        stopped_early=True,
        still_rising=False,
        seconds=1.5,
        cpu_seconds=2.5,
        peak_bytes=None,
        content_bytes=5,
        num_parameters=12,
        rankings={
            "test": Ranking(torch.tensor([0, 4]), torch.tensor([[3, 1], [0, 2]]).int()),
            "another test": Ranking(torch.tensor([4]), torch.tensor([[2, 5]]).int()),
        },
        history=[{"epoch": 1.0, "loss": 0.1 + 0.2, "recall@20": 1 / 3}],
        origin=Origin(commit="abc", hardware="8 threads", versions={"torch": "2.0"}),
    )


def test_store_gives_back_what_it_was_given(tmp_path):
    store = CellStore(tmp_path / "cells")
    key = CELL.key("data")
    assert store.load(CELL, key) is None
    result = make_result(key)
    unfinished = store.checkpoint_dir(CELL, key)
    unfinished.mkdir(parents=True)
    store.save(CELL, result)
    assert not unfinished.exists()
    loaded = store.load(replace(CELL, row="renamed"), key)
    assert loaded.stored
    assert loaded.row == "renamed"
    assert not result.stored
    assert loaded.summary() | {"row": "BPR", "stored": False} == result.summary()
    assert loaded.summary()["stored"]  # in what is told, too
    assert loaded.history == result.history
    assert "history" not in loaded.summary()
    assert loaded.origin == result.origin  # not that of the machine that reads it
    assert loaded.rankings.keys() == result.rankings.keys()
    for name, ranking in result.rankings.items():
        for ours, theirs in zip(loaded.rankings[name], ranking, strict=True):
            assert torch.equal(ours, theirs)
    assert not list(tmp_path.glob("**/*.part"))


def test_a_cell_under_another_ones_name_is_not_taken(tmp_path):
    store = CellStore(tmp_path)
    key = CELL.key("data")
    store.save(CELL, make_result(key))
    other = key[:16] + "0" * 16  # the same file name
    with pytest.warns(UserWarning, match="holds another cell"):
        assert store.load(CELL, other) is None


def test_a_cell_of_an_earlier_version_runs_again(tmp_path):
    store = CellStore(tmp_path)
    key = CELL.key("data")
    store.save(CELL, make_result(key))
    (path,) = tmp_path.glob("*.json")
    manifest = read_manifest(path)
    write_manifest(path, {name: value for name, value in manifest.items() if name != "history"})
    with pytest.warns(UserWarning, match="seed 3 runs again: .*history"):
        assert store.load(CELL, key) is None


def test_a_cell_is_kept_to_one_process(tmp_path):
    store = CellStore(tmp_path)
    with store.lock(CELL, "key") as ours:
        assert ours
        with store.lock(CELL, "another key", wait=False) as other:
            assert other
        with CellStore(tmp_path).lock(CELL, "key", wait=False) as second:
            assert not second
    with CellStore(tmp_path).lock(CELL, "key", wait=False) as second:
        assert second


def test_a_lock_ends_with_its_process(tmp_path):
    script = (
        "import os, sys; from filelock import FileLock; "
        "FileLock(sys.argv[1]).acquire(); os._exit(9)"
    )
    store = CellStore(tmp_path)
    with store.lock(CELL, "key"):
        pass
    (file,) = tmp_path.glob("*.lock")
    subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    with store.lock(CELL, "key", wait=False) as ours:
        assert ours
