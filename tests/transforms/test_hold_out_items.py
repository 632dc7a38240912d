import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, known_pairs, with_known_pairs
from alignrec_pyg.transforms import HoldOutItems, KNNItemGraph, SplitInteractions


@pytest.fixture
def data():
    """Item 9 has no links."""
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 5, 10
    data["item"].id = np.array([f"i{n}" for n in range(10)], dtype=object)
    data["item"].text = [f"text {n}" for n in range(10)]
    data["item"].x_text = torch.arange(10.0).unsqueeze(1)
    user, item = torch.meshgrid(torch.arange(5), torch.arange(9), indexing="ij")
    data[INTERACTS].edge_index = torch.stack([user.flatten(), item.flatten()])
    data[INTERACTS].time = torch.arange(45)
    return data


def links(graph):
    """Links in the ids of the outside world, with their times."""
    users, items = graph[INTERACTS].edge_index.tolist()
    names = graph["item"].id[items]
    return set(zip(users, names.tolist(), graph[INTERACTS].time.tolist(), strict=True))


def test_known_pairs_go_with_their_items(data):
    data = with_known_pairs(data, torch.tensor([[0, 1, 4], [9, 9, 9]]))
    warm, cold = HoldOutItems(0.3, seed=1)(data)
    number = list(warm["item"].id).index("i9")
    assert known_pairs(warm).tolist() == [[0, 1, 4], [number] * 3]
    assert known_pairs(cold).shape == (2, 0)


@pytest.mark.parametrize("share", [0.05, 0.34, 0.9])
def test_parts_items_with_all_that_belongs_to_them(data, share):
    before = data[INTERACTS].edge_index.clone()
    warm, cold = HoldOutItems(share, seed=1)(data)
    assert cold["item"].num_nodes == max(1, int(9 * share))
    assert sorted([*warm["item"].id, *cold["item"].id]) == sorted(data["item"].id)
    assert "i9" in warm["item"].id
    for part in (warm, cold):
        assert part["user"].num_nodes == 5
        assert part["item"].num_nodes == len(part["item"].id) == len(part["item"].text)
        for name, text, row in zip(
            part["item"].id, part["item"].text, part["item"].x_text, strict=True
        ):
            assert (f"text {name[1:]}", float(name[1:])) == (text, row.item())
    assert links(warm) | links(cold) == links(data)
    assert not links(warm) & links(cold)
    assert {name for _, name, _ in links(cold)} == set(cold["item"].id)
    assert torch.equal(data[INTERACTS].edge_index, before)


def test_the_draw_follows_the_seed(data):
    def drawn(seed):
        return HoldOutItems(0.34, seed=seed)(data)[1]["item"].id.tolist()

    assert drawn(3) == drawn(3)
    assert len({tuple(drawn(seed)) for seed in range(10)}) > 1


def test_what_is_split_or_linked_is_refused(data):
    with pytest.raises(ValueError, match="no edges but .* build item graphs after HoldOutItems"):
        HoldOutItems()(KNNItemGraph("text", k=2)(data))
    with pytest.raises(ValueError, match="apply HoldOutItems before the split"):
        HoldOutItems()(SplitInteractions("random")(data)[0])
    for share in (0, 1, -0.5):
        with pytest.raises(ValueError, match=r"'share' needs to be in \(0, 1\)"):
            HoldOutItems(share)
    with pytest.raises(ValueError, match="'seed' needs to be 0 or more"):
        HoldOutItems(seed=-1)
    data[INTERACTS].edge_index = torch.tensor([[0, 1], [3, 3]])
    data[INTERACTS].time = torch.arange(2)
    with pytest.raises(ValueError, match=r"at least two items with interactions \(got 1\)"):
        HoldOutItems()(data)
