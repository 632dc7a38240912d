import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from alignrec_pyg.experiments.statistics import UserValues, compare_to, holm, mean_interval


def row(name, value, *, users=None, num_seeds=1):
    value = torch.tensor(value, dtype=torch.float64)
    users = torch.arange(value.numel()) if users is None else torch.tensor(users)
    return UserValues(name=name, user=users, value=value, num_seeds=num_seeds)


def random_values(count, seed):
    return np.random.default_rng(seed).random(count).tolist()


def test_test_and_interval_are_those_of_scipy():
    best, others = random_values(40, 0), [random_values(40, seed) for seed in (1, 2)]
    rows = [row(f"other {number}", values) for number, values in enumerate(others)]
    for confidence in (0.9, 0.95):
        compared = compare_to(row("best", best), rows, metric="m", confidence=confidence)
        for result, values in zip(compared, others, strict=True):
            expected = ttest_rel(best, values)
            interval = expected.confidence_interval(confidence)
            assert result.t == pytest.approx(expected.statistic)
            assert result.p == pytest.approx(expected.pvalue)
            assert result.difference.mean == pytest.approx(np.mean(best) - np.mean(values))
            assert result.difference.low == pytest.approx(interval.low)
            assert result.difference.high == pytest.approx(interval.high)
            assert result.difference.num_users == 40
    assert [result.other for result in compared] == ["other 0", "other 1"]
    assert [result.p_holm for result in compared] == holm([result.p for result in compared])


def test_paired_test_is_that_of_the_textbook():
    best, other = [0.8, 0.5, 0.5, 0.9, 0.2], [0.5, 0.3, 0.2, 0.9, 0.3]
    (result,) = compare_to(row("a", best), [row("b", other)], metric="m")
    difference = [0.3, 0.2, 0.3, 0.0, -0.1]
    mean = sum(difference) / 5
    deviation = math.sqrt(sum((d - mean) ** 2 for d in difference) / 4)
    t = mean / (deviation / math.sqrt(5))
    # two tails of Student's t with 4 degrees of freedom, in closed form
    x = t / math.sqrt(t * t + 4)
    assert result.t == pytest.approx(t)
    assert result.p == pytest.approx(1 - x * (1 + (1 - x * x) / 2))
    assert result.p_holm == result.p  # a family of one
    half = 2.776445 * deviation / math.sqrt(5)  # from the table
    assert result.difference.low == pytest.approx(mean - half)
    assert result.difference.high == pytest.approx(mean + half)


def test_the_other_way_round_changes_signs_only():
    a, b = row("a", random_values(9, 0)), row("b", random_values(9, 1))
    (one,), (two,) = compare_to(a, [b], metric="m"), compare_to(b, [a], metric="m")
    assert two.p == pytest.approx(one.p)
    assert two.t == pytest.approx(-one.t)
    assert two.difference.low == pytest.approx(-one.difference.high)


def test_equal_rows_have_no_p_and_count_in_the_family():
    a = row("a", [0.1, 0.5, 0.9])
    b = row("b", [0.0, 0.3, 0.8])
    same, other = compare_to(a, [row("same", [0.1, 0.5, 0.9]), b], metric="m")
    assert math.isnan(same.t)
    assert math.isnan(same.p)
    assert math.isnan(same.p_holm)
    assert (same.difference.mean, same.difference.low, same.difference.high) == (0, 0, 0)
    assert other.p_holm == pytest.approx(2 * other.p)


def test_a_constant_difference_is_certain():
    (result,) = compare_to(row("a", [0.5, 1.0]), [row("b", [0.0, 0.5])], metric="m")
    assert (result.t, result.p, result.p_holm) == (math.inf, 0, 0)
    assert (result.difference.low, result.difference.high) == (0.5, 0.5)


def test_one_user_is_no_sample():
    (result,) = compare_to(row("a", [0.5]), [row("b", [0.0])], metric="m")
    assert result.difference.mean == 0.5
    for value in (result.t, result.p, result.p_holm, result.difference.low, result.difference.high):
        assert math.isnan(value)


def test_nothing_to_compare_with():
    assert compare_to(row("a", [0.5, 0.1]), [], metric="m") == []


def test_rows_need_the_same_users():
    a, b = row("A", [1.0, 0.0]), row("B", [1.0, 0.0], users=[0, 2])
    with pytest.raises(ValueError, match="A and B need to be scored on the same users"):
        compare_to(a, [b], metric="m")
    with pytest.raises(ValueError, match="same users"):
        compare_to(a, [row("B", [1.0])], metric="m")


def test_lines_say_what_was_tested():
    a = row("A", [0.5, 0.25, 0.0, 1.0], num_seeds=3)
    b = row("B", [0.25, 0.25, 0.0, 0.75], num_seeds=3)
    (one,) = compare_to(a, [b], metric="recall@20")
    assert str(one) == (
        "A against B: recall@20 +0.1250 per user (95% interval -0.1047 to +0.3547), t = 1.73, "
        "p = 0.18 (two-sided paired t-test over 4 users, each with the mean over 3 seeds)"
    )
    single = row("C", [0.25, 0.25, 0.0, 0.0])
    two = compare_to(a, [b, single], metric="recall@20")
    assert "p = 0.18, p = 0.36 after Holm's correction for 2 (two-sided" in str(two[0])
    assert str(two[1]).endswith("over 4 users, each with the mean over 3 and 1 seeds)")
    (plain,) = compare_to(single, [row("D", [0.0] * 4)], metric="ndcg@20")
    assert str(plain).endswith("(two-sided paired t-test over 4 users)")


def test_holm_by_hand():
    # sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, .04; the last may not fall
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    corrected = holm([math.nan, 0.01, 0.02])
    assert math.isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.03, 0.04])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_steps_down(p):
    corrected = holm(p)
    order = sorted(range(len(p)), key=lambda n: p[n])
    assert [corrected[n] for n in order] == sorted(corrected)  # keeps the order
    assert all(a <= b <= min(1.0, len(p) * a) or a == b for a, b in zip(p, corrected, strict=True))
    for alpha in (0.01, 0.05, 0.5):
        rejected = set()  # the procedure itself: stop at the first that is not small enough
        for step, n in enumerate(order):
            if min(1.0, (len(p) - step) * p[n]) > alpha:
                break
            rejected.add(n)
        assert {n for n, value in enumerate(corrected) if value <= alpha} == rejected


def test_interval_of_a_mean_is_that_of_scipy():
    values = random_values(25, 3)
    for confidence in (0.8, 0.95):
        interval = mean_interval(torch.tensor(values), confidence=confidence)
        expected = ttest_1samp(values, 0).confidence_interval(confidence)
        assert interval.mean == pytest.approx(np.mean(values))
        assert interval.low == pytest.approx(expected.low)
        assert interval.high == pytest.approx(expected.high)
        assert interval.num_users == 25
    assert str(mean_interval(torch.tensor([0.1, 0.2, 0.3]))) == (
        "0.2000 [-0.0484, 0.4484] (95% over 3 users)"
    )


def test_interval_needs_two_users():
    constant = mean_interval(torch.tensor([0.5, 0.5]))
    assert (constant.low, constant.mean, constant.high) == (0.5, 0.5, 0.5)
    one = mean_interval(torch.tensor([0.5]))
    assert one.mean == 0.5
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = mean_interval(torch.tensor([]))
    assert none.num_users == 0
    assert math.isnan(none.mean)
    for confidence in (0, 1, 95, math.nan):
        with pytest.raises(ValueError, match=r"'confidence' needs to be in \(0, 1\)"):
            mean_interval(torch.tensor([0.5, 0.1]), confidence=confidence)
