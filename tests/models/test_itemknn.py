import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import ItemKNN
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import closed_form


@pytest.fixture
def data():
    """40 users, 25 items; item 9 has no links."""
    liked = torch.rand(40, 25, generator=torch.Generator().manual_seed(0)) < 0.2
    liked[:, 9] = False
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = liked.shape
    data[INTERACTS].edge_index = liked.nonzero().t()
    return data


def slow_similarities(data, k, shrinkage):
    x = np.zeros((40, 25))
    x[tuple(data[INTERACTS].edge_index.numpy())] = 1
    dense = np.zeros((25, 25))
    for i in range(25):
        for j in range(25):
            if i != j:
                length = np.sqrt(x[:, i].sum() * x[:, j].sum())
                dense[i, j] = x[:, i] @ x[:, j] / (length + shrinkage) if length else 0
    for i in range(25):
        order = sorted(range(25), key=lambda j, i=i: (-dense[i, j], j))
        dense[i, order[k:]] = 0
    return x, dense


@pytest.mark.parametrize("paths", [50, 10**6])
@pytest.mark.parametrize(("k", "shrinkage"), [(3, 0.0), (6, 10.0), (99, 2.5)])
def test_scores_are_those_of_the_dense_product(data, k, shrinkage, paths, monkeypatch):
    monkeypatch.setattr(closed_form, "_BLOCK_PATHS", paths)
    model = ItemKNN(data, num_neighbors=k, shrinkage=shrinkage)
    model.solve(data)
    assert model.neighbor.shape == (25, min(k, 24))
    x, similarity = slow_similarities(data, k, shrinkage)
    np.testing.assert_allclose(
        model.scorer(data)(torch.arange(40)), x @ similarity.T, rtol=1e-5, atol=1e-6
    )


def test_a_neighbour_worked_out_by_hand(toy):
    # 20 and 10 have ann in common, 20 and 30 bob; 2 users have 20
    model = ItemKNN(toy, num_neighbors=1, shrinkage=0.5)
    model.solve(toy)
    assert model.neighbor[:3, 0].tolist() == [1, 0, 1]
    torch.testing.assert_close(model.similarity[:, 0], torch.tensor([1, 1, 1, 0]) / (2**0.5 + 0.5))


def test_shrinkage_is_not_negative(toy):
    with pytest.raises(ValueError, match="'shrinkage' needs to be"):
        ItemKNN(toy, shrinkage=-1.0)
