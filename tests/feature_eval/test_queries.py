import pytest
import torch

from alignrec_pyg.feature_eval.queries import (
    Queries,
    candidate_counts,
    excluded_pairs,
    popularity_ranks,
)


@pytest.fixture
def queries():
    """Three queries on 8 items; histories repeat items and hold targets, targets repeat too."""
    return Queries(
        id=torch.tensor([2, 5, 6]),
        history=torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2], [3, 1, 3, 0, 7, 4, 5, 6]]),
        target=torch.tensor([[0, 1, 1, 2], [1, 2, 0, 7]]),
        popularity=torch.tensor([4, 1, 2, 2, 9, 0, 2, 1]),
    )


def test_history_is_left_out_but_for_targets(queries):
    expected = [[0, 3], [1, 7], [2, 4], [2, 5], [2, 6]]
    assert excluded_pairs(queries).t().tolist() == expected
    assert candidate_counts(queries, exclude_history=True).tolist() == [7, 7, 5]
    assert candidate_counts(queries, exclude_history=False).tolist() == [8, 8, 8]


@pytest.mark.parametrize("exclude_history", [False, True])
def test_popularity_ranks_are_those_of_a_sort(queries, exclude_history):
    excluded = excluded_pairs(queries).t().tolist() if exclude_history else []
    expected = []
    for row, target in queries.target.t().tolist():
        candidates = [item for item in range(8) if [row, item] not in excluded]
        candidates.sort(key=lambda item: (-int(queries.popularity[item]), item))
        expected.append(candidates.index(target))
    found = popularity_ranks(queries, exclude_history=exclude_history)
    assert found.tolist() == expected
    assert expected == ([4, 2, 1, 4] if exclude_history else [5, 2, 1, 6])
