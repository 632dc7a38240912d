import math

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments.cells import TEST
from alignrec_pyg.experiments.cold_items import (
    content_vectors,
    popularity_vectors,
    untrained_result,
)
from alignrec_pyg.graph import INTERACTS


@pytest.fixture
def parts():
    """3 users, 4 items and 2 held out."""
    train, cold = HeteroData(), HeteroData()
    generator = torch.Generator().manual_seed(0)
    for part, count in ((train, 4), (cold, 2)):
        part["user"].num_nodes, part["item"].num_nodes = 3, count
        part["item"].x_a = torch.randn(count, 3, generator=generator)
        part["item"].x_b = 100 * torch.randn(count, 2, generator=generator)
    train[INTERACTS].edge_index = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 3, 1]])
    return train, cold


def test_popularity_counts_train_links_and_draws_among_equals(parts):
    train, cold = parts
    orders = set()
    for seed in range(20):
        user_x, item_x = popularity_vectors(train, cold["item"].num_nodes, seed)
        scores = user_x @ item_x.T
        assert scores.floor().tolist() == [[1, 3, 0, 1, 0, 0]] * 3
        orders.add(bool(scores[0, 4] > scores[0, 5]))
    assert orders == {True, False}


def test_content_is_the_mean_cosine_of_equal_parts(parts):
    train, cold = parts
    user_x, item_x = content_vectors(train, cold, ["a", "b"])
    rows = [torch.cat([p["item"].x_a, p["item"].x_b], 1) for p in (train, cold)]
    table = torch.cat(rows)

    def cosine(i, j):
        a = torch.nn.functional.cosine_similarity(table[i, :3], table[j, :3], dim=0)
        b = torch.nn.functional.cosine_similarity(table[i, 3:], table[j, 3:], dim=0)
        return float(a + b) / 2

    history = {0: [0, 1], 1: [1, 3], 2: [1]}
    for user, own in history.items():
        scores = item_x @ user_x[user] / len(own)
        for item in range(6):
            expected = sum(cosine(i, item) for i in own) / len(own)
            assert scores[item].item() == pytest.approx(expected, abs=1e-6)


def test_rankings_leave_known_links_out(parts):
    train, _ = parts
    train[INTERACTS].edge_label_index = torch.tensor([[0, 2], [4, 5]])
    vectors = torch.ones(3, 1), torch.arange(6.0).unsqueeze(1)
    candidates = {TEST: None, "cold": torch.tensor([4, 5])}
    result = untrained_result("by number", 3, vectors, train, candidates)
    assert result.rankings[TEST].user.tolist() == [0, 2]
    assert result.rankings[TEST].item[:, :5].tolist() == [[5, 4, 3, 2, 6], [5, 4, 3, 2, 0]]
    assert result.rankings["cold"].item[:, :3].tolist() == [[5, 4, 6]] * 2
    assert (result.row, result.seed, result.num_parameters) == ("by number", 3, 0)
    assert result.metrics["recall@20"] == 1
    assert result.metrics["ndcg@20"] == pytest.approx((1 / math.log2(3) + 1) / 2)
