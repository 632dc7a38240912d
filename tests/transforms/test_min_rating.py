from __future__ import annotations

import math

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.transforms import KCore, MinRating


def graph():
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 3, 3
    data[INTERACTS].edge_index = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    data[INTERACTS].rating = torch.tensor([5.0, 3.5, 4.0, 1.0])
    data[INTERACTS].time = torch.tensor([10, 20, 30, 40])
    return data


def test_keeps_what_is_rated_so_or_higher():
    data = graph()
    likes = MinRating(4)(data)
    assert likes[INTERACTS].edge_index.tolist() == [[0, 1], [0, 1]]
    assert likes[INTERACTS].rating.tolist() == [5.0, 4.0]
    assert likes[INTERACTS].time.tolist() == [10, 30]
    assert (likes["user"].num_nodes, likes["item"].num_nodes) == (3, 3)
    assert KCore(1)(likes)["user"].num_nodes == 2
    assert data[INTERACTS].edge_index.size(1) == 4  # the input stays


def test_rejects():
    with pytest.raises(ValueError, match="leaves no interactions .got 6, the highest of 4 ratings"):
        MinRating(6)(graph())
    with pytest.raises(ValueError, match="'min_rating' needs to be a finite number"):
        MinRating(math.nan)
    data = graph()
    del data[INTERACTS].rating
    with pytest.raises(ValueError, match="'rating' needs to be known"):
        MinRating(4)(data)
    data = graph()
    data[INTERACTS].edge_label_index = data[INTERACTS].edge_index
    with pytest.raises(ValueError, match="needs to be unsplit"):
        MinRating(4)(data)


def test_repr():
    assert repr(MinRating(3.5)) == "MinRating(3.5)"
