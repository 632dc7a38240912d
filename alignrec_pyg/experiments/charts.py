"""Charts: the table as horizontal bars, a value against a setting, points of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NamedTuple

from alignrec_pyg.checks import require_package
from alignrec_pyg.experiments.paper import PAPER_LABEL, PaperResults
from alignrec_pyg.experiments.result_table import TableStyle, marked_values
from alignrec_pyg.experiments.statistics import Row

# Okabe and Ito's palette, which colour-blind readers can distinguish
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_LIGHT = "#A6C8DF"  # of COLOURS[0]
_PANELS = 4  # side by side
_LETTER = 0.08  # inches
_TITLE_LETTERS = 11  # per inch
_PANEL_WIDTH = 2.5  # inches
_PANEL_LETTERS = 34  # of a title that fits into it


class Curve(NamedTuple):
    """A value against a setting, with its deviation over seeds (``None`` with one seed)."""

    x: Sequence[float]
    mean: Sequence[float]
    std: Sequence[float] | None


def chart_problem() -> str | None:
    """Why no chart can be drawn, and the way out; ``None`` if matplotlib can be imported."""
    try:
        require_package("matplotlib", "the chart", "matplotlib", extra="benchmarks")
    except ImportError as error:
        return f"no chart: {error}"
    return None


def write_chart(
    path: Path, title: str, table: Sequence[Row], paper: PaperResults, style: TableStyle
) -> None:
    """Writes a PNG: a panel per column, a horizontal bar per row.

    A whisker is a standard deviation over seeds, a diamond a published value; the best value of a
    panel has a darker bar.
    """
    best = marked_values(table, style)
    quantities = list(table[0].mean)
    columns = min(len(quantities), _PANELS)
    lines = math.ceil(len(quantities) / columns)
    labels = [row.label for row in table]
    width = _LETTER * max(len(label) for label in labels) + _PANEL_WIDTH * columns
    figure, canvas = new_figure(max(6.0, width), 1.2 + lines * (0.5 + 0.25 * len(table)))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    handles: dict[str, Any] = {}
    for axes, quantity in zip(grid.flat, quantities, strict=False):
        _draw_bars(axes, quantity, table, paper, best.get(quantity))
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    for axes in grid.flat[len(quantities) :]:
        axes.set_visible(False)
    grid[0, 0].set_yticks(range(len(table)), labels)
    grid[0, 0].set_ylim(len(table) - 0.5, -0.5)
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
        )
    write_figure(path, title, figure, canvas)


def write_curves(
    path: Path, title: str, panels: Mapping[str, Mapping[str, Curve]], ylabel: str
) -> None:
    """Writes a PNG: a panel per setting on a logarithmic axis, a curve per name."""
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
    figure.legend(loc="outside right upper", frameon=False)
    write_figure(path, title, figure, canvas)


def write_maps(path: Path, title: str, maps: Mapping[str, tuple[Any, Any]]) -> None:
    """Writes a PNG: a panel per name, with points of content and of ID vectors, each ``[n, 2]``."""
    figure, canvas, grid = _maps(list(maps), 5.0)
    for axes, pair in zip(grid, maps.values(), strict=True):
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
    figure.legend(loc="outside right upper", frameon=False, markerscale=3)
    write_figure(path, title, figure, canvas)


def write_scatter(
    path: Path, title: str, panels: Mapping[str, tuple[Any, Any]], colour_label: str
) -> None:
    """Writes a PNG: a panel per name, points ``[n, 2]`` coloured by counts ``[n]``."""
    from matplotlib.colors import LogNorm

    figure, canvas, grid = _maps(list(panels), 4.5)
    most = max(2.0, *(float(count.max()) for _, count in panels.values()))
    for axes, (points, count) in zip(grid, panels.values(), strict=True):
        drawn = axes.scatter(
            points[:, 0],
            points[:, 1],
            c=[max(float(number), 1.0) for number in count],
            norm=LogNorm(1.0, most),
            s=5,
            linewidths=0,
        )
    figure.colorbar(drawn, ax=list(grid), label=colour_label)
    write_figure(path, title, figure, canvas)


def project(rows: Any) -> Any:
    """A t-SNE of some vectors ``[n, d]``, ``[n, 2]``, the same each time."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(rows) - 1) / 3)
    return TSNE(random_state=0, init="pca", perplexity=perplexity).fit_transform(rows)


def new_figure(width: float, height: float = 4.8) -> tuple[Any, Any]:
    """A figure of this size in inches and the canvas that writes it, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, FigureCanvasAgg(figure)


def write_figure(path: Path, title: str, figure: Any, canvas: Any) -> None:
    """Writes a figure as PNG, with its title."""
    width = int(_TITLE_LETTERS * figure.get_figwidth())
    figure.suptitle(fill(title, width), x=0.01, ha="left", fontsize=12)
    canvas.print_png(str(path))


def plain_axes(axes: Any, grid: Literal["x", "y"] = "y") -> None:
    """Only the axes that are read, with a light grid along one of them."""
    axes.grid(axis=grid, linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _maps(names: Sequence[str], width: float) -> tuple[Any, Any, Any]:
    """A figure with a panel for the points of each name, without ticks."""
    figure, canvas = new_figure(max(6.0, width * len(names)))
    grid = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(grid, names, strict=True):
        axes.set_title(name, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure, canvas, grid


def _draw_bars(
    axes: Any, quantity: str, table: Sequence[Row], paper: PaperResults, best: float | None
) -> None:
    """One panel; the values stand in a column on its right."""
    values = [row.mean[quantity] for row in table]
    for place, (row, value) in enumerate(zip(table, values, strict=True)):
        is_best = value == best and not row.missing
        colour = COLOURS[0] if is_best or best is None else _LIGHT
        axes.barh(place, value, height=0.7, color=colour, label="best" if is_best else None)
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
        at = axes.get_yaxis_transform()
        axes.text(1.02, place, text, transform=at, va="center", fontsize=8)
    deviations = [math.nan if row.std is None else row.std[quantity] for row in table]
    if not all(math.isnan(deviation) for deviation in deviations):
        axes.errorbar(
            values,
            range(len(table)),
            xerr=deviations,
            linestyle="none",
            color="black",
            elinewidth=1,
            capsize=2,
            label="standard deviation over seeds",
        )
    published = [paper.get(row.name, {}).get(quantity, math.nan) for row in table]
    if not all(math.isnan(value) for value in published):
        axes.plot(
            published,
            range(len(table)),
            linestyle="none",
            marker="D",
            markersize=5,
            markerfacecolor="white",
            markeredgecolor="black",
            label=PAPER_LABEL,
        )
    axes.set_title(fill(quantity, _PANEL_LETTERS), loc="left", fontsize=10)
    axes.tick_params(axis="y", length=0)
    plain_axes(axes, "x")
    axes.spines["left"].set_visible(False)
