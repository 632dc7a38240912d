import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import ALS
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import als


@pytest.fixture
def data():
    """30 users, 20 items; user 4 and item 7 have no links."""
    liked = torch.rand(30, 20, generator=torch.Generator().manual_seed(0)) < 0.25
    liked[4] = False
    liked[:, 7] = False
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = liked.shape
    data[INTERACTS].edge_index = liked.nonzero().t()
    return data


def best_vectors(preference, y, alpha, weight):
    """Row by row, with the confidence of every pair written out."""
    rows = []
    for p in preference:
        confidence = np.diag(1 + alpha * p)
        matrix = y.T @ confidence @ y + weight * np.eye(y.shape[1])
        rows.append(np.linalg.solve(matrix, y.T @ confidence @ p))
    return np.array(rows)


@pytest.mark.parametrize("block", [1, 200, 10**6])
def test_vectors_are_those_of_slow_least_squares(data, block, monkeypatch):
    monkeypatch.setattr(als, "_BLOCK_NUMBERS", block)
    torch.manual_seed(0)
    model = ALS(data, embedding_dim=3, alpha=4.0, reg_weight=0.7, num_iterations=3)
    p = np.zeros((30, 20))
    p[tuple(data[INTERACTS].edge_index.numpy())] = 1
    users = model.id_tables[0].detach().double().numpy()
    for _ in range(3):
        items = best_vectors(p.T, users, 4.0, 0.7)
        users = best_vectors(p, items, 4.0, 0.7)
    model.solve(data)
    found = [vectors.detach().numpy() for vectors in model(data)]
    np.testing.assert_allclose(found[0], users, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found[1], items, rtol=1e-3, atol=1e-5)
    assert not found[0][4].any()
    assert not found[1][7].any()


def test_every_iteration_lowers_the_loss(data):
    p = torch.zeros(30, 20)
    p[tuple(data[INTERACTS].edge_index)] = 1
    torch.manual_seed(0)
    model = ALS(data, embedding_dim=3, num_iterations=1)
    losses = []
    for _ in range(4):
        model.solve(data)  # goes on from where it is
        x, y = (vectors.detach() for vectors in model(data))
        squares = (1 + model.alpha * p) * (p - x @ y.t()).square()
        losses.append(squares.sum() + model.reg_weight * (x.square().sum() + y.square().sum()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", 0.0), ("reg_weight", 0.0), ("num_iterations", 0)]
)
def test_arguments_are_positive(data, name, value):
    with pytest.raises(ValueError, match=f"'{name}' needs to be"):
        ALS(data, **{name: value})
