from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from alignrec_pyg.transforms import graph_cache
from alignrec_pyg.transforms.graph_cache import load_graph, save_graph

EDGES = torch.tensor([[0, 1, 2], [2, 1, 0]])
WEIGHTS = torch.tensor([0.5, 0.25, 1.0])


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "graph.safetensors"
    assert load_graph(path) is None
    save_graph(path, EDGES, WEIGHTS)
    edge_index, edge_weight = load_graph(path)
    assert torch.equal(edge_index, EDGES)
    assert torch.equal(edge_weight, WEIGHTS)
    assert list(path.parent.iterdir()) == [path]


def test_damage_is_noticed(tmp_path):
    path = tmp_path / "graph.safetensors"
    save_graph(path, EDGES, WEIGHTS)
    good = path.read_bytes()
    flips = [good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :] for at in range(0, len(good), 7)]
    for bad in [b"", good[:1], good[: len(good) // 2], good[:-1], *flips]:
        path.write_bytes(bad)
        with pytest.warns(UserWarning, match=r"rebuilding the item graph: .*graph\.safetensors"):
            assert load_graph(path) is None


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "graph.safetensors"
    save_graph(path, EDGES, WEIGHTS)
    good = path.read_bytes()

    def full_disk(tensors, filename, metadata):
        raise OSError("no space left on device")

    monkeypatch.setattr(graph_cache, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_graph(path, EDGES, WEIGHTS + 1)
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    path = tmp_path / "graph.safetensors"
    synced = []

    def fsync(handle):
        assert not path.exists()
        synced.append(os.fstat(handle).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    save_graph(path, EDGES, WEIGHTS)
    assert synced == [path.stat().st_size]


def test_readers_and_writers_at_once(tmp_path):
    """Any warning, and so any half-written file met, is an error."""
    path = tmp_path / "graph.safetensors"
    edges = torch.arange(40_000).view(2, -1)

    def use(number):
        if number % 2:
            save_graph(path, edges, edges[0].float())
            return True
        graph = load_graph(path)
        return graph is None or torch.equal(graph[0], edges)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(use, range(60)))
    assert list(tmp_path.iterdir()) == [path]
