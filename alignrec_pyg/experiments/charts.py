"""The table as a bar chart, and a value against a setting as curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from alignrec_pyg.experiments.paper import PAPER_LABEL, PaperResults
from alignrec_pyg.experiments.summary import Row

# Okabe and Ito's palette, told apart by colour-blind readers; it repeats with another hatch.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_HATCHES = ("", "///", "...")
_GROUP_WIDTH = 0.84
_TITLE_WIDTH = 60  # letters of a line beside the legend
_LONG = 10  # letters of a column's name that fit beside each other
_SAME_SCALE = 20.0  # columns whose largest values differ by more get axes of their own


class Curve(NamedTuple):
    """A value against a setting, with its spread over seeds.

    Args:
        x: Values of the setting, ascending.
        mean: Mean over the seeds at each.
        std: Standard deviation over the seeds; ``None`` with one seed.
    """

    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float] | None


def write_chart(path: Path, title: str, table: Sequence[Row], paper: PaperResults) -> None:
    """Writes a PNG: a group per column, a bar per row with its standard deviation over seeds.

    Columns of very different size get axes of their own.

    Args:
        path: Where to write.
        title: Title of the chart.
        table: The rows.
        paper: Published values, drawn as diamonds.
    """
    panels = _panels(table)
    shares = [len(columns) for columns in panels]
    figure, canvas = new_figure(max(10.0, 3.0 + sum(shares) * (0.7 + 0.05 * len(table))))
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=shares)[0]
    first_published = next((row.name for row in table if row.name in paper), None)
    for axes, columns in zip(grid, panels, strict=True):
        width = _GROUP_WIDTH / len(table)
        for number, row in enumerate(table):
            offset = (number - (len(table) - 1) / 2) * width
            places = [group + offset for group in range(len(columns))]
            axes.bar(
                places,
                [row.mean[column] for column in columns],
                width * 0.92,
                yerr=None if row.std is None else [row.std[column] for column in columns],
                capsize=2.5,
                error_kw={"linewidth": 1},
                color=COLOURS[number % len(COLOURS)],
                hatch=_HATCHES[number // len(COLOURS) % len(_HATCHES)],
                edgecolor="white",
                label=row.label if axes is grid[0] else None,
            )
            published = paper.get(row.name, {})
            if any(column in published for column in columns):
                axes.plot(
                    places,
                    [published.get(column, float("nan")) for column in columns],
                    linestyle="none",
                    marker="D",
                    markersize=5,
                    markerfacecolor="white",
                    markeredgecolor="black",
                    label=PAPER_LABEL if axes is grid[0] and row.name == first_published else None,
                )
        long = max(len(column) for column in columns) > _LONG
        turned = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if long else {}
        axes.set_xticks(range(len(columns)), columns, **turned)
        if all(row.mean[column] >= 0 for row in table for column in columns):
            axes.set_ylim(bottom=0)
        plain_axes(axes)
    grid[0].set_ylabel("mean over users")
    grid[0].set_title(fill(title, _TITLE_WIDTH), loc="left")
    figure.legend(loc="outside right upper", frameon=False)
    canvas.print_png(str(path))


def write_curves(
    path: Path, title: str, panels: Mapping[str, Mapping[str, Curve]], ylabel: str
) -> None:
    """Writes a PNG: a panel per setting on a logarithmic axis, a curve per name.

    Args:
        path: Where to write.
        title: Title of the chart.
        panels: Curves by name, by the name of the setting.
        ylabel: What the curves show.
    """
    figure, canvas = new_figure(max(6.0, 3.6 * len(panels)))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (setting, curves) in zip(grid, panels.items(), strict=True):
        for number, (name, curve) in enumerate(curves.items()):
            axes.errorbar(
                curve.x,
                curve.mean,
                yerr=curve.std,
                marker="o",
                capsize=3,
                color=COLOURS[number % len(COLOURS)],
                label=name if axes is grid[0] else None,
            )
            if max(curve.x) > 10 * max(min(curve.x), 1e-12):
                smallest = min(x for x in curve.x if x > 0)
                axes.set_xscale("symlog", linthresh=smallest)
        axes.set_xlabel(setting)
        plain_axes(axes)
    grid[0].set_ylabel(ylabel)
    grid[0].set_title(title, loc="left")
    figure.legend(loc="outside right upper", frameon=False)
    canvas.print_png(str(path))


def write_maps(path: Path, title: str, maps: Mapping[str, tuple[Any, Any]]) -> None:
    """Writes a PNG: a panel per name, content points and ID points in two colours.

    Args:
        path: Where to write.
        title: Title of the picture.
        maps: Points of content and of ID vectors, each ``[n, 2]``, by name of the panel.
    """
    figure, canvas = new_figure(max(6.0, 5.0 * len(maps)))
    grid = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, pair) in zip(grid, maps.items(), strict=True):
        for label, points, colour in zip(("content", "ID"), pair, COLOURS, strict=False):
            axes.scatter(
                points[:, 0],
                points[:, 1],
                s=4,
                alpha=0.6,
                linewidths=0,
                color=colour,
                label=label if axes is grid[0] else None,
            )
        axes.set_title(name, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title)
    figure.legend(loc="outside right upper", frameon=False, markerscale=3)
    canvas.print_png(str(path))


def write_scatter(
    path: Path, title: str, panels: Mapping[str, tuple[Any, Any]], colour_label: str
) -> None:
    """Writes a PNG: a panel per name, each point coloured by a count, on a logarithmic scale.

    Args:
        path: Where to write.
        title: Title of the picture.
        panels: Points ``[n, 2]`` and their counts ``[n]``, by name of the panel.
        colour_label: What the counts are.
    """
    from matplotlib.colors import LogNorm

    figure, canvas = new_figure(max(6.0, 4.5 * len(panels)))
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    most = max(2.0, *(float(count.max()) for _, count in panels.values()))
    for axes, (name, (points, count)) in zip(grid, panels.items(), strict=True):
        drawn = axes.scatter(
            points[:, 0],
            points[:, 1],
            c=[max(float(number), 1.0) for number in count],
            norm=LogNorm(1.0, most),
            s=5,
            linewidths=0,
        )
        axes.set_title(name, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(drawn, ax=list(grid), label=colour_label)
    figure.suptitle(title)
    canvas.print_png(str(path))


def new_figure(width: float) -> tuple[Any, Any]:
    """A figure and what draws it, without a window or state of matplotlib's own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.8), layout="constrained")
    return figure, FigureCanvasAgg(figure)


def plain_axes(axes: Any) -> None:
    """Only the axes that are read, with a light grid."""
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _panels(table: Sequence[Row]) -> list[list[str]]:
    """Columns side by side, those of one scale in one panel."""
    panels: list[list[str]] = []
    largest: list[float] = []
    for column in table[0].mean:
        size = max(abs(row.mean[column]) for row in table)
        if panels and size and 1 / _SAME_SCALE < size / (largest[-1] or 1.0) < _SAME_SCALE:
            panels[-1].append(column)
        else:
            panels.append([column])
            largest.append(size)
    return panels


def write_bars(path: Path, title: str, panels: Mapping[str, Mapping[str, float]]) -> None:
    """Writes a PNG: a panel per quantity, a horizontal bar with its value per row.

    An axis is logarithmic where the largest value is many times the smallest.

    Args:
        path: Where to write.
        title: Title of the chart.
        panels: Values by row, by the name of the quantity; one without values is left out.
    """
    filled = {quantity: values for quantity, values in panels.items() if values}
    rows = list(dict.fromkeys(row for values in filled.values() for row in values))
    figure, canvas = new_figure(max(6.0, 5.0 * len(filled)))
    figure.set_figheight(1.5 + 0.35 * len(rows))
    grid = figure.subplots(1, len(filled), squeeze=False, sharey=True)[0]
    for axes, (quantity, values) in zip(grid, filled.items(), strict=True):
        bars = axes.barh([rows.index(row) for row in values], values.values(), color=COLOURS[0])
        told = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values.values()]
        axes.bar_label(bars, told, padding=3)
        axes.margins(x=0.15)
        least, most = min(values.values()), max(values.values())
        if 0 < _SAME_SCALE * least < most:
            axes.set_xscale("log")
            axes.set_xlim(left=10.0 ** (math.ceil(math.log10(least)) - 1))
            quantity = f"{quantity} (logarithmic)"
        axes.set_xlabel(quantity)
        plain_axes(axes)
        axes.grid(visible=False, axis="y")
        axes.grid(axis="x", linewidth=0.5, alpha=0.5)
    grid[0].set_yticks(range(len(rows)), rows)
    grid[0].invert_yaxis()
    figure.suptitle(title)
    canvas.print_png(str(path))
