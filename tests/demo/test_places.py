import pytest
import torch
from torch import nn

from alignrec_pyg import BPR
from alignrec_pyg.demo import places as module
from alignrec_pyg.demo.places import places
from alignrec_pyg.evaluation.ranking import rank
from alignrec_pyg.graph import INTERACTS


@pytest.mark.parametrize("block", [1, 1 << 22])
def test_places_are_those_of_the_rankings(served, monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK_SCORES", block)  # a user at a time, or all at once
    model, data = served.model, served.data
    known = data[INTERACTS].edge_index
    item = 7
    place, left = places(model, data, item)
    ranking = rank(model, data, model.num_items, torch.arange(model.num_users)).item
    checked = 0
    for user in range(model.num_users):
        mine = known[1, known[0] == user]
        assert int(left[user]) == model.num_items - mine.numel()
        if item not in mine:
            assert int(ranking[user, int(place[user]) - 1]) == item
            checked += 1
    assert 10 < checked < model.num_users


def test_a_known_link_twice_counts_once(toy):
    edges = toy[INTERACTS].edge_index  # user 0 knows items 0 and 1
    toy[INTERACTS].edge_index = torch.cat([edges, edges[:, :1]], dim=1)
    model = BPR(toy, embedding_dim=1)
    model.user_embedding.weight = nn.Parameter(torch.ones(3, 1))
    model.item_embedding.weight = nn.Parameter(torch.tensor([[4.0], [3.0], [2.0], [1.0]]))
    place, left = places(model, toy, 3)
    assert place.tolist() == [2, 2, 4]  # of user 1 among 0 and 3; user 2 knows it
    assert left.tolist() == [2, 2, 3]
