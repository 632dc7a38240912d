from __future__ import annotations

import copy

import torch

from alignrec_pyg.experiments.cells import Parts
from alignrec_pyg.graph import INTERACTS


def test_parts_are_copied_to_a_device_one_with_several_names_once(checkerboard):
    """Results are on the CPU, and so stay the graphs they are scored by."""
    train, test = checkerboard
    parts = Parts(train, test, {"test": test, "cold": test, "other": copy.copy(test)})
    moved = parts.to(torch.device("meta"))
    assert all(graph[INTERACTS].edge_index.is_meta for graph in (moved.train, moved.val))
    assert all(graph["item"].x_mm.is_meta for graph in moved.tests.values())
    assert list(moved.tests) == ["test", "cold", "other"]
    assert moved.tests["test"] is moved.tests["cold"]
    assert moved.tests["test"] is not moved.tests["other"]
    for graph in (train, test, *parts.tests.values()):
        assert not graph[INTERACTS].edge_index.is_meta
        assert not graph["item"].x_mm.is_meta
