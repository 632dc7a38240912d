import itertools
import math
import statistics

import pytest
import torch

from alignrec_pyg.feature_eval.recall import FeatureRecall


def result(row, rank, num_candidates, *, any_target=False, popularity_rank=None, ks=(1, 3, 50)):
    return FeatureRecall(
        ks=ks,
        query=torch.arange(len(num_candidates)),
        row=torch.tensor(row),
        rank=torch.tensor(rank),
        popularity_rank=torch.tensor(popularity_rank or rank),
        num_candidates=torch.tensor(num_candidates),
        num_unranked=0,
        any_target=any_target,
    )


def test_recall_with_one_target_is_the_hit_rate():
    found = result([0, 1, 2, 3], [0, 2, 3, 9], [10] * 4, popularity_rank=[9, 0, 0, 0])
    assert found.num_queries == 4
    assert found.recall == {1: 0.25, 3: 0.5, 50: 1.0}
    assert found.popularity == {1: 0.75, 3: 0.75, 50: 1.0}
    assert found.random == pytest.approx({1: 0.1, 3: 0.3, 50: 1.0})
    assert found.hits(4).tolist() == [1, 1, 1, 0]
    assert found.popularity_hits(1).tolist() == [0, 1, 1, 1]
    told = "FeatureRecall(recall@1=0.2500, recall@3=0.5000, recall@50=1.0000, num_queries=4)"
    assert repr(found) == told


def test_several_targets_count_with_their_share_or_once():
    row, rank = [0, 0, 0, 1, 1], [0, 2, 5, 4, 3]
    share, any_one = result(row, rank, [9, 5]), result(row, rank, [9, 5], any_target=True)
    assert share.hits(1).tolist() == pytest.approx([1 / 3, 0])
    assert share.hits(4).tolist() == pytest.approx([2 / 3, 1 / 2])
    assert any_one.hits(1).tolist() == [1, 0]
    assert any_one.hits(4).tolist() == [1, 1]
    assert share.recall[3] == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("k", [1, 2, 4, 5, 6, 9])
def test_random_lines_are_the_mean_of_all_orders(k):
    candidates, row = [6, 5], [0, 0, 1, 1, 1]
    share = result(row, [0] * 5, candidates).random_hits(k)
    any_one = result(row, [0] * 5, candidates, any_target=True).random_hits(k)
    for number, (size, targets) in enumerate(((6, 2), (5, 3))):
        places = list(itertools.combinations(range(size), targets))
        expected = statistics.fmean(sum(p < k for p in place) / targets for place in places)
        assert float(share[number]) == pytest.approx(expected, abs=1e-12)
        expected = statistics.fmean(min(place) < k for place in places)
        assert float(any_one[number]) == pytest.approx(expected, abs=1e-9)


def test_random_lines_of_many_candidates_stay_exact():
    found = result([0] * 3, [0] * 3, [1_000_000], any_target=True)
    expected = 1 - math.prod((1_000_000 - 50 - i) / (1_000_000 - i) for i in range(3))
    assert float(found.random_hits(50)) == pytest.approx(expected, rel=1e-4)


def test_wrong_cut_offs_are_named():
    with pytest.raises(ValueError, match="'ks' needs to hold positive integers"):
        result([0], [0], [5]).hits(0)
