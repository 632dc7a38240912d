import math

import pytest
import torch
from torch import nn

from alignrec_pyg import BPR
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.serving.ranker import Ranker


@pytest.fixture
def ranker(toy):
    """Scores of user 0: items 3, 2, 1, 0 in this order; links of the toy graph."""
    model = BPR(toy, embedding_dim=1)
    model.user_embedding.weight = nn.Parameter(torch.ones(3, 1))
    model.item_embedding.weight = nn.Parameter(torch.arange(1.0, 5.0).unsqueeze(1))
    return Ranker(model, toy)


def test_lists_without_known_and_blocked_items_are_filled_up(ranker, toy):
    had = toy[INTERACTS].edge_index[1, toy[INTERACTS].edge_index[0] == 0].tolist()
    left = [item for item in (3, 2, 1, 0) if item not in had]
    user = torch.tensor([0])
    item, score = ranker.best(user, 4, None, exclude_known=True)
    assert item.tolist() == [left + [4] * len(had)]
    assert score.tolist() == [[item + 1.0 for item in left] + [-math.inf] * len(had)]
    blocked = ranker.blocked(torch.tensor([1, 2]), torch.tensor([1]))
    assert blocked.tolist() == [True, True, False, True]
    item, _ = ranker.best(user, 2, blocked, exclude_known=False)
    assert item.tolist() == [[2, 4]]
    assert ranker.blocked(None, user[:0]) is None


def test_a_stranger_gets_the_most_popular_items(ranker, toy):
    counts = torch.bincount(toy[INTERACTS].edge_index[1], minlength=4)
    item, score = ranker.best(torch.tensor([-1]), 4, None, exclude_known=True)
    assert item[0].tolist() == counts.argsort(descending=True, stable=True).tolist()
    assert torch.equal(score[0], counts[item[0]].float())


def test_what_a_new_user_had_is_not_listed(ranker):
    history = torch.tensor([[0, 1], [3, 0]])
    item, _ = ranker.best_of_histories(history, 2, history, 3, None, ridge=0.1)
    assert item.tolist() == [[2, 1, 0], [3, 2, 1]]
