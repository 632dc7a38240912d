import math
from dataclasses import replace

import pytest
import torch

from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.experiments.summary import (
    Measurement,
    best_values,
    compare_pairs,
    compare_rows,
    of_test_links,
    rows,
)


def cell(row, seed, recall, *, users=None, epochs=10, limit=False, peak=1000, value=None):
    """A cell whose users have the recalls of the same length: hits at the rank's first place."""
    values = torch.tensor(recall)
    mean = values.double().mean().item() if value is None else value
    result = CellResult(
        row=row,
        model=row,
        seed=seed,
        key="k",
        settings={"model": row},
        metrics=dict.fromkeys(METRICS, mean),
        val_metrics={},
        best_epoch=4,
        num_epochs=epochs,
        stopped_early=not limit,
        seconds=2.0 * epochs,
        peak_bytes=peak,
        content_bytes=5,
        num_parameters=7,
        rankings={},
        origin=Origin(commit=None, hardware="", versions={}),
    )
    user = torch.arange(values.numel()) if users is None else torch.tensor(users)
    MEASURED[id(result)] = Measurement(result.metrics, user, values)
    KEPT.append(result)
    return result


MEASURED, KEPT = {}, []


def measure(result):
    return MEASURED[id(result)]


def test_rows_average_over_seeds():
    table = rows(
        [
            cell("A", 0, [0.0, 1.0], epochs=10, peak=5, value=0.1),
            cell("B", 0, [1.0, 1.0]),
            cell("A", 1, [0.5, 0.0], epochs=20, peak=9, value=0.4, limit=True),
        ],
        [0, 1],
        measure,
    )
    a, b = table
    assert (a.name, b.name) == ("A", "B")
    assert a.mean["ndcg@10"] == pytest.approx(0.25)
    assert a.std["ndcg@10"] == pytest.approx(0.3 / math.sqrt(2))  # divisor n - 1
    assert b.std is None
    assert a.user_value.tolist() == [0.25, 0.5]
    assert (a.epochs, a.seconds, a.peak_bytes, a.seeds) == (15, 30, 9, (0, 1))
    assert not a.stopped_early
    assert b.stopped_early
    assert (a.missing, b.missing) == ((), (1,))
    assert (a.label, b.label) == ("A", "B (1/2 seeds)")


def test_the_best_row_is_compared_with_every_other():
    best = [[0.9, 0.5, 0.4, 1.0, 0.3], [0.7, 0.5, 0.6, 0.8, 0.1]]
    second = [[0.5, 0.5, 0.1, 0.9, 0.4], [0.5, 0.1, 0.3, 0.9, 0.2]]
    table = rows(
        [cell("worst", seed, [0.0] * 5) for seed in (0, 1)]
        + [cell("second", seed, recall) for seed, recall in enumerate(second)]
        + [cell("best", seed, recall) for seed, recall in enumerate(best)],
        [0, 1],
        measure,
    )
    worst, other = compare_rows(table)
    assert [(c.reference, c.other) for c in (worst, other)] == [
        ("best", "worst"),
        ("best", "second"),
    ]
    difference = [0.8 - 0.5, 0.5 - 0.3, 0.5 - 0.2, 0.9 - 0.9, 0.2 - 0.3]
    mean = sum(difference) / 5
    deviation = math.sqrt(sum((d - mean) ** 2 for d in difference) / 4)
    t = mean / (deviation / math.sqrt(5))
    # two tails of Student's t with 4 degrees of freedom, in closed form
    x = t / math.sqrt(t * t + 4)
    p = 1 - x * (1 + (1 - x * x) / 2)
    assert other.difference.mean == pytest.approx(mean)
    assert other.t == pytest.approx(t)
    assert other.p == pytest.approx(p)
    assert other.p_holm == pytest.approx(max(p, 2 * worst.p))
    assert other.num_seeds == (2, 2)
    named = compare_rows(table, "second")
    assert [(c.reference, c.other) for c in named] == [("second", "worst"), ("second", "best")]
    assert named[1].difference.mean == pytest.approx(-mean)


def test_pairs_are_one_family():
    table = rows(
        [
            cell("A", 0, [0.9, 0.1, 0.5]),
            cell("A + x", 0, [1.0, 0.5, 0.6]),
            cell("B", 0, [0.2, 0.1, 0.4]),
            cell("B + x", 0, [0.3, 0.4, 0.2]),
        ],
        [0],
        measure,
    )
    first, second = compare_pairs(table, [("A + x", "A"), ("B + x", "B"), ("C + x", "C")])
    assert (first.reference, first.other) == ("A + x", "A")
    assert first.difference.mean == pytest.approx(0.2)
    assert (first.num_comparisons, second.num_comparisons) == (2, 2)
    assert first.p_holm == pytest.approx(min(1, 2 * min(first.p, second.p)))
    assert second.p_holm == pytest.approx(max(first.p_holm, second.p))


def test_columns_without_seeds_have_no_spread():
    def seedless(result):
        return measure(result)._replace(seedless=("ndcg@20",))

    cells = [cell("A", seed, [0.5, 0.4], value=0.1 * seed) for seed in (0, 1)]
    (row,) = rows(cells, [0, 1], seedless)
    assert math.isnan(row.std["ndcg@20"])
    assert row.std["ndcg@10"] == pytest.approx(0.1 / math.sqrt(2))


def test_comparison_needs_two_rows():
    assert compare_rows([]) == []
    assert compare_rows(rows([cell("A", 0, [1.0, 0.0])], [0], measure)) == []


def test_comparison_needs_the_same_users():
    table = rows([cell("A", 0, [1.0, 0.0]), cell("B", 0, [1.0, 0.0], users=[0, 2])], [0], measure)
    with pytest.raises(ValueError, match="same users"):
        compare_rows(table)


def test_rows_with_missing_seeds_do_not_compete():
    cells = [cell("lucky", 1, [1.0, 1.0])]
    cells += [cell("A", seed, [0.5, 0.4]) for seed in (0, 1)]
    assert best_values(rows(cells, [0, 1], measure)) == {}  # A alone is not the best of anything
    assert compare_rows(rows(cells, [0, 1], measure)) == []
    cells += [cell("B", seed, [0.5, 0.2]) for seed in (0, 1)]
    table = rows(cells, [0, 1], measure)
    assert [row.label for row in table] == ["lucky (1/2 seeds)", "A", "B"]
    assert best_values(table)["recall@20"] == pytest.approx(0.45)
    (comparison,) = compare_rows(table)
    assert (comparison.reference, comparison.other) == ("A", "B")
    assert compare_rows(table, "lucky") == []


def test_test_links_are_measured_from_the_stored_ranking():
    links = torch.tensor([[0, 0, 3], [5, 6, 2]])
    ranking = Ranking(torch.tensor([0, 3]), torch.tensor([[6, 1], [4, 0]]).int())
    # 50 items each, of which only the first two matter here
    padded = Ranking(ranking.user, torch.cat([ranking.item, torch.full((2, 48), 9).int()], dim=1))
    result = replace(cell("A", 0, [0.0, 0.0]), rankings={"test": padded})
    found = of_test_links(links)(result)
    assert found.user.tolist() == [0, 3]
    assert found.user_value.tolist() == [0.5, 0.0]
    assert found.values == result.metrics


def test_a_single_row_is_not_the_best():
    assert best_values(rows([cell("A", 0, [1.0, 0.0])], [0], measure)) == {}
