import pytest
import torch
from torch_geometric.data import Batch, HeteroData
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.transforms import RandomLinkSplit

from alignrec_pyg.graph import (
    INTERACTS,
    all_links,
    core_links,
    known_links,
    known_pairs,
    link_values,
    links_to_predict,
    positive_links,
    symmetric_norm,
    with_known_pairs,
    with_links_to_predict,
)


def test_symmetric_norm_by_hand(toy):
    weight = symmetric_norm(toy[INTERACTS].edge_index, 3, 4)
    expected = [1 / (2 * 1) ** 0.5, 1 / 2, 1 / 2, 1 / (2 * 1) ** 0.5, 1.0]
    assert torch.allclose(weight, torch.tensor(expected))


def test_symmetric_norm_equals_gcn_norm(toy):
    user, item = toy[INTERACTS].edge_index
    both = torch.stack([torch.cat([user, item + 3]), torch.cat([item + 3, user])])
    _, expected = gcn_norm(both, num_nodes=7, add_self_loops=False)
    weight = symmetric_norm(toy[INTERACTS].edge_index, 3, 4)
    assert torch.allclose(torch.cat([weight, weight]), expected)


def test_core_links_by_dropping_one_after_the_other():
    generator = torch.Generator().manual_seed(3)
    user, item = torch.randint(12, (2, 100), generator=generator)
    left = list(range(100))
    while True:
        ends = [[side[row].item() for row in left] for side in (user, item)]
        enough = [
            row
            for row in left
            if ends[0].count(user[row].item()) >= 5 and ends[1].count(item[row].item()) >= 5
        ]
        if enough == left:
            break
        left = enough
    assert 0 < len(left) < 100
    assert core_links(user, item, 5).tolist() == left
    assert core_links(user, item, 30).tolist() == []


def test_values_of_links_are_there_for_each(toy):
    links = toy[INTERACTS]
    links.rating = torch.arange(links.edge_index.size(1))
    assert link_values(toy, "rating") is links.rating
    with pytest.raises(ValueError, match=r"'time' needs to be known.*\.time is missing\); or not"):
        link_values(toy, "time", "; or not")
    links.rating = links.rating[:-1]
    with pytest.raises(ValueError, match=r"'rating' needs shape \(\d+,\) \(got \(\d+,\)\)"):
        link_values(toy, "rating")


def linked(links, num_users=3, num_items=5, **stored):
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = num_users, num_items
    data[INTERACTS].edge_index = torch.tensor(links, dtype=torch.int64).reshape(-1, 2).t()
    for name, value in stored.items():
        data[INTERACTS][name] = torch.tensor(value)
    return data


def pairs(links):
    return list(map(tuple, links.t().tolist()))


def test_positive_links_are_those_of_a_label_above_zero_each_once():
    label_index = [[2, 0, 1, 2, 0], [4, 1, 1, 4, 3]]
    data = linked([(0, 0)], edge_label_index=label_index, edge_label=[1.0, 0, 2, 1, 1])
    assert pairs(positive_links(data)) == [(2, 4), (1, 1), (0, 3)]
    assert pairs(all_links(data)) == [(0, 0), (2, 4), (1, 1), (0, 3)]
    del data[INTERACTS].edge_label
    assert pairs(links_to_predict(data)) == [(2, 4), (0, 1), (1, 1), (0, 3)]
    other = with_links_to_predict(data, torch.tensor([[1], [0]]))
    assert pairs(links_to_predict(other)) == [(1, 0)]
    assert len(pairs(links_to_predict(data))) == 4
    del data[INTERACTS].edge_label_index
    assert positive_links(data) is data[INTERACTS].edge_index


def test_labels_need_a_value_each_and_a_positive():
    data = linked([(0, 0)], edge_label_index=[[0, 1], [1, 1]], edge_label=[1])
    with pytest.raises(ValueError, match=r"'edge_label' needs one value .* \(2,\) \(got \(1,\)\)"):
        positive_links(data)
    data[INTERACTS].edge_label = torch.zeros(2)
    with pytest.raises(ValueError, match="'val' needs links to predict"):
        links_to_predict(data, "val")


@pytest.mark.parametrize(
    "mode",
    [
        {},
        {"add_negative_train_samples": False},
        {"disjoint_train_ratio": 0.3},
        {"neg_sampling_ratio": 0.0},
        {"neg_sampling_ratio": 2.0},
        {"is_undirected": True},
        {"split_labels": True},
        {"rev_edge_types": [("item", "rev_interacts", "user")]},
    ],
)
def test_random_link_split_is_read_in_all_its_modes(mode):
    torch.manual_seed(0)
    data = linked(
        [(user, item) for user in range(12) for item in range(20) if (user * item) % 5 == 1]
    )
    data["user"].num_nodes, data["item"].num_nodes = 12, 20
    if "rev_edge_types" in mode:
        data["item", "rev_interacts", "user"].edge_index = data[INTERACTS].edge_index.flip(0)
    whole = set(pairs(data[INTERACTS].edge_index))
    split = RandomLinkSplit(0.2, 0.2, edge_types=[INTERACTS], **mode)
    train, val, test = split(data)
    parts = [set(pairs(part)) for part in (all_links(train), *map(links_to_predict, (val, test)))]
    assert set.union(*parts) == whole
    assert sum(map(len, parts)) == len(whole)
    used, asked = set(pairs(train[INTERACTS].edge_index)), set(pairs(positive_links(train)))
    assert (used | asked, len(used & asked) > 0) == (parts[0], "disjoint_train_ratio" not in mode)
    assert set(pairs(val[INTERACTS].edge_index)) == parts[0]
    assert set(pairs(test[INTERACTS].edge_index)) == parts[0] | parts[1]


def test_known_pairs_are_no_links_and_each_once():
    data = linked([(0, 0), (1, 1)], edge_label_index=[[2], [2]])
    assert known_pairs(data).shape == (2, 0)
    data = with_known_pairs(data, torch.tensor([[0, 2, 1, 2, 1], [3, 2, 4, 3, 4]]))
    assert pairs(known_pairs(data)) == [(0, 3), (1, 4), (2, 3)]
    assert pairs(known_links(data)) == [(0, 0), (1, 1), (2, 2), (0, 3), (1, 4), (2, 3)]


def test_known_links_of_some_users():
    data = linked([(0, 0), (1, 1), (0, 2)], edge_label_index=[[2, 0], [2, 4]], edge_label=[0, 1])
    data = with_known_pairs(data, torch.tensor([[0, 2, 1], [3, 2, 4]]))
    assert pairs(known_links(data, torch.tensor([0]))) == [(0, 0), (0, 2), (0, 4), (0, 3)]
    assert pairs(known_links(data, torch.tensor([2, 1]))) == [(1, 1), (2, 2), (1, 4)]
    assert len(pairs(known_links(data))) == 7


def test_known_pairs_survive_collation_and_moves():
    data = with_known_pairs(linked([(0, 0), (1, 1)]), torch.tensor([[2, 0], [4, 3]]))
    assert pairs(known_pairs(data.clone().to("cpu"))) == [(2, 4), (0, 3)]
    batch = Batch.from_data_list([data, data])
    assert pairs(known_pairs(batch)) == [(2, 4), (0, 3), (5, 9), (3, 8)]
