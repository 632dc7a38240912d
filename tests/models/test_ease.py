import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import EASE, fit
from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import ease


@pytest.fixture
def data():
    liked = torch.rand(40, 25, generator=torch.Generator().manual_seed(0)) < 0.2
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = liked.shape
    data[INTERACTS].edge_index = data[INTERACTS].edge_label_index = liked.nonzero().t()
    return data


@pytest.mark.parametrize("weight", [0.5, 100.0])
def test_weights_are_those_of_the_paper(data, weight):
    """Each column is a ridge regression on the other items."""
    x = np.zeros((40, 25))
    x[tuple(data[INTERACTS].edge_index.numpy())] = 1
    expected = np.zeros((25, 25))
    for j in range(25):
        others = np.delete(np.arange(25), j)
        gram = x[:, others].T @ x[:, others] + weight * np.eye(24)
        expected[others, j] = np.linalg.solve(gram, x[:, others].T @ x[:, j])
    model = EASE(data, reg_weight=weight)
    model.solve(data)
    np.testing.assert_allclose(model.item_weights, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        model.scorer(data)(torch.arange(40)), x @ expected, rtol=1e-5, atol=1e-6
    )


def test_refuses_more_items_than_memory_holds(data, monkeypatch, tiny_folder):
    prepared = prepare(str(tiny_folder))
    assert prepared.why_not(EASE) is None
    model = EASE(data)
    free = 4 * 25**2 + 10
    monkeypatch.setattr(ease, "available_memory", lambda: free)
    told = r"EASE needs about 0\.0 GB for 25 x 25 items \(got 0\.0 GB of free memory\): leave out"
    with pytest.raises(ValueError, match=told):
        fit(model, data, data)
    EASE(data)  # to be loaded, it only has to hold the weights
    free = 4 * 25**2 - 10
    with pytest.raises(ValueError, match=told):
        EASE(data)
    free = 100
    assert prepared.why_not(EASE).startswith("needs about 0.0 GB for ")


def test_the_weight_is_positive(data):
    with pytest.raises(ValueError, match="'reg_weight' needs to be"):
        EASE(data, reg_weight=0.0)
