import importlib
import math

import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.metrics import LinkPredPersonalization

from alignrec_pyg.evaluation.beyond_accuracy import (
    ListDiversity,
    beyond_accuracy,
    intra_list_diversity,
)
from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.graph import INTERACTS

USERS, ITEMS, K = 30, 25, 10


def graph(num_users, num_items, links):
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = num_users, num_items
    data[INTERACTS].edge_index = torch.as_tensor(links, dtype=torch.int64).reshape(-1, 2).t()
    return data


@pytest.fixture
def case():
    """Lists of ten for half of the users, some shorter, two empty; items without train links."""
    generator = torch.Generator().manual_seed(3)
    chance = torch.linspace(0.0, 0.5, ITEMS)
    train = graph(USERS, ITEMS, (torch.rand(USERS, ITEMS, generator=generator) < chance).nonzero())
    items = torch.stack([torch.randperm(ITEMS, generator=generator)[:K] for _ in range(15)]).int()
    for row, length in ((2, 9), (3, 4), (5, 1), (8, 0), (9, 4), (14, 0)):
        items[row, length:] = ITEMS
    train["item"].x_text = torch.randn(ITEMS, 6, generator=generator)
    train["item"].mask_text = torch.rand(ITEMS, generator=generator) < 0.2
    return train, Ranking(torch.arange(0, USERS, 2), items)


def lists_of(ranking, k):
    lists = [[item for item in row[:k] if item < ITEMS] for row in ranking.item.tolist()]
    return [row for row in lists if row]


def degrees(train):
    count = [0] * ITEMS
    for _, item in train[INTERACTS].edge_index.t().tolist():
        count[item] += 1
    return count


@pytest.mark.parametrize("k", [1, 4, K])
def test_everything_equals_a_loop_over_lists(case, k):
    train, ranking = case
    lists, count = lists_of(ranking, k), degrees(train)
    frequency = [sum(item in row for row in lists) for item in range(ITEMS)]
    result = beyond_accuracy(ranking, train, k, below=3)
    assert result.num_users == len(lists) == 13
    assert result.coverage == pytest.approx(sum(f > 0 for f in frequency) / ITEMS)

    # half the mean absolute difference of all pairs, by the mean
    gaps = sum(abs(a - b) for a in frequency for b in frequency)
    assert result.gini == pytest.approx(gaps / (2 * ITEMS * sum(frequency)))

    def mean(value):
        return sum(sum(value(i) for i in row) / len(row) for row in lists) / len(lists)

    assert 0 in count  # an item without train links, which has no logarithm
    assert result.average_popularity == pytest.approx(mean(lambda i: count[i]))
    assert result.long_tail_share == pytest.approx(mean(lambda i: count[i] < 3))
    assert result.novelty == pytest.approx(mean(lambda i: -math.log2(max(count[i], 1) / USERS)))

    cosines = [
        len(set(a) & set(b)) / math.sqrt(len(a) * len(b))
        for number, a in enumerate(lists)
        for b in lists[:number]
    ]
    assert result.personalization == pytest.approx(1 - sum(cosines) / len(cosines))


def test_personalization_of_full_lists_is_that_of_pyg(case):
    train, ranking = case
    full = (ranking.item < ITEMS).all(dim=1)
    metric = LinkPredPersonalization(K)
    metric.update(ranking.item[full].long(), torch.empty(2, 0, dtype=torch.int64))
    result = beyond_accuracy(Ranking(ranking.user[full], ranking.item[full]), train, K)
    assert result.personalization == pytest.approx(float(metric.compute()))


def test_by_hand():
    train = graph(4, 4, [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1)])
    ranking = Ranking(torch.tensor([1, 2]), torch.tensor([[1, 2], [1, 4]]))
    result = beyond_accuracy(ranking, train, 2)
    assert result.num_users == 2
    assert result.coverage == 0.5
    assert result.gini == pytest.approx((3 * 2 + 1 * 1) / (4 * 3))  # of 0, 0, 1, 2
    assert result.average_popularity == pytest.approx((0.5 + 1) / 2)
    assert result.long_tail_share == 1
    assert result.novelty == pytest.approx(2)  # each in one of four
    assert result.personalization == pytest.approx(1 - 1 / math.sqrt(2))


def test_the_ends_of_the_gini_index():
    train = graph(1, 4, [(0, 0)])
    one = Ranking(torch.arange(8), torch.zeros(8, 1, dtype=torch.int64))
    assert beyond_accuracy(one, train, 1).gini == pytest.approx(1 - 1 / 4)
    even = Ranking(torch.arange(8), torch.arange(8).remainder(4).unsqueeze(1))
    assert beyond_accuracy(even, train, 1).gini == pytest.approx(0)


def test_one_list_has_nobody_to_differ_from_and_none_has_nothing(case):
    train, ranking = case
    one = beyond_accuracy(Ranking(ranking.user[:1], ranking.item[:1]), train, K)
    assert one.num_users == 1
    assert math.isnan(one.personalization)
    for rows in (slice(8, 9), slice(0, 0)):
        none = beyond_accuracy(Ranking(ranking.user[rows], ranking.item[rows]), train, K)
        assert (none.num_users, none.coverage) == (0, 0)
        others = (none.gini, none.average_popularity, none.novelty, none.long_tail_share)
        assert all(map(math.isnan, others))


@pytest.mark.parametrize("k", [2, 4, K])
@pytest.mark.parametrize("block", [1, 40, 1 << 22])
def test_diversity_equals_a_loop_over_pairs(case, k, block, monkeypatch):
    train, ranking = case
    train["item"].x_text[20] = 0  # no direction, though not marked
    table, mask = train["item"].x_text.double(), train["item"].mask_text
    module = importlib.import_module("alignrec_pyg.evaluation.beyond_accuracy")
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", block)
    values = []
    for row in lists_of(ranking, k):
        held = [item for item in row if not mask[item] and item != 20]
        cosines = [
            float(torch.cosine_similarity(table[a], table[b], dim=0))
            for a in held
            for b in held
            if a != b
        ]
        if cosines:
            values.append(1 - sum(cosines) / len(cosines))
    result = intra_list_diversity(ranking, train, "text", k)
    assert 0 < result.num_users == len(values) < 15
    assert result.diversity == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_diversity_by_hand():
    train = graph(1, 5, [(0, 0)])
    train["item"].x_a = torch.tensor([[1.0, 0], [0, 2], [3, 0], [-1, 0], [0, 0]])
    for items, expected in (
        ([0, 1], 1.0),  # a right angle
        ([0, 2], 0.0),  # one direction
        ([0, 3], 2.0),  # opposite
        ([0, 1, 2], 2 / 3),
        ([0, 2, 4, 5], 0.0),  # without the zero row and "nothing left"
    ):
        ranking = Ranking(torch.tensor([0]), torch.tensor([items]))
        result = intra_list_diversity(ranking, train, "a", len(items))
        assert result.diversity == pytest.approx(expected, abs=1e-6)
        assert result.num_users == 1
    single = Ranking(torch.tensor([0]), torch.tensor([[0, 4]]))
    result = intra_list_diversity(single, train, "a", 2)
    assert result.num_users == 0
    assert math.isnan(result.diversity)


def test_diversity_on_a_trainable_table_keeps_no_gradient(case):
    train, ranking = case
    train["item"].x_text.requires_grad_()
    assert isinstance(intra_list_diversity(ranking, train, "text", 5), ListDiversity)


def test_wrong_arguments_are_named(case):
    train, ranking = case
    for call in (
        lambda data, k: beyond_accuracy(ranking, data, k),
        lambda data, k: intra_list_diversity(ranking, data, "text", k),
    ):
        with pytest.raises(ValueError, match=r"'k' needs to be in \[1, 10\] \(got 11\)"):
            call(train, 11)
        smaller = graph(USERS, 3, [(0, 0)])
        smaller["item"].x_text = torch.ones(3, 2)
        with pytest.raises(ValueError, match="'ranking' needs to be of the data's 3 items"):
            call(smaller, K)
    with pytest.raises(ValueError, match="'image' needs to be one of the feature tables"):
        intra_list_diversity(ranking, train, "image", 5)
