"""The table of an experiment: its cells, marks and tests, and the outcome in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from alignrec_pyg.experiments.paper import PAPER_LABEL, PaperResults
from alignrec_pyg.experiments.statistics import Comparison, Row, best_values
from alignrec_pyg.text_tables import Bold

ALPHA = 0.05
"""Level of significance, of probabilities after Holm's correction."""

_P = "p (Holm)"
_COSTS = ("epochs (best)", "seconds (CPU)", "memory MB", "parameters")
_CSV_COSTS = (
    *("epochs", "best epoch", "stopped early", "still rising", "seconds", "CPU seconds"),
    *("peak bytes", "parameters", "users"),
)
LIMITED, RISING = "+", "↑"
"""Marks of epochs: a cell was stopped by their limit; validation of one was still rising."""
_CSV_TEST = ("compared with", "p", _P)
_MB = 1e6
_LARGE = 10
_TIE = 1e-12  # means over users that differ by rounding only


@dataclass(frozen=True, kw_only=True)
class TableStyle:
    """Which parts a table has.

    Args:
        unmarked: Columns in which no value is marked as the best; ``None`` for all.
        costs: Whether there are columns of epochs, time, memory and parameters.
    """

    unmarked: tuple[str, ...] | None = ()
    costs: bool = True


def table_rows(
    table: Sequence[Row],
    comparisons: Sequence[Comparison],
    paper: PaperResults,
    style: TableStyle,
) -> list[list[str]]:
    """Header and rows as text, published values in rows of their own.

    The best value of a column is bold; with fewer than two rows that miss no seed, none is. Epochs
    have a ``+`` where a cell was stopped by their limit, and an arrow where validation of a cell
    was still rising at the end. With comparisons there is a column of probabilities after Holm's
    correction; where rows are compared in pairs it names the other row.
    """
    tests = [_P] if comparisons else []
    header = ["model", *table[0].mean, *tests, *(_COSTS if style.costs else ())]
    best = marked_values(table, style)
    lines = [header]
    for row in table:
        line = [row.label]
        for column, value in row.mean.items():
            text = _number(value)
            if row.std is not None and not math.isnan(row.std[column]):
                text += f" ± {_number(row.std[column], like=value)}"
            is_best = not row.missing and value == best.get(column)
            line.append(Bold(text) if is_best else text)
        if tests:
            line.append(_test_text(row, comparisons))
        if style.costs:
            line += [
                f"{row.epochs:.0f}{_end(row)} ({row.best_epoch:.0f})",
                f"{row.seconds:.1f} ({row.cpu_seconds:.1f})",
                "" if row.peak_bytes is None else f"{row.peak_bytes / _MB:,.0f}",
                f"{row.num_parameters:,}",
            ]
        lines.append(line)
        if row.name in paper:
            published = paper[row.name]
            values = [_number(published[m]) if m in published else "" for m in row.mean]
            empty = [""] * (len(header) - 1 - len(values))
            lines.append([f"  {PAPER_LABEL}", *values, *empty])
    return lines


def _end(row: Row) -> str:
    return ("" if row.stopped_early else LIMITED) + (RISING if row.still_rising else "")


def marked_values(table: Sequence[Row], style: TableStyle) -> dict[str, float]:
    """The best value of every column that has one marked."""
    if style.unmarked is None:
        return {}
    best = best_values(table)
    return {column: value for column, value in best.items() if column not in style.unmarked}


def csv_rows(
    table: Sequence[Row], comparisons: Sequence[Comparison], paper: PaperResults
) -> list[list[object]]:
    """Header and rows with unrounded values (``None`` where there is none), published ones last."""
    metrics = list(table[0].mean)
    spread = [f"{metric} {kind}" for metric in metrics for kind in ("mean", "std")]
    tested = _tested(comparisons)
    header = ["model", "source", "seeds", "missing seeds", *spread, *_CSV_COSTS, *_CSV_TEST]
    lines: list[list[object]] = [list(header)]
    for row in table:
        std = row.std or dict.fromkeys(metrics)
        values = [value for metric in metrics for value in (row.mean[metric], std[metric])]
        ends = [row.epochs, row.best_epoch, int(row.stopped_early), int(row.still_rising)]
        costs = [*ends, row.seconds, row.cpu_seconds, row.peak_bytes, row.num_parameters]
        test: list[object] = [None, None, None]
        if row.name in tested:
            other, found = tested[row.name]
            test = [other, found.p, found.p_holm]
        seeds = [len(row.seeds), len(row.missing)]
        lines.append([row.name, "this run", *seeds, *values, *costs, row.user.numel(), *test])
    empty = [None] * (len(_CSV_COSTS) + len(_CSV_TEST))
    for row in table:
        if row.name in paper:
            published = [value for m in metrics for value in (paper[row.name].get(m), None)]
            lines.append([row.name, PAPER_LABEL, None, None, *published, *empty])
    return lines


def outcome(table: Sequence[Row], comparisons: Sequence[Comparison]) -> str:
    """What the comparisons found, in one sentence.

    A difference is significant where its probability after Holm's correction is at most
    :data:`ALPHA`.
    """
    if not comparisons:
        return _nothing_compared(table)
    if comparisons[0].difference.num_users < 2:
        return "No difference can be tested: it takes two users with test links."
    if in_pairs(comparisons):
        return _outcome_of_pairs(comparisons)
    significant = [comparison for comparison in comparisons if comparison.p_holm <= ALPHA]
    ahead = [comparison for comparison in significant if comparison.difference.mean > 0]
    behind = [comparison for comparison in significant if comparison.difference.mean < 0]
    level = [comparison for comparison in comparisons if comparison not in significant]
    number = len(comparisons)
    parts = []
    if number > 1 and len(ahead) == number:
        all_others = "both others" if number == 2 else f"all {number} others"
        parts.append(f"significantly ahead of {all_others} ({_every_p(ahead)})")
    elif number > 1 and ahead:
        parts.append(f"significantly ahead of {len(ahead)} of the {number} others")
    elif ahead:
        parts.append(f"significantly ahead of {_with_p(ahead)}")
    if behind:
        parts.append(f"significantly behind {_with_p(behind)}")
    if number > 1 and all(comparison.p_holm > ALPHA for comparison in comparisons):
        smallest = p_text(min(comparison.p_holm for comparison in comparisons))
        parts.append(
            f"no significant difference from any of the {number} others (p at least {smallest})"
        )
    elif level:
        parts.append(f"no significant difference from {_with_p(level)}")
    return f"{_leader(table, comparisons)}: {', '.join(parts)}."


def in_pairs(comparisons: Sequence[Comparison]) -> bool:
    """Whether rows are compared in pairs, not all with one reference."""
    return len({comparison.reference for comparison in comparisons}) > 1


def p_text(p: float) -> str:
    """A probability with two digits, or with more where two hide on which side of ALPHA it is."""
    if math.isnan(p):
        return "none"
    if p < 0.001:
        return "< .001"
    digits = 2
    while float(f"{p:.{digits}g}") == ALPHA != p:
        digits += 1
    return f"{p:.{digits}g}".removeprefix("0")


def _test_text(row: Row, comparisons: Sequence[Comparison]) -> str:
    """The row's cell in the column of probabilities."""
    tested = _tested(comparisons)
    if row.name not in tested:
        return "" if row.missing or in_pairs(comparisons) else "-"
    other, comparison = tested[row.name]
    against = f" against {other}" if in_pairs(comparisons) else ""
    return f"{p_text(comparison.p_holm)}{against}"


def _tested(comparisons: Sequence[Comparison]) -> dict[str, tuple[str, Comparison]]:
    """By row, the row that it is compared with and the test.

    Of each pair that is the row that stands in no other pair: a variant, not what it varies.
    """
    if len({comparison.reference for comparison in comparisons}) == len(comparisons) > 1:
        return {comparison.reference: (comparison.other, comparison) for comparison in comparisons}
    return {comparison.other: (comparison.reference, comparison) for comparison in comparisons}


def _nothing_compared(table: Sequence[Row]) -> str:
    if len(table) == 1:
        return f"{table[0].name} is the only row: nothing to compare it with."
    complete = [row.name for row in table if not row.missing]
    return (
        "Nothing is compared: it takes a reference and another row with all their seeds (complete: "
        f"{', '.join(complete) or 'none'})."
    )


def _leader(table: Sequence[Row], comparisons: Sequence[Comparison]) -> str:
    """Subject of the outcome: whether the reference is the best, alone or with others."""
    reference, metric = comparisons[0].reference, comparisons[0].metric
    others = sum(not row.missing for row in table) - 1
    lowest = min(comparison.difference.mean for comparison in comparisons)
    if len(comparisons) < others:  # some rows are not compared
        return f"{reference} on {metric}"
    if lowest < -_TIE:
        return f"{reference} is not the best on {metric}"
    ties = [c.other for c in comparisons if c.difference.mean <= _TIE]
    if ties:
        return f"{_listed([reference, *ties])} are best on {metric} with equal means; {reference}"
    return f"{reference} is best on {metric}"


def _outcome_of_pairs(comparisons: Sequence[Comparison]) -> str:
    different = [c for c in comparisons if c.p_holm <= ALPHA]
    level = [c for c in comparisons if c not in different]
    texts = []
    for comparison in different:
        first, second = comparison.reference, comparison.other
        if comparison.difference.mean < 0:
            first, second = second, first
        texts.append(f"{first} ahead of {second} ({_p_equals(comparison)})")
    text = f"On {comparisons[0].metric}, {len(different)} of {len(comparisons)} pairs differ "
    text += f"significantly: {_listed(texts)}" if texts else "significantly"
    if level:
        pairs = [f"{c.reference} and {c.other} ({_p_equals(c)})" for c in level]
        text += f"; no significant difference between {'; '.join(pairs)}"
    return f"{text}."


def _with_p(comparisons: Sequence[Comparison]) -> str:
    return _listed([f"{c.other} ({_p_equals(c)})" for c in comparisons])


def _p_equals(comparison: Comparison) -> str:
    if math.isnan(comparison.p_holm):
        return "equal for every user"
    text = p_text(comparison.p_holm)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _every_p(comparisons: Sequence[Comparison]) -> str:
    largest = p_text(max(comparison.p_holm for comparison in comparisons))
    return f"all p {largest}" if largest.startswith("<") else f"p at most {largest}"


def _listed(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _number(value: float, like: float | None = None) -> str:
    """Four digits behind the point, one for values of 10 and more."""
    return f"{value:.1f}" if abs(value if like is None else like) >= _LARGE else f"{value:.4f}"
