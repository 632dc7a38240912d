import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.statistics import (
    Measurement,
    best_first,
    best_values,
    compare_pairs,
    compare_rows,
    holm,
    mean_interval,
    of_test_links,
    summarize,
)
from alignrec_pyg.experiments.store import CellResult


def random_values(count, seed):
    return np.random.default_rng(seed).random(count).tolist()


def cell(row, seed, value, *, epochs=10, limit=False, peak=1000):
    return CellResult(
        row=row,
        model=row,
        seed=seed,
        key="k",
        settings={"model": row},
        metrics=dict.fromkeys(METRICS, value),
        val_metrics={},
        best_epoch=4,
        num_epochs=epochs,
        stopped_early=not limit,
        still_rising=False,
        seconds=2.0 * epochs,
        cpu_seconds=3.0 * epochs,
        peak_bytes=peak,
        content_bytes=5,
        num_parameters=7,
        rankings={},
        history=[],
        origin=Origin(commit=None, hardware="", versions={}),
    )


def measure(result):
    """Of two users one has the cell's value, the other 1."""
    value = result.metrics["recall@20"]
    return Measurement(result.metrics, torch.arange(2), torch.tensor([value, 1.0]))


def test_rows_average_over_seeds():
    results = [
        cell("A", 0, 0.1, epochs=10, peak=5),
        cell("B", 0, 1.0),
        cell("A", 1, 0.4, epochs=20, peak=9, limit=True),
    ]
    a, b = summarize(results, [0, 1], measure)
    assert (a.name, b.name) == ("A", "B")
    assert a.mean["ndcg@10"] == pytest.approx(0.25)
    assert a.std["ndcg@10"] == pytest.approx(0.3 / math.sqrt(2))  # divisor n - 1
    assert b.std is None
    assert a.user_value.tolist() == pytest.approx([0.25, 1.0])
    assert a.compared_mean == pytest.approx(0.625)
    assert (a.epochs, a.seconds, a.peak_bytes, a.seeds) == (15, 30, 9, (0, 1))
    assert a.cpu_seconds == 45
    assert not a.stopped_early
    assert b.stopped_early
    rising = [replace(results[0], still_rising=True), results[2]]
    assert [row.still_rising for row in summarize(rising, [0, 1], measure)] == [True]
    assert (a.still_rising, b.still_rising) == (False, False)
    assert (a.missing, b.missing) == ((), (1,))
    assert (a.label, b.label) == ("A", "B (1/2 seeds)")
    assert a.compared == "recall@20"


def test_columns_without_seeds_have_no_standard_deviation():
    def seedless(result):
        return measure(result)._replace(seedless=("ndcg@20",), compared="cold recall")

    (row,) = summarize([cell("A", seed, 0.1 * seed) for seed in (0, 1)], [0, 1], seedless)
    assert math.isnan(row.std["ndcg@20"])
    assert row.std["ndcg@10"] == pytest.approx(0.1 / math.sqrt(2))
    assert row.compared == "cold recall"


def test_test_links_are_measured_from_the_stored_ranking():
    links = torch.tensor([[0, 0, 3], [5, 6, 2]])
    ranking = Ranking(torch.tensor([0, 3]), torch.tensor([[6, 1], [4, 0]]).int())
    # 50 items each, of which only the first two matter here
    padded = Ranking(ranking.user, torch.cat([ranking.item, torch.full((2, 48), 9).int()], dim=1))
    result = replace(cell("A", 0, 0.0), rankings={"test": padded})
    found = of_test_links(links)(result)
    assert found.user.tolist() == [0, 3]
    assert found.user_value.tolist() == [0.5, 0.0]
    assert found.values == result.metrics


def test_the_best_row_is_first_and_rows_without_all_seeds_are_last(make_row):
    low, high = make_row("low", users=[0.1, 0.2]), make_row("high", users=[0.5, 0.2])
    same = make_row("same", users=[0.2, 0.5])
    lucky = make_row("lucky", users=[1.0, 1.0], missing=(1,))
    ordered = best_first([lucky, low, high, same])
    assert [row.name for row in ordered] == ["high", "same", "low", "lucky"]


def test_best_values_are_those_of_complete_rows(make_row):
    table = [make_row("A", 0.5), make_row("lucky", 1.0, missing=(1,))]
    assert best_values(table) == {}  # alone, A is not the best of anything
    assert best_values([*table, make_row("B", 0.4)]) == dict.fromkeys(METRICS, 0.5)


def test_test_and_interval_are_those_of_scipy(make_row):
    best, others = random_values(40, 0), [random_values(40, seed) for seed in (1, 2)]
    rows = [make_row(f"other {number}", users=values) for number, values in enumerate(others)]
    compared = compare_rows([make_row("best", users=best), *rows], "best")
    for result, values in zip(compared, others, strict=True):
        expected = ttest_rel(best, values)
        interval = expected.confidence_interval(0.95)
        assert result.t == pytest.approx(expected.statistic)
        assert result.p == pytest.approx(expected.pvalue)
        assert result.difference.mean == pytest.approx(np.mean(best) - np.mean(values))
        assert result.difference.low == pytest.approx(interval.low)
        assert result.difference.high == pytest.approx(interval.high)
        assert result.difference.num_users == 40
    assert [result.other for result in compared] == ["other 0", "other 1"]
    assert [result.p_holm for result in compared] == holm([result.p for result in compared])
    assert [result.num_comparisons for result in compared] == [2, 2]


def test_paired_test_is_that_of_the_textbook(make_row):
    table = [
        make_row("b", users=[0.5, 0.3, 0.2, 0.9, 0.3]),
        make_row("a", 0.1, 0.01, users=[0.8, 0.5, 0.5, 0.9, 0.2], compared="recall@5"),
    ]
    (result,) = compare_rows(table)
    assert (result.reference, result.other, result.metric) == ("a", "b", "recall@5")
    assert result.num_seeds == (2, 1)
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
    (named,) = compare_rows(table, "b")
    assert (named.reference, named.other) == ("b", "a")
    assert named.p == pytest.approx(result.p)
    assert named.t == pytest.approx(-t)
    assert named.difference.low == pytest.approx(-result.difference.high)


def test_equal_rows_have_no_p_and_count_in_the_family(make_row):
    table = [
        make_row("a", users=[0.1, 0.5, 0.9]),
        make_row("same", users=[0.1, 0.5, 0.9]),
        make_row("b", users=[0.0, 0.3, 0.8]),
    ]
    same, other = compare_rows(table)
    for value in (same.t, same.p, same.p_holm):
        assert math.isnan(value)
    assert (same.difference.mean, same.difference.low, same.difference.high) == (0, 0, 0)
    assert other.p_holm == pytest.approx(2 * other.p)


def test_a_constant_difference_is_certain(make_row):
    table = [make_row("a", users=[0.5, 1.0]), make_row("b", users=[0.0, 0.5])]
    (result,) = compare_rows(table)
    assert (result.t, result.p, result.p_holm) == (math.inf, 0, 0)
    assert (result.difference.low, result.difference.high) == (0.5, 0.5)


def test_one_user_is_no_sample(make_row):
    (result,) = compare_rows([make_row("a", users=[0.5]), make_row("b", users=[0.0])])
    assert result.difference.mean == 0.5
    for value in (result.t, result.p, result.p_holm, result.difference.low, result.difference.high):
        assert math.isnan(value)


def test_rows_with_missing_seeds_are_not_compared(make_row):
    table = [make_row("lucky", users=[1.0, 1.0], missing=(0,)), make_row("A", users=[0.5, 0.4])]
    assert compare_rows([]) == []
    assert compare_rows(table) == []
    table.append(make_row("B", users=[0.5, 0.2]))
    (comparison,) = compare_rows(table)
    assert (comparison.reference, comparison.other) == ("A", "B")
    assert compare_rows(table, "lucky") == []
    assert compare_pairs(table, [("A", "lucky"), ("lucky", "B")]) == []


def test_pairs_are_one_family(make_row):
    table = [
        make_row("A", users=[0.9, 0.1, 0.5]),
        make_row("A + x", users=[1.0, 0.5, 0.6]),
        make_row("B", users=[0.2, 0.1, 0.4]),
        make_row("B + x", users=[0.3, 0.4, 0.2]),
    ]
    first, second = compare_pairs(table, [("A + x", "A"), ("B + x", "B"), ("C + x", "C")])
    assert (first.reference, first.other) == ("A + x", "A")
    assert first.difference.mean == pytest.approx(0.2)
    assert (first.num_comparisons, second.num_comparisons) == (2, 2)
    assert first.p_holm == pytest.approx(min(1, 2 * min(first.p, second.p)))
    assert second.p_holm == pytest.approx(max(first.p_holm, second.p))


def test_rows_need_the_same_users(make_row):
    a = make_row("A", users=[1.0, 0.0])
    with pytest.raises(ValueError, match="A and B need to be scored on the same users"):
        compare_rows([a, make_row("B", users=[1.0, 0.0], user=[0, 2])])
    with pytest.raises(ValueError, match="same users"):
        compare_rows([a, make_row("B", users=[0.5])])


def test_lines_say_what_was_tested(make_row):
    a = make_row("A", users=[0.5, 0.25, 0.0, 1.0], seeds=(0, 1, 2))
    b = make_row("B", users=[0.25, 0.25, 0.0, 0.75], seeds=(0, 1, 2))
    (one,) = compare_rows([a, b])
    assert str(one) == (
        "A against B: recall@20 +0.1250 per user (95% interval -0.1047 to +0.3547), t = 1.73, "
        "p = 0.18 (two-sided paired t-test over 4 users, each with the mean over 3 seeds)"
    )
    single = make_row("C", users=[0.25, 0.25, 0.0, 0.0])
    two = compare_rows([a, b, single])
    assert "p = 0.18, p = 0.36 after Holm's correction for 2 (two-sided" in str(two[0])
    assert str(two[1]).endswith("over 4 users, each with the mean over 3 and 1 seeds)")
    (plain,) = compare_rows([single, make_row("D", users=[0.0] * 4)])
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
        assert (interval.num_users, interval.confidence) == (25, confidence)


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
