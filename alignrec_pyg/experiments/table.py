"""The table of an experiment as text: for the terminal, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignrec_pyg.experiments.paper import PAPER_LABEL, PaperResults
from alignrec_pyg.experiments.summary import Row, best_values

_COSTS = ("epochs (best)", "seconds", "memory MB", "parameters")
_CSV_COSTS = ("epochs", "best epoch", "seconds", "peak bytes", "parameters", "users")
_BOLD, _PLAIN = "\033[1m", "\033[0m"
_MB = 1e6
_LARGE = 10


@dataclass(frozen=True, kw_only=True)
class Look:
    """How tables show their rows.

    Args:
        unmarked: Columns in which no value is marked as the best; ``None`` for all.
        costs: Whether epochs, time, memory and parameters are shown.
    """

    unmarked: tuple[str, ...] | None = ()
    costs: bool = True


def terminal_table(
    table: Sequence[Row], paper: PaperResults, look: Look = Look(), *, bold: bool
) -> str:
    """Aligned columns; the best value of a column in bold, or starred where there is no bold.

    With fewer than two rows that miss no seed, nothing is the best.
    """
    lines = [_head(table, look), *_lines(table, paper, look, lambda text: f"*{text}")]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = []
    for line in lines:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        if bold:
            cells = [
                f"{_BOLD}{cell.replace('*', ' ', 1)}{_PLAIN}" if "*" in cell else cell
                for cell in cells
            ]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(text)


def markdown_table(table: Sequence[Row], paper: PaperResults, look: Look = Look()) -> str:
    """A Markdown table, the best value of a column in bold."""
    head = _head(table, look)
    lines = [
        head,
        tuple("---" if column == 0 else "---:" for column in range(len(head))),
        *_lines(table, paper, look, lambda text: f"**{text}**"),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_table(table: Sequence[Row], paper: PaperResults) -> str:
    """Unrounded values, one line per row, then the paper's; empty where there is no value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    metrics = list(table[0].mean)
    spread = [f"{metric} {kind}" for metric in metrics for kind in ("mean", "std")]
    writer.writerow(["model", "source", "seeds", "missing seeds", *spread, *_CSV_COSTS])
    for row in table:
        std = row.std or dict.fromkeys(metrics)
        values = [value for metric in metrics for value in (row.mean[metric], std[metric])]
        costs = [row.epochs, row.best_epoch, row.seconds, row.peak_bytes, row.num_parameters]
        seeds = [len(row.seeds), len(row.missing)]
        writer.writerow([row.name, "this run", *seeds, *values, *costs, row.user.numel()])
    for row in table:
        if row.name in paper:
            published = [value for m in metrics for value in (paper[row.name].get(m), None)]
            writer.writerow(
                [row.name, PAPER_LABEL, None, None, *published, *[None] * len(_CSV_COSTS)]
            )
    return buffer.getvalue()


def _head(table: Sequence[Row], look: Look) -> tuple[str, ...]:
    return ("model", *table[0].mean, *(_COSTS if look.costs else ()))


def _lines(
    table: Sequence[Row], paper: PaperResults, look: Look, mark: Callable[[str], str]
) -> list[tuple[str, ...]]:
    best = best_values(table)
    marked = [
        column for column in best if look.unmarked is not None and column not in look.unmarked
    ]
    lines = []
    for row in table:
        values = []
        for metric, value in row.mean.items():
            text = _number(value)
            if row.std is not None and not math.isnan(row.std[metric]):
                text += f" ± {_number(row.std[metric], like=value)}"
            is_best = not row.missing and metric in marked and value == best[metric]
            values.append(mark(text) if is_best else text)
        limit = "" if row.stopped_early else "+"
        costs = (
            f"{row.epochs:.0f}{limit} ({row.best_epoch:.0f})",
            f"{row.seconds:.1f}",
            "" if row.peak_bytes is None else f"{row.peak_bytes / _MB:,.0f}",
            f"{row.num_parameters:,}",
        )
        lines.append((row.label, *values, *(costs if look.costs else ())))
        if row.name in paper:
            published = paper[row.name]
            told = (
                _number(published[metric]) if metric in published else "" for metric in row.mean
            )
            lines.append((f"  {PAPER_LABEL}", *told, *("" for _ in (_COSTS if look.costs else ()))))
    return lines


def _number(value: float, like: float | None = None) -> str:
    """Four digits behind the point, one for values of 10 and more."""
    return f"{value:.1f}" if abs(value if like is None else like) >= _LARGE else f"{value:.4f}"
