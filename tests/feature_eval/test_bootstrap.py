import numpy as np
import pytest
import torch

from alignrec_pyg.feature_eval import bootstrap as module
from alignrec_pyg.feature_eval.bootstrap import bootstrap_difference, bootstrap_interval
from alignrec_pyg.feature_eval.recall import FeatureRecall


def recall(query, rank):
    return FeatureRecall(
        ks=(1, 2),
        query=torch.tensor(query),
        row=torch.arange(len(query)),
        rank=torch.tensor(rank),
        popularity_rank=torch.tensor(rank),
        num_candidates=torch.full((len(query),), 9),
        num_unranked=0,
    )


@pytest.mark.parametrize("kind", ["hits", "shares", "distinct"])
def test_interval_is_that_of_resampling_one_by_one(kind):
    generator = np.random.default_rng(0)
    values = {
        "hits": (generator.random(300) < 0.2).astype(float),
        "shares": generator.choice([0, 1 / 3, 1 / 2, 1], 300),
        "distinct": generator.lognormal(size=300),
    }[kind]
    drawn = values[generator.integers(300, size=(20_000, 300))].mean(axis=1)
    low, high = np.quantile(drawn, [0.05, 0.95])
    found = bootstrap_interval(torch.from_numpy(values), confidence=0.9, num_resamples=20_000)
    error = 0.05 * (high - low)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(low, abs=error)
    assert found.high == pytest.approx(high, abs=error)
    assert (found.confidence, found.num_values, found.share_positive) == (0.9, 300, 1.0)


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for number in range(400):
        values = (torch.rand(400, generator=generator) < 0.3).double()
        found = bootstrap_interval(values, confidence=0.8, num_resamples=500, seed=number)
        covered += found.low <= 0.3 <= found.high
    assert 0.74 < covered / 400 < 0.86


def test_the_seed_decides_the_draws_and_blocks_do_not_matter_to_the_size(monkeypatch):
    values = torch.rand(200, generator=torch.Generator().manual_seed(0))
    first = bootstrap_interval(values, num_resamples=1000)
    assert bootstrap_interval(values, num_resamples=1000) == first
    assert bootstrap_interval(values, num_resamples=1000, seed=1) != first
    monkeypatch.setattr(module, "_BLOCK_COUNTS", 700)  # three resamples
    blocked = bootstrap_interval(values, num_resamples=1000)
    assert blocked == first


def test_a_single_value_has_no_spread():
    found = bootstrap_interval(torch.tensor([0.0, 0.0]))
    assert (found.mean, found.low, found.high, found.share_positive) == (0, 0, 0, 0)


def test_difference_is_paired():
    query = list(range(40))
    first = recall(query, [0] * 20 + [1] * 20)
    second = recall(query, [0] * 10 + [1] * 30)
    found = bootstrap_difference(first, second, 1)
    assert found == bootstrap_interval(torch.tensor([0.0] * 10 + [1.0] * 10 + [0.0] * 20))
    assert found.mean == 0.25
    assert 0 < found.low < 0.25 < found.high
    assert bootstrap_difference(second, first, 1).mean == -0.25
    assert bootstrap_difference(second, first, 1).share_positive == 0
    assert bootstrap_difference(first, second, 2).mean == 0
    with pytest.raises(ValueError, match=r"same queries \(got 40 and 39\)"):
        bootstrap_difference(first, recall(query[1:], [0] * 39), 1)


def test_wrong_arguments_are_named():
    values = torch.ones(3)
    for broken in (torch.ones(0), torch.ones(2, 2), torch.tensor([1.0, torch.nan])):
        with pytest.raises(ValueError, match="'values' needs finite numbers, one per query"):
            bootstrap_interval(broken)
    for confidence in (0, 1, 95):
        with pytest.raises(ValueError, match=f"'confidence' .*got {confidence}"):
            bootstrap_interval(values, confidence=confidence)
    with pytest.raises(ValueError, match=r"'num_resamples' needs to be 1 or more \(got 0\)"):
        bootstrap_interval(values, num_resamples=0)
