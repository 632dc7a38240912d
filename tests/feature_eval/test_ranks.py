import itertools

import pytest
import torch

from alignrec_pyg.feature_eval import feature_rows as rows_module
from alignrec_pyg.feature_eval.feature_rows import FeatureRows
from alignrec_pyg.feature_eval.ranks import (
    Queries,
    candidate_counts,
    excluded_pairs,
    popularity_ranks,
    target_ranks,
)

OPTIONS = {"similarity": "cosine", "exclude_history": False, "normalize_items": False}


@pytest.fixture
def queries():
    """Histories of every length; two targets here and there, one of them also in the history."""
    generator = torch.Generator().manual_seed(1)
    history, target = [], []
    for row in range(12):
        items = torch.randperm(25, generator=generator).tolist()
        history += [(row, item) for item in items[: 1 + row % 5]]
        target += [(row, item) for item in items[6 : 7 + row % 3]]
    history += [(12, 2), (12, 17)]  # both without text, as the only item of query 10
    target += [(12, 3)]
    history += [(13, 0), (13, 4)]  # of equal text
    target += [(13, 4), (13, 9), (13, 12), (13, 20)]
    return Queries(
        id=torch.arange(14),
        history=torch.tensor(history).t(),
        target=torch.tensor(target).t(),
        popularity=torch.zeros(25, dtype=torch.int64),
    )


def slow_ranks(rows, queries, similarity, exclude_history, normalize_items):
    """The definition, one candidate after the other."""
    table = rows[:]
    pairs = [tuple(pair) for pair in queries.target.t().tolist()]
    ranks = []
    for row, target in pairs:
        history = queries.history[1, queries.history[0] == row].tolist()
        members = [table[item] for item in history]
        if normalize_items:
            members = [member / max(float(member.norm()), 1e-30) for member in members]
        vector = sum(members) / len(members)
        candidates = [
            item
            for item in range(table.size(0))
            if not exclude_history or item not in history or (row, item) in pairs
        ]
        if float(vector.norm()) == 0:
            ranks.append(len(candidates))
            continue

        def value(item, vector=vector):
            if similarity == "dot":
                return float(vector @ table[item])
            return float(vector @ table[item]) / max(float(table[item].norm()), 1e-30)

        ahead = [
            item
            for item in candidates
            if value(item) > value(target) + 1e-7
            or (abs(value(item) - value(target)) <= 1e-7 and item < target)
        ]
        ranks.append(len(ahead))
    return ranks


@pytest.mark.parametrize("features", ["text", "image", ["image", "text"]])
@pytest.mark.parametrize(
    ("similarity", "exclude_history", "normalize_items"),
    list(itertools.product(["cosine", "dot"], [False, True], [False, True])),
)
def test_ranks_follow_the_definition(
    case, queries, features, similarity, exclude_history, normalize_items
):
    rows = FeatureRows(case, features)
    options = {
        "similarity": similarity,
        "exclude_history": exclude_history,
        "normalize_items": normalize_items,
    }
    expected = slow_ranks(rows, queries, **options)
    found = target_ranks(rows, queries, **options, block_size=512)
    assert found.rank.tolist() == expected
    assert found.unranked.nonzero()[:, 0].tolist() == ([10, 12] if features == "text" else [])
    assert max(expected) > 15


@pytest.mark.parametrize("block_size", [1, 2, 5, 13])
@pytest.mark.parametrize("cast", [1, 40])
@pytest.mark.parametrize("exclude_history", [False, True])
def test_blocks_change_nothing(case, queries, block_size, cast, exclude_history, monkeypatch):
    options = {**OPTIONS, "exclude_history": exclude_history}
    whole = target_ranks(FeatureRows(case, "text"), queries, **options, block_size=512)
    monkeypatch.setattr(rows_module, "_CAST_ELEMENTS", cast)
    blocked = target_ranks(FeatureRows(case, "text"), queries, **options, block_size=block_size)
    assert torch.equal(blocked.rank, whole.rank)
    assert torch.equal(blocked.unranked, whole.unranked)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_items_of_the_same_features_stand_in_the_order_of_their_numbers(graph, similarity, scale):
    data = graph(1, 2000, [(0, 0)])
    generator = torch.Generator().manual_seed(0)
    kinds = scale * torch.randn(7, 300, generator=generator)
    kind = torch.randint(7, (2000,), generator=generator)
    data["item"].x_text = kinds[kind]
    queries = Queries(
        id=torch.arange(1),
        history=torch.tensor([[0, 0], [0, 5]]),
        target=torch.stack([torch.zeros(2000, dtype=torch.int64), torch.arange(2000)]),
        popularity=torch.zeros(2000, dtype=torch.int64),
    )
    options = {**OPTIONS, "similarity": similarity}
    stored = FeatureRows(data, "text", normalize_parts=False)
    rank = target_ranks(stored, queries, **options, block_size=512).rank
    assert rank.sort().values.tolist() == list(range(2000))  # every place taken once
    for number in range(7):
        assert bool((rank[kind == number].diff() == 1).all())


def test_similarities_closer_than_the_resolution_are_equal(graph):
    data = graph(1, 3, [(0, 0)])
    # cosines with item 0: 1, cos(a), cos(b); 1 - cos(x) is about x^2 / 2
    for angle, expected in ((1e-5, [0, 1, 2]), (1e-4, [0, 2, 1])):
        rows = [[1.0, 0.0], [1.0, angle], [1.0, 0.0]]
        data["item"].x_text = torch.tensor(rows, dtype=torch.float64)
        queries = Queries(
            id=torch.arange(1),
            history=torch.tensor([[0], [0]]),
            target=torch.tensor([[0, 0, 0], [0, 1, 2]]),
            popularity=torch.zeros(3, dtype=torch.int64),
        )
        found = target_ranks(FeatureRows(data, "text"), queries, **OPTIONS, block_size=8)
        assert found.rank.tolist() == expected


def test_features_of_zeros_only_find_nothing_by_inner_product(case, queries):
    case["item"].x_image = torch.zeros(25, 3)
    options = {**OPTIONS, "similarity": "dot"}
    found = target_ranks(FeatureRows(case, "image"), queries, **options, block_size=4)
    assert bool(found.unranked.all())
    assert found.rank.unique().tolist() == [25]


@pytest.fixture
def short_queries():
    """Three queries on 8 items; histories repeat items and hold targets, targets repeat too."""
    return Queries(
        id=torch.tensor([2, 5, 6]),
        history=torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [3, 1, 3, 0, 7, 4, 5, 6]]),
        target=torch.tensor([[0, 1, 1, 2], [1, 2, 0, 7]]),
        popularity=torch.tensor([4, 1, 2, 2, 9, 0, 2, 1]),
    )


def test_history_is_left_out_but_for_targets(short_queries):
    expected = [[0, 3], [1, 7], [2, 4], [2, 5], [2, 6]]
    assert excluded_pairs(short_queries).t().tolist() == expected
    assert candidate_counts(short_queries, exclude_history=True).tolist() == [7, 7, 5]
    assert candidate_counts(short_queries, exclude_history=False).tolist() == [8, 8, 8]


@pytest.mark.parametrize("exclude_history", [False, True])
def test_popularity_ranks_are_those_of_a_sort(short_queries, exclude_history):
    excluded = excluded_pairs(short_queries).t().tolist() if exclude_history else []
    expected = []
    for row, target in short_queries.target.t().tolist():
        candidates = [item for item in range(8) if [row, item] not in excluded]
        candidates.sort(key=lambda item: (-int(short_queries.popularity[item]), item))
        expected.append(candidates.index(target))
    found = popularity_ranks(short_queries, exclude_history=exclude_history)
    assert found.tolist() == expected
    assert expected == ([4, 2, 1, 4] if exclude_history else [5, 2, 1, 6])
