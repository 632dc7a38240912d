import csv
import io
import math
from dataclasses import replace

import pytest

from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.paper import PAPER_LABEL
from alignrec_pyg.experiments.result_table import (
    TableStyle,
    csv_rows,
    in_pairs,
    outcome,
    p_text,
    table_rows,
)
from alignrec_pyg.experiments.statistics import (
    Comparison,
    MeanInterval,
    compare_pairs,
    compare_rows,
)
from alignrec_pyg.text_tables import Bold, csv_table

PAPER = {"BPR": dict(zip(METRICS, (0.0357, 0.0575, 0.0192, 0.0249), strict=True))}
PLAIN = TableStyle(costs=False)


@pytest.fixture
def table(make_row):
    return [
        make_row("BPR", 0.05, 0.001, peak_bytes=12_345_678),
        make_row("Mine", 0.0612345, stopped_early=False),
    ]


def compared(reference, other, difference, p, *, num_users=100):
    interval = MeanInterval(
        mean=difference, low=math.nan, high=math.nan, confidence=0.95, num_users=num_users
    )
    return Comparison(
        reference=reference,
        other=other,
        metric="recall@20",
        difference=interval,
        t=0.0,
        p=p,
        p_holm=p,
        num_comparisons=2,
        num_seeds=(1, 1),
    )


def bold(line):
    return [cell for cell in line if isinstance(cell, Bold)]


def test_rows_with_costs_and_published_values(table):
    head, bpr, paper, mine = table_rows(table, (), PAPER, TableStyle())
    assert head == ["model", *METRICS, "epochs (best)", "seconds (CPU)", "memory MB", "parameters"]
    assert bpr == ["BPR", *["0.0500 ± 0.0010"] * 4, "12 (3)", "1.2 (1.5)", "12", "1,234"]
    assert paper == [f"  {PAPER_LABEL}", "0.0357", "0.0575", "0.0192", "0.0249", *[""] * 4]
    assert mine == ["Mine", *["0.0612"] * 4, "12+ (3)", "1.2 (1.5)", "", "1,234"]
    rising = [replace(row, still_rising=True) for row in table]
    _, bpr, _, mine = table_rows(rising, (), PAPER, TableStyle())
    assert (bpr[5], mine[5]) == ("12↑ (3)", "12+↑ (3)")
    assert (bold(bpr), bold(paper), bold(mine)) == ([], [], ["0.0612"] * 4)


def test_row_with_missing_seeds_is_marked_and_never_the_best(table, make_row):
    failed = make_row("Failed", 0.9, missing=(1, 2))
    same = make_row("Same", table[1].mean["recall@20"], missing=(1,))
    *_, mine, equal, last = table_rows([*table, same, failed], (), {}, PLAIN)
    assert last[:2] == ["Failed (1/3 seeds)", "0.9000"]
    assert (len(bold(mine)), bold(equal), bold(last)) == (4, [], [])
    assert not any(bold(line) for line in table_rows([table[0], failed], (), {}, PLAIN))
    (line,) = csv.DictReader(io.StringIO(csv_table(csv_rows([failed], (), {}))))
    assert (line["model"], line["seeds"], line["missing seeds"]) == ("Failed", "1", "2")


def test_columns_costs_and_marks_can_be_others(table):
    table = [
        replace(entry, mean={"coverage": value, "Gini": 1 - value}, std=None)
        for entry, value in zip(table, (0.25, 0.75), strict=True)
    ]
    published = {"BPR": {"Gini": 0.5}}
    lines = table_rows(table, (), published, TableStyle(unmarked=None, costs=False))
    assert lines == [
        ["model", "coverage", "Gini"],
        ["BPR", "0.2500", "0.7500"],
        [f"  {PAPER_LABEL}", "", "0.5000"],
        ["Mine", "0.7500", "0.2500"],
    ]
    assert not any(bold(line) for line in lines)
    lines = table_rows(table, (), {}, TableStyle(unmarked=("Gini",), costs=False))
    assert [bold(line) for line in lines] == [[], [], ["0.7500"]]
    paper_line = list(csv.DictReader(io.StringIO(csv_table(csv_rows(table, (), published)))))[2]
    assert (paper_line["coverage mean"], paper_line["Gini mean"]) == ("", "0.5")


def test_large_values_have_one_digit_and_equal_ones_no_standard_deviation(table):
    rows = [replace(table[0], mean={"popularity": 41.23}, std={"popularity": 0.5})]
    rows.append(replace(table[0], mean={"popularity": 3.0}, std={"popularity": math.nan}))
    assert [line[1] for line in table_rows(rows, (), {}, PLAIN)[1:]] == ["41.2 ± 0.5", "3.0000"]


def test_csv_holds_unrounded_values(table, make_row):
    comparisons = [compared("Mine", "BPR", 0.1, 0.0123456789)]
    text = csv_table(csv_rows(table, comparisons, PAPER))
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [(line["model"], line["source"]) for line in lines] == [
        ("BPR", "this run"),
        ("Mine", "this run"),
        ("BPR", PAPER_LABEL),
    ]
    assert lines[1]["recall@20 mean"] == "0.0612345"
    assert lines[1]["recall@20 std"] == lines[1]["peak bytes"] == ""
    assert lines[0]["recall@20 std"] == "0.001"
    assert (lines[0]["compared with"], lines[0]["p (Holm)"]) == ("Mine", "0.0123456789")
    assert (lines[1]["compared with"], lines[1]["p"], lines[1]["p (Holm)"]) == ("", "", "")
    assert lines[2]["recall@20 mean"] == "0.0575"
    assert all(None not in line and None not in line.values() for line in lines)


def test_p_stands_at_the_row_that_is_compared_with_the_reference(make_row):
    table = [
        make_row("best", users=[0.9, 0.8, 0.9, 0.6]),
        make_row("same", users=[0.9, 0.8, 0.9, 0.6]),
        make_row("far", users=[0.1, 0.1, 0.2, 0.0]),
        make_row("failed", users=[0.9, 0.8, 0.9, 0.6], missing=(1,)),
    ]
    comparisons = compare_rows(table)
    head, *lines = table_rows(table, comparisons, {"best": {}}, TableStyle())
    at = head.index("p (Holm)")
    assert at == len(METRICS) + 1  # beside the metrics, before the costs
    far = p_text(comparisons[1].p_holm)
    assert [line[at] for line in lines] == ["-", "", "none", far, ""]  # the second: published
    assert not in_pairs(comparisons)


def test_p_of_pairs_names_the_other_row(make_row):
    values = {"A": [0.1, 0.2, 0.3], "A + x": [0.5, 0.5, 0.7], "B": [0.2, 0.1, 0.0]}
    values["B + x"] = [0.1, 0.1, 0.1]
    table = [make_row(name, users=users) for name, users in values.items()]
    first, second = compare_pairs(table, [("A + x", "A"), ("B + x", "B")])
    lines = table_rows(table, [first, second], {}, PLAIN)
    assert [line[-1] for line in lines] == [
        "p (Holm)",
        "",
        f"{p_text(first.p_holm)} against A",
        "",
        f"{p_text(second.p_holm)} against B",
    ]
    # one row against several of its variants, for more than one: at the variants
    pairs = [("A", "A + x"), ("A", "B"), ("B", "B + x")]
    lines = table_rows(table, compare_pairs(table, pairs), {}, PLAIN)
    assert [line[-1].partition(" against ")[2] for line in lines[1:]] == ["", "A", "A", "B"]


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0, "< .001"),
        (0.000999, "< .001"),
        (0.001, ".001"),
        (0.0384, ".038"),
        (0.06, ".06"),
        (0.05, ".05"),
        (0.0496, ".0496"),  # significant, which .05 would leave open
        (0.05004, ".05004"),
        (0.123, ".12"),
        (1.0, "1"),
        (math.nan, "none"),
    ],
)
def test_probabilities_as_text(p, text):
    assert p_text(p) == text


def found(make_row, *differences, reference="A", rows=None):
    """The outcome of a reference against others, given as (name, difference, p)."""
    comparisons = [compared(reference, name, mean, p) for name, mean, p in differences]
    names = [reference, *(name for name, _, _ in differences)] if rows is None else rows
    return outcome([make_row(name) for name in names], comparisons)


def test_outcome_with_a_best_row(make_row):
    far, near = ("C", 0.2, 0.0001), ("D", 0.1, 0.06)
    assert found(make_row, far, ("B", 0.1, 0.03), near) == (
        "A is best on recall@20: significantly ahead of 2 of the 3 others, no significant "
        "difference from D (p = .06)."
    )
    assert found(make_row, far, near, ("E", 0.05, 0.4), ("F", 0.01, 0.9)) == (
        "A is best on recall@20: significantly ahead of 1 of the 4 others, no significant "
        "difference from D (p = .06), E (p = .4) and F (p = .9)."
    )
    assert found(make_row, far, ("B", 0.1, 0.03)) == (
        "A is best on recall@20: significantly ahead of both others (p at most .03)."
    )
    assert found(make_row, far, far, far).endswith("ahead of all 3 others (all p < .001).")
    assert found(make_row, near, ("E", 0.05, 0.4)) == (
        "A is best on recall@20: no significant difference from any of the 2 others (p at least "
        ".06)."
    )


def test_outcome_at_the_level_of_significance(make_row):
    assert "ahead of B (p = .05)" in found(make_row, ("B", 0.1, 0.05))
    assert "no significant difference from B (p = .05004)" in found(make_row, ("B", 0.1, 0.05004))


def test_outcome_with_one_other_row(make_row):
    assert found(make_row, ("B", 0.1, 0.0001)) == (
        "A is best on recall@20: significantly ahead of B (p < .001)."
    )
    assert found(make_row, ("B", 0.1, 0.2)) == (
        "A is best on recall@20: no significant difference from B (p = .2)."
    )


def test_outcome_with_a_reference_that_is_not_the_best(make_row):
    assert found(make_row, ("B", -0.2, 0.01), ("C", 0.2, 0.02), ("D", -0.1, 0.3)) == (
        "A is not the best on recall@20: significantly ahead of 1 of the 3 others, significantly "
        "behind B (p = .01), no significant difference from D (p = .3)."
    )


def test_outcome_with_ties(make_row):
    assert found(make_row, ("B", 0.0, 1.0), ("C", 0.2, 0.01)) == (
        "A and B are best on recall@20 with equal means; A: significantly ahead of 1 of the 2 "
        "others, no significant difference from B (p = 1)."
    )
    assert found(make_row, ("B", -1e-17, math.nan), ("C", 0.2, 0.01)) == (
        "A and B are best on recall@20 with equal means; A: significantly ahead of 1 of the 2 "
        "others, no significant difference from B (equal for every user)."
    )
    assert found(make_row, ("B", 0.0, math.nan)) == (
        "A and B are best on recall@20 with equal means; A: no significant difference from B "
        "(equal for every user)."
    )


def test_outcome_of_some_rows_calls_none_the_best(make_row):
    text = found(make_row, ("B", 0.2, 0.01), rows=["A", "B", "C"])
    assert text == "A on recall@20: significantly ahead of B (p = .01)."


def test_outcome_of_pairs(make_row):
    table = [make_row(name) for name in "ABCDEF"]
    pairs = [compared("A", "B", 0.1, 0.0001), compared("C", "D", -0.1, 0.02)]
    level = [compared("E", "F", 0.1, 0.3), compared("E", "A", 0.0, math.nan)]
    assert outcome(table, pairs) == (
        "On recall@20, 2 of 2 pairs differ significantly: A ahead of B (p < .001) and D ahead of C "
        "(p = .02)."
    )
    assert outcome(table, [*pairs, *level]) == (
        "On recall@20, 2 of 4 pairs differ significantly: A ahead of B (p < .001) and D ahead of C "
        "(p = .02); no significant difference between E and F (p = .3); E and A (equal for every "
        "user)."
    )
    assert outcome(table, [level[0], compared("C", "D", 0.1, 0.4)]) == (
        "On recall@20, 0 of 2 pairs differ significantly; no significant difference between E and "
        "F (p = .3); C and D (p = .4)."
    )


def test_outcome_without_comparisons(make_row):
    a, failed = make_row("A"), make_row("B", missing=(1,))
    assert outcome([a], []) == "A is the only row: nothing to compare it with."
    assert "all their seeds (complete: A)" in outcome([a, failed], [])
    assert "all their seeds (complete: none)" in outcome([failed, failed], [])


def test_outcome_with_one_user_tests_nothing(make_row):
    comparison = compared("A", "B", 0.5, math.nan, num_users=1)
    assert "takes two users" in outcome([make_row("A"), make_row("B")], [comparison])
