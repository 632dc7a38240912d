from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.transforms.item_graph import (
    checked_name,
    checked_weights,
    data_device,
    normalized_weight,
    weighted_sum,
)


def test_weights_are_checked():
    assert checked_weights("it", {"a": 0, "b": 0.5}) == {"a": 0, "b": 0.5}
    for weights in (
        {},
        {"a": 0.0},
        {"a": 1.0, "b": -0.1},
        {"a": float("inf")},
        {"a": float("nan")},
    ):
        with pytest.raises(ValueError, match="'it' needs at least one feature set"):
            checked_weights("it", weights)


def test_name_is_that_of_the_features_by_default():
    assert checked_name(None, ["b", "a"]) == "b_a"
    assert checked_name("g", ["b", "a"]) == "g"
    with pytest.raises(ValueError, match="'name' needs at least one character"):
        checked_name("", ["a"])


def test_normalisation_equals_the_dense_formula():
    similarity = np.random.default_rng(0).uniform(0.1, 1, size=(6, 6))
    degree = similarity.sum(axis=1)
    expected = similarity / np.sqrt(np.outer(degree, degree))
    target, source = torch.ones(6, 6).nonzero().T
    weight = normalized_weight(source, target, torch.from_numpy(similarity).reshape(-1), 6)
    assert weight.dtype == torch.float64
    np.testing.assert_allclose(weight.view(6, 6).numpy(), expected)


def test_normalisation_without_a_positive_sum():
    # item 0: 1 - 3, so its degree is 1; item 1: 4; item 2 has no positive similarity
    target = torch.tensor([0, 0, 1, 2, 2])
    source = torch.tensor([0, 1, 1, 2, 1])
    similarity = torch.tensor([1.0, -3.0, 4.0, 0.0, -1.0], dtype=torch.float64)
    weight = normalized_weight(source, target, similarity, 3)
    assert weight.tolist() == [1.0, -1.5, 1.0, 0.0, 0.0]


def test_sums_that_are_rounding_noise_are_no_degree():
    # item 0: 1 - 1 up to noise, so its degree is 1; item 1 has nothing but noise
    target, source = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    similarity = torch.tensor([1.0 + 1e-8, -1.0, 1e-8], dtype=torch.float64)
    weight = normalized_weight(source, target, similarity, 2)
    assert weight.tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_sum_adds_parallel_edges_and_sorts_by_target_then_source():
    first = torch.tensor([[2, 0, 1], [0, 1, 0]]), torch.tensor([1.0, 2.0, 3.0])
    second = torch.tensor([[0, 2], [0, 0]]), torch.tensor([4.0, 5.0])
    edge_index, weight = weighted_sum([(0.5, *first), (2.0, *second)], 3)
    assert edge_index.tolist() == [[0, 1, 2, 0], [0, 0, 0, 1]]
    assert weight.tolist() == [8.0, 1.5, 10.5, 1.0]
    assert weight.dtype == torch.float32


def test_device_is_that_of_the_first_tensor():
    data = HeteroData()
    data["item"].num_nodes = 2
    assert data_device(data) == torch.device("cpu")
    data["user", "interacts", "item"].edge_index = torch.empty(2, 1, device="meta")
    assert data_device(data) == torch.device("meta")
