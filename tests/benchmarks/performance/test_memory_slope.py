from __future__ import annotations

import json

import pytest
import torch

from alignrec_pyg.graph import INTERACTS, links_to_predict
from benchmarks.performance import memory_slope
from benchmarks.performance.memory_slope import Slopes


def test_slopes_by_hand():
    slopes = Slopes(base=1000, more_users=1600, more_items=3000, users=200, items=100)
    assert (slopes.per_user, slopes.per_item) == (3.0, 20.0)


def test_all_links_are_known_and_few_are_trained(monkeypatch):
    monkeypatch.setattr(memory_slope, "_BATCH_SIZE", 16)
    monkeypatch.setattr(memory_slope, "_NUM_EVALUATED", 20)
    train, val = memory_slope._graphs(50, 30, links=4, width=5)
    assert train[INTERACTS].edge_index.shape == (2, 200)
    assert links_to_predict(train).shape == (2, 48)
    assert links_to_predict(val)[0].unique().tolist() == list(range(20))
    assert train["item"].x_mm.shape == (30, 5)
    assert train["item", "knn_mm", "item"].edge_index[1].bincount().tolist() == [10] * 30


def test_tensors_that_graphs_share_count_once(checkerboard):
    train, test = checkerboard
    del test["item"].x_mm
    more = train.clone()
    shared = memory_slope._bytes_of(train, test)
    assert memory_slope._bytes_of(train) < shared < 2 * memory_slope._bytes_of(train)
    assert memory_slope._bytes_of(more) == memory_slope._bytes_of(train)
    assert memory_slope._bytes_of(train, more) == 2 * memory_slope._bytes_of(train)


def test_the_table_holds_what_was_measured(monkeypatch, tmp_path, capsys):
    """A user more takes 3,000 bytes, an item more 20,000: GB per million, both."""
    asked = []

    def peak(name, num_users, num_items, options):
        asked.append((name, num_users, num_items))
        return 7_000_000 + 3_000 * num_users + 20_000 * num_items

    monkeypatch.setattr(memory_slope, "_in_a_process", peak)
    options = ["--models", "BPR", "--users", "100", "--items", "50", "--out", str(tmp_path)]
    threads = str(torch.get_num_threads())
    assert memory_slope.main([*options, "--threads", threads]) == 0
    assert asked == [("BPR", 100, 50), ("BPR", 200, 50), ("BPR", 100, 100)]
    assert "| BPR | 8 | 3.0 | 20.0 |" in capsys.readouterr().out
    assert "| BPR | 8 | 3.0 | 20.0 |" in (tmp_path / "memory_slope.md").read_text()
    written = json.loads((tmp_path / "memory_slope.json").read_text())
    assert written["models"]["BPR"]["per_item"] == pytest.approx(20_000)
    assert written["about"]["users"] == 100


def test_unknown_models_are_named(tmp_path, capsys):
    assert memory_slope.main(["--models", "BRP", "--out", str(tmp_path), "--threads", "1"]) == 2
    assert "BRP" in capsys.readouterr().err


def test_more_is_measured_with_more_items():
    options = memory_slope._parser().parse_args(["--width", "64"])
    few, many = (memory_slope._peak("BPR", 500, items, options) for items in (100, 20_000))
    assert many > few + 20_000 * 64 * 4
