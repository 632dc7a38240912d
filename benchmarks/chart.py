"""The table as a bar chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper_results import PAPER_LABEL
from benchmarks.runner import METRICS
from benchmarks.summary import Row
from benchmarks.table import PaperResults

# Okabe and Ito's palette, told apart by colour-blind readers; it repeats after its last colour.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_GROUP_WIDTH = 0.84


def write_chart(path: Path, title: str, table: Sequence[Row], paper: PaperResults) -> None:
    """Writes a PNG: a group per metric, a bar per row with its standard deviation over seeds.

    Args:
        path: Where to write.
        title: Title of the chart.
        table: The rows.
        paper: Published values, drawn as diamonds.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = _GROUP_WIDTH / len(table)
    for number, row in enumerate(table):
        offset = (number - (len(table) - 1) / 2) * width
        places = [group + offset for group in range(len(METRICS))]
        axes.bar(
            places,
            [row.mean[metric] for metric in METRICS],
            width * 0.92,
            yerr=None if row.std is None else [row.std[metric] for metric in METRICS],
            capsize=2.5,
            error_kw={"linewidth": 1},
            color=_COLOURS[number % len(_COLOURS)],
            label=row.label,
        )
        if row.name in paper:
            axes.plot(
                places,
                [paper[row.name][metric] for metric in METRICS],
                linestyle="none",
                marker="D",
                markersize=5,
                markerfacecolor="white",
                markeredgecolor="black",
                label=PAPER_LABEL if number == _first_published(table, paper) else None,
            )
    axes.set_xticks(range(len(METRICS)), METRICS)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("mean over users")
    axes.set_title(title, loc="left")
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    canvas.print_png(str(path))


def _first_published(table: Sequence[Row], paper: PaperResults) -> int:
    return next(number for number, row in enumerate(table) if row.name in paper)
