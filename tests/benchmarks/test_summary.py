import math

import pytest
import torch

from alignrec_pyg.evaluate import UserMetrics
from benchmarks.cells import CellResult
from benchmarks.provenance import Origin
from benchmarks.runner import METRICS
from benchmarks.summary import best_values, paired_test, rows


def cell(row, seed, recall, *, users=None, epochs=10, limit=False, peak=1000, value=None):
    recall = torch.tensor(recall)
    users = torch.arange(recall.numel()) if users is None else torch.tensor(users)
    mean = recall.double().mean().item() if value is None else value
    return CellResult(
        row=row,
        model=row,
        seed=seed,
        key="k",
        settings={},
        metrics=dict.fromkeys(METRICS, mean),
        val_metrics={},
        best_epoch=4,
        num_epochs=epochs,
        stopped_early=not limit,
        seconds=2.0 * epochs,
        peak_bytes=peak,
        num_parameters=7,
        users=UserMetrics(users, recall, recall),
        origin=Origin(commit=None, hardware="", versions={}),
    )


def test_rows_average_over_seeds():
    table = rows(
        [
            cell("A", 0, [0.0, 1.0], epochs=10, peak=5, value=0.1),
            cell("B", 0, [1.0, 1.0]),
            cell("A", 1, [0.5, 0.0], epochs=20, peak=9, value=0.4, limit=True),
        ],
        seeds=[0, 1],
    )
    a, b = table
    assert (a.name, b.name) == ("A", "B")
    assert a.mean["ndcg@10"] == pytest.approx(0.25)
    assert a.std["ndcg@10"] == pytest.approx(0.3 / math.sqrt(2))  # divisor n - 1
    assert b.std is None
    assert a.user_recall.tolist() == [0.25, 0.5]
    assert (a.epochs, a.seconds, a.peak_bytes, a.seeds) == (15, 30, 9, (0, 1))
    assert not a.stopped_early
    assert b.stopped_early
    assert (a.missing, b.missing) == ((), (1,))
    assert (a.label, b.label) == ("A", "B (1/2 seeds)")


def test_paired_test_is_that_of_the_textbook():
    best = [[0.9, 0.5, 0.4, 1.0, 0.3], [0.7, 0.5, 0.6, 0.8, 0.1]]
    second = [[0.5, 0.5, 0.1, 0.9, 0.4], [0.5, 0.1, 0.3, 0.9, 0.2]]
    table = rows(
        [cell("worst", seed, [0.0] * 5) for seed in (0, 1)]
        + [cell("second", seed, recall) for seed, recall in enumerate(second)]
        + [cell("best", seed, recall) for seed, recall in enumerate(best)],
        seeds=[0, 1],
    )
    test = paired_test(table)
    difference = [0.8 - 0.5, 0.5 - 0.3, 0.5 - 0.2, 0.9 - 0.9, 0.2 - 0.3]
    mean = sum(difference) / 5
    deviation = math.sqrt(sum((d - mean) ** 2 for d in difference) / 4)
    t = mean / (deviation / math.sqrt(5))
    # two tails of Student's t with 4 degrees of freedom, in closed form
    x = t / math.sqrt(t * t + 4)
    p = 1 - x * (1 + (1 - x * x) / 2)
    assert (test.best, test.second, test.num_users) == ("best", "second", 5)
    assert test.difference == pytest.approx(mean)
    assert test.t == pytest.approx(t)
    assert test.p == pytest.approx(p)
    assert "(two-sided paired t-test over 5 users, each with the mean over seeds)" in str(test)


def test_paired_test_needs_two_rows():
    assert paired_test([]) is None
    assert paired_test(rows([cell("A", 0, [1.0, 0.0])], [0])) is None


def test_paired_test_without_any_difference_has_no_p():
    test = paired_test(rows([cell("A", 0, [1.0, 0.0]), cell("B", 0, [1.0, 0.0])], [0]))
    assert math.isnan(test.p)
    assert test.difference == 0
    assert str(test).endswith("(two-sided paired t-test over 2 users)")  # one seed: no mean


def test_paired_test_needs_the_same_users():
    table = rows([cell("A", 0, [1.0, 0.0]), cell("B", 0, [1.0, 0.0], users=[0, 2])], [0])
    with pytest.raises(ValueError, match="same users"):
        paired_test(table)


def test_rows_with_missing_seeds_do_not_compete():
    cells = [cell("lucky", 1, [1.0, 1.0])]
    cells += [cell("A", seed, [0.5, 0.4]) for seed in (0, 1)]
    assert best_values(rows(cells, [0, 1])) == {}  # A alone is not the best of anything
    assert paired_test(rows(cells, [0, 1])) is None
    cells += [cell("B", seed, [0.5, 0.2]) for seed in (0, 1)]
    table = rows(cells, [0, 1])
    assert [row.label for row in table] == ["lucky (1/2 seeds)", "A", "B"]
    assert best_values(table)["recall@20"] == pytest.approx(0.45)
    test = paired_test(table)
    assert (test.best, test.second, test.num_seeds) == ("A", "B", 2)


def test_a_single_row_is_not_the_best():
    assert best_values(rows([cell("A", 0, [1.0, 0.0])], [0])) == {}
