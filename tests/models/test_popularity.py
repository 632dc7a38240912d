import torch

from alignrec_pyg import Popularity, recommend
from alignrec_pyg.graph import INTERACTS


def test_scores_are_numbers_of_links_and_a_fraction_that_orders_ties(toy):
    model = Popularity(toy)
    model.solve(toy)
    scores = model.scorer(toy)(torch.tensor([0, 2]))
    assert scores.tolist() == [[1.0, 1.75, 0.5, 0.25]] * 2
    assert model.scorer(toy, torch.tensor([1, 3]))(torch.tensor([1])).tolist() == [[1.75, 0.25]]


def test_the_most_popular_item_comes_first(toy):
    toy[INTERACTS].edge_index = torch.tensor([[0, 0, 1, 1, 2], [2, 3, 3, 2, 3]])
    del toy[INTERACTS].edge_label_index
    model = Popularity(toy)
    model.solve(toy)
    assert recommend(model, toy, ["cy"], k=1)[0].tolist() == [30]
