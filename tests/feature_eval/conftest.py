"""A small random graph with times, ratings and feature tables, some rows of which tie."""

from __future__ import annotations

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS

USERS, ITEMS = 30, 25


def build(users, items, links, time=None, rating=None):
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = users, items
    data[INTERACTS].edge_index = torch.as_tensor(links, dtype=torch.int64).reshape(-1, 2).t()
    if time is not None:
        data[INTERACTS].time = torch.as_tensor(time)
    if rating is not None:
        data[INTERACTS].rating = torch.as_tensor(rating, dtype=torch.float32)
    return data


@pytest.fixture(scope="session")
def graph():
    """Builds a graph of (user, item) pairs."""
    return build


@pytest.fixture
def case():
    """Uneven users and items, equal times, half-star ratings, duplicate and missing features."""
    generator = torch.Generator().manual_seed(5)
    chance = torch.linspace(0.05, 0.5, ITEMS)
    links = (torch.rand(USERS, ITEMS, generator=generator) < chance).nonzero()
    links = links[torch.randperm(len(links), generator=generator)]
    links = links[links[:, 0] != 7]
    links = torch.cat([links, torch.tensor([[7, 3]])])  # a user without history
    time = torch.randint(4, (len(links),), generator=generator)
    rating = torch.randint(1, 11, (len(links),), generator=generator) / 2
    data = build(USERS, ITEMS, links, time, rating)
    data["item"].x_image = torch.randn(ITEMS, 6, generator=generator) * 3
    data["item"].x_text = torch.randn(ITEMS, 4, generator=generator) + 0.5
    data["item"].x_text[[4, 9, 20]] = data["item"].x_text[0].clone()  # equal similarities
    data["item"].x_text[12] = 2 * data["item"].x_text[0]
    data["item"].mask_text = torch.zeros(ITEMS, dtype=torch.bool)
    data["item"].mask_text[[2, 17]] = True
    data["item"].x_text[2] = torch.nan  # whatever a masked row holds
    return data
