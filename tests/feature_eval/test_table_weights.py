from __future__ import annotations

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import item_cf, table_weights


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 60, 40
    group = torch.arange(40) % 8
    # Each user likes items of one group; the tables tell groups well and less well.
    user = torch.arange(60).repeat_interleave(3)
    item = (user % 8) + 8 * torch.randint(5, (180,), generator=generator)
    data["user", "interacts", "item"].edge_index = torch.stack([user, item]).unique(dim=1)
    signal = torch.nn.functional.one_hot(group, 8).float()
    for name, noise in (("clear", 0.05), ("weak", 1.0)):
        data["item"][f"x_{name}"] = signal + noise * torch.randn(40, 8, generator=generator)
    return data


def test_weighs_by_the_gain_over_a_random_ranking(data):
    weights = table_weights(data, ["clear", "weak"], k=4)
    gains = [item_cf(data, name, ks=4).recall[4] - 4 / 39 for name in ("clear", "weak")]
    assert gains[0] > 2 * gains[1] > 0
    assert weights == pytest.approx({"clear": gains[0] / sum(gains), "weak": gains[1] / sum(gains)})


def test_a_table_no_better_than_random_weighs_nothing(data):
    # Items are similar to those that no user has together with them.
    data["item"].x_wrong = torch.nn.functional.one_hot(torch.arange(40) // 8, 5).float()
    assert item_cf(data, "wrong", ks=4).recall[4] == 0
    assert table_weights(data, ["clear", "wrong"], k=4) == {"clear": 1.0, "wrong": 0.0}
    assert table_weights(data, ["wrong"], k=4) == {"wrong": 1.0}


def test_needs_a_table(data):
    with pytest.raises(ValueError, match="'features' needs"):
        table_weights(data, [])


def test_users_of_one_item_each_tell_nothing(data):
    data["user", "interacts", "item"].edge_index = torch.tensor([[0, 1, 2, 2], [5, 5, 7, 7]])
    assert table_weights(data, ["clear", "weak"]) == {"clear": 0.5, "weak": 0.5}


def test_a_sample_of_items_decides(data):
    few = table_weights(data, ["clear", "weak"], k=4, eval_items=9, seed=1)
    gains = [
        item_cf(data, name, ks=4, eval_items=9, seed=1).recall[4] - 4 / 39
        for name in ("clear", "weak")
    ]
    assert few == pytest.approx({"clear": gains[0] / sum(gains), "weak": gains[1] / sum(gains)})
    assert few != table_weights(data, ["clear", "weak"], k=4)
