import math
import warnings

import numpy as np
import pytest
import torch

from alignrec_pyg.feature_eval.item_targets import most_similar_items
from alignrec_pyg.graph import INTERACTS


def tables(data):
    """Ratings as users x items, NaN where there is no link."""
    user, item = data[INTERACTS].edge_index.numpy()
    matrix = np.full((data["user"].num_nodes, data["item"].num_nodes), np.nan)
    matrix[user, item] = data[INTERACTS].rating.double().numpy()
    return matrix


def slow_score(matrix, score, i, j):
    """The definition, on two columns; NaN where there is none."""
    both = ~np.isnan(matrix[:, i]) & ~np.isnan(matrix[:, j])
    size = (~np.isnan(matrix)).sum(0)
    active = (~np.isnan(matrix)).sum(1)
    if not both.any():
        return math.nan
    if score == "cosine":
        return both.sum() / math.sqrt(size[i] * size[j])
    if score == "iuf":
        return sum(1 / math.log(1 + n) for n in active[both]) / math.sqrt(size[i] * size[j])
    x, y = matrix[both, i], matrix[both, j]
    if score == "adjusted_cosine":
        mean = np.nanmean(matrix[both], axis=1)
        x, y = x - mean, y - mean
    else:
        x, y = x - x.mean(), y - y.mean()
    length = math.sqrt((x @ x) * (y @ y))
    return x @ y / length if length > 1e-9 else math.nan


@pytest.mark.parametrize("score", ["cosine", "iuf", "pearson", "adjusted_cosine"])
@pytest.mark.parametrize("min_common", [1, 3])
@pytest.mark.parametrize("block_paths", [1, 90, 1 << 22])
def test_targets_are_those_of_all_pairs(case, score, min_common, block_paths):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nobody's ratings
        matrix = tables(case)
        there = ~np.isnan(matrix)
        common, size = there.T.astype(int) @ there, there.sum(0)
        expected = {}
        for j in range(25):
            value = {
                i: slow_score(matrix, score, i, j)
                for i in range(25)
                if i != j and common[i, j] >= min_common
            }
            value = {i: w for i, w in value.items() if not math.isnan(w)}
            if value:
                best = max(value.values())
                tied = [i for i, w in value.items() if w > best - 1e-9]
                one = min(tied, key=lambda i: (-common[i, j], -size[i], i))
                expected[j] = (tied, one)
    found = most_similar_items(case, score=score, min_common=min_common, block_paths=block_paths)
    assert found.pair[0].unique().tolist() == list(expected)
    for j, (tied, one) in expected.items():
        assert found.pair[1, found.pair[0] == j].tolist() == tied
        assert found.pair[1, (found.pair[0] == j) & found.chosen].tolist() == [one]
    assert found.item_degree.tolist() == size.tolist()


def test_degenerate_scores_tie_often(case):
    found = most_similar_items(case, score="pearson", min_common=1)
    assert torch.bincount(found.pair[0]).max() > 3


def test_ties_by_hand(graph):
    # Items 0 and 1 share users 0 to 3. Item 4 has one user, whose others are 2, 3, 5 and 6, each
    # with n_4i = 1; of these 2 has more users than 3, 5 and 6, hence a smaller cosine.
    links = [(user, item) for user in range(4) for item in (0, 1)]
    links += [(5, 4), (5, 2), (6, 2), (5, 3), (5, 5), (5, 6)]
    found = most_similar_items(graph(7, 8, links), score="cosine", min_common=1)
    chosen = dict(found.pair[:, found.chosen].t().tolist())
    assert chosen == {0: 1, 1: 0, 2: 3, 3: 4, 4: 3, 5: 3, 6: 3}  # item 7 has no user
    assert found.pair[1, found.pair[0] == 4].tolist() == [3, 5, 6]
    # equal cosines: 2 / sqrt(4 * 4) with item 1, 1 / sqrt(4 * 1) with items 2 and 3
    links = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (8, 1), (9, 1), (2, 2), (3, 3)]
    found = most_similar_items(graph(10, 4, links), score="cosine", min_common=1)
    assert found.pair[1, found.pair[0] == 0].tolist() == [1, 2, 3]
    assert found.pair[1, (found.pair[0] == 0) & found.chosen].tolist() == [1]  # more common users


def test_more_users_win_among_equally_many_common_ones(graph):
    # adjusted cosine is 1 for both; item 1 shares as many users with item 0, but has more in all
    links = [(0, 0), (0, 2), (0, 1), (1, 1), (1, 3)]
    data = graph(2, 4, links, rating=[5, 5, 5, 4, 2])
    data[INTERACTS].edge_index = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 2, 1, 1, 3, 3]])
    data[INTERACTS].rating = torch.tensor([5.0, 5, 5, 4, 2, 1])
    found = most_similar_items(data, score="adjusted_cosine", min_common=1)
    assert found.pair[1, found.pair[0] == 0].tolist() == [1, 2]
    assert found.pair[1, (found.pair[0] == 0) & found.chosen].tolist() == [1]


def test_more_common_users_win_over_more_users(graph):
    # adjusted cosine with item 0 is 1 for items 1 and 2: two common users, and one of three users
    links = [(0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (1, 3), (4, 0), (4, 2), (4, 3)]
    links += [(2, 2), (2, 3), (3, 2), (3, 3)]
    rating = [5, 5, 1, 4, 4, 1, 5, 5, 1, 1, 1, 2, 2]
    found = most_similar_items(
        graph(5, 4, links, rating=rating), score="adjusted_cosine", min_common=1
    )
    assert found.item_degree.tolist() == [3, 2, 3, 5]
    assert found.pair[1, found.pair[0] == 0].tolist() == [1, 2]
    assert found.pair[1, (found.pair[0] == 0) & found.chosen].tolist() == [1]


def test_repeated_links_count_once(case):
    once = most_similar_items(case, score="iuf", min_common=1)
    links = case[INTERACTS].edge_index
    case[INTERACTS].edge_index = torch.cat([links, links[:, :50]], dim=1)
    twice = most_similar_items(case, score="iuf", min_common=1)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    case[INTERACTS].rating = torch.ones(275)
    with pytest.raises(ValueError, match=r"each pair of user and item once .* 50 repeats"):
        most_similar_items(case, score="pearson", min_common=1)


def test_equal_ratings_have_no_score(case):
    # in double precision the mean of three 0.1 is not 0.1
    case[INTERACTS].rating = torch.full((225,), 0.1, dtype=torch.float64)
    for score in ("pearson", "adjusted_cosine"):
        with pytest.raises(ValueError, match=f"two items with common users and a score .*{score}"):
            most_similar_items(case, score=score, min_common=1)


@pytest.mark.parametrize("block_paths", [1, 1 << 20])
def test_a_sample_of_items_has_the_targets_of_all(case, block_paths):
    every = most_similar_items(case, score="iuf", min_common=2)
    few = most_similar_items(
        case, score="iuf", min_common=2, eval_items=7, seed=3, block_paths=block_paths
    )
    drawn = few.pair[0].unique()
    assert drawn.numel() == 7
    inside = torch.isin(every.pair[0], drawn)
    assert torch.equal(few.pair, every.pair[:, inside])
    assert torch.equal(few.chosen, every.chosen[inside])
    assert torch.equal(few.item_degree, every.item_degree)
    other = most_similar_items(case, score="iuf", min_common=2, eval_items=7, seed=4)
    assert not torch.equal(other.pair[0].unique(), drawn)


def test_only_items_with_common_users_are_drawn(graph):
    data = graph(9, 9, [(0, 0), (0, 1), *((user, user) for user in range(2, 9))])
    for seed in range(5):
        found = most_similar_items(data, score="cosine", min_common=1, eval_items=2, seed=seed)
        assert found.pair.tolist() == [[0, 1], [1, 0]]


def test_unfit_data_are_named(case, graph):
    with pytest.raises(ValueError, match=r"none of 3 items has one with score='cosine'"):
        most_similar_items(graph(2, 3, [(0, 0), (1, 1)]), score="cosine", min_common=1)
    case[INTERACTS].rating[3] = torch.inf
    with pytest.raises(ValueError, match="'rating' needs a finite number for each of the 225"):
        most_similar_items(case, score="pearson", min_common=1)
    del case[INTERACTS].rating
    with pytest.raises(ValueError, match=r"\.rating is missing\) .* score='cosine' and score='iuf"):
        most_similar_items(case, score="adjusted_cosine", min_common=1)
