from __future__ import annotations

import pytest

from alignrec_pyg.graph import INTERACTS, links_to_predict
from benchmarks.performance import memory_slope


def test_all_links_are_known_and_few_are_trained(monkeypatch):
    monkeypatch.setattr(memory_slope, "_BATCH_SIZE", 16)
    monkeypatch.setattr(memory_slope, "_NUM_EVALUATED", 20)
    train, val = memory_slope.make_large_graphs(50, 30, links=4, width=5)
    for graph in (train, val):
        assert graph[INTERACTS].edge_index.shape == (2, 200)
        assert graph["item"].x_mm.shape == (30, 5)
        assert graph["item", "knn_mm", "item"].edge_index[1].bincount().tolist() == [10] * 30
    assert links_to_predict(train).shape == (2, 48)
    assert links_to_predict(val)[0].unique().tolist() == list(range(20))


def test_tensors_that_graphs_share_count_once(checkerboard):
    train, test = checkerboard
    del test["item"].x_mm
    more = train.clone()
    shared = memory_slope.bytes_of(train, test)
    assert memory_slope.bytes_of(train) < shared < 2 * memory_slope.bytes_of(train)
    assert memory_slope.bytes_of(more) == memory_slope.bytes_of(train)
    assert memory_slope.bytes_of(train, more) == 2 * memory_slope.bytes_of(train)


def test_the_table_holds_the_slopes(monkeypatch, capsys):
    """A user more takes 3,000 bytes, an item more 20,000: GB per million, both."""
    asked = []

    def peak(threads, function, name, num_users, num_items, links, width):
        assert (threads, function) == (1, memory_slope.peak_bytes)
        asked.append((name, num_users, num_items, links, width))
        return 7_000_000 + 3_000 * num_users + 20_000 * num_items

    monkeypatch.setattr(memory_slope, "in_new_process", peak)
    options = ["--models", "BPR", "--users", "100", "--items", "50", "--threads", "1"]
    assert memory_slope.main(options) == 0
    assert asked == [
        ("BPR", 100, 50, 8, 768),
        ("BPR", 200, 50, 8, 768),
        ("BPR", 100, 100, 8, 768),
    ]
    assert "| BPR | 8 | 3.0 | 20.0 |" in capsys.readouterr().out


def test_more_is_measured_with_more_items():
    few, many = (memory_slope.peak_bytes("BPR", 500, items, 8, 64) for items in (100, 20_000))
    if not few:
        pytest.skip("memory is not measured on this system")
    assert many > few + 20_000 * 64 * 4
