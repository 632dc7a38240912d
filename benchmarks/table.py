"""The table of an experiment as text: for the terminal, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence

from benchmarks.paper_results import PAPER_LABEL
from benchmarks.runner import METRICS
from benchmarks.summary import Row, best_values

PaperResults = Mapping[str, Mapping[str, float]]

_COLUMNS = ("model", *METRICS, "epochs (best)", "seconds", "memory MB", "parameters")
_CSV_COSTS = ("epochs", "best epoch", "seconds", "peak bytes", "parameters", "users")
_BOLD, _PLAIN = "\033[1m", "\033[0m"
_MB = 1e6


def terminal_table(table: Sequence[Row], paper: PaperResults, *, bold: bool) -> str:
    """Aligned columns; the best value of a column in bold, or starred where there is no bold.

    With fewer than two rows that miss no seed, nothing is the best.
    """
    lines = [_COLUMNS, *_lines(table, paper, lambda text: f"*{text}")]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
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


def markdown_table(table: Sequence[Row], paper: PaperResults) -> str:
    """A Markdown table, the best value of a column in bold."""
    lines = [
        _COLUMNS,
        tuple("---" if column == 0 else "---:" for column in range(len(_COLUMNS))),
        *_lines(table, paper, lambda text: f"**{text}**"),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def csv_table(table: Sequence[Row], paper: PaperResults) -> str:
    """Unrounded values, one line per row, then the paper's; empty where there is no value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    spread = [f"{metric} {kind}" for metric in METRICS for kind in ("mean", "std")]
    writer.writerow(["model", "source", "seeds", "missing seeds", *spread, *_CSV_COSTS])
    for row in table:
        std = row.std or dict.fromkeys(METRICS)
        values = [value for metric in METRICS for value in (row.mean[metric], std[metric])]
        costs = [row.epochs, row.best_epoch, row.seconds, row.peak_bytes, row.num_parameters]
        seeds = [len(row.seeds), len(row.missing)]
        writer.writerow([row.name, "this run", *seeds, *values, *costs, row.user.numel()])
    for row in table:
        if row.name in paper:
            published = [value for m in METRICS for value in (paper[row.name][m], None)]
            writer.writerow(
                [row.name, PAPER_LABEL, None, None, *published, *[None] * len(_CSV_COSTS)]
            )
    return buffer.getvalue()


def _lines(
    table: Sequence[Row], paper: PaperResults, mark: Callable[[str], str]
) -> list[tuple[str, ...]]:
    best = best_values(table)
    lines = []
    for row in table:
        values = []
        for metric in METRICS:
            text = f"{row.mean[metric]:.4f}"
            if row.std is not None:
                text += f" ± {row.std[metric]:.4f}"
            is_best = not row.missing and row.mean[metric] == best.get(metric)
            values.append(mark(text) if is_best else text)
        limit = "" if row.stopped_early else "+"
        memory = "" if row.peak_bytes is None else f"{row.peak_bytes / _MB:,.0f}"
        lines.append(
            (
                row.label,
                *values,
                f"{row.epochs:.0f}{limit} ({row.best_epoch:.0f})",
                f"{row.seconds:.1f}",
                memory,
                f"{row.num_parameters:,}",
            )
        )
        if row.name in paper:
            published = (f"{paper[row.name][metric]:.4f}" for metric in METRICS)
            lines.append((f"  {PAPER_LABEL}", *published, "", "", "", ""))
    return lines
