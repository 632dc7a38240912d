import torch

from alignrec_pyg.graph import INTERACTS, KNOWS
from alignrec_pyg.serving.known_items import KnownItems


def test_links_and_other_known_pairs(toy):
    toy[INTERACTS].edge_index = torch.tensor([[1, 0, 1, 1], [2, 1, 0, 2]])  # one of them twice
    toy[INTERACTS].edge_label_index = torch.tensor([[0, 2], [3, 0]])
    toy[KNOWS].edge_index = torch.tensor([[1, 1], [1, 2]])
    known = KnownItems(toy)
    assert known.of(torch.tensor([0, 1])).tolist() == [[0, 0, 1, 1, 1], [1, 3, 0, 1, 2]]
    assert known.of(torch.tensor([2, 0])).tolist() == [[2, 0, 0], [0, 1, 3]]
    assert known.of(torch.tensor([], dtype=torch.int64)).shape == (2, 0)
    rows = [known.links_of(torch.tensor([user])).tolist() for user in range(3)]
    assert rows == [[1], [0, 2], []]
    assert known.num_users.tolist() == [1, 1, 1, 0]
    assert known.num_links.tolist() == [1, 2, 0]
