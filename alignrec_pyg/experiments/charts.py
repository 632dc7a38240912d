"""Charts: the table as horizontal bars, a value against a setting, points of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any, Literal, NamedTuple

from alignrec_pyg.checks import require_package
from alignrec_pyg.experiments.paper import PAPER_LABEL, PaperResults
from alignrec_pyg.experiments.statistics import Row, best_values

# Okabe and Ito's palette, told apart by colour-blind readers
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_LIGHT = "#A6C8DF"  # of COLOURS[0]
_PANELS = 4  # side by side
_LETTER = 0.08  # inches
_TITLE_LETTERS = 11  # per inch
_LOGARITHMIC = 20.0  # an axis of positive values whose largest is so many times the smallest


class Bar(NamedTuple):
    """A value of a row.

    Args:
        value: Length of the bar.
        std: Half the length of the whisker; NaN for none.
        published: Value of a paper; NaN for none.
        best: Whether the bar stands out.
    """

    value: float
    std: float = math.nan
    published: float = math.nan
    best: bool = False


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


def chart_problem() -> str | None:
    """Why no chart can be drawn, and the way out; ``None`` if matplotlib can be imported."""
    try:
        require_package("matplotlib", "the chart", "matplotlib", extra="benchmarks")
    except ImportError as error:
        return f"no chart: {error}"
    return None


def write_chart(path: Path, title: str, table: Sequence[Row], paper: PaperResults) -> None:
    """Writes a PNG: a panel per column, a bar per row with its standard deviation over seeds.

    The best value of a panel has a darker bar; published values are diamonds.

    Args:
        path: Where to write.
        title: Title of the chart.
        table: The rows, from top to bottom.
        paper: Published values by row.
    """
    best = best_values(table)
    panels = {
        column: {
            row.label: Bar(
                row.mean[column],
                std=math.nan if row.std is None else row.std[column],
                published=paper.get(row.name, {}).get(column, math.nan),
                best=not row.missing and row.mean[column] == best.get(column),
            )
            for row in table
        }
        for column in table[0].mean
    }
    write_bars(path, title, panels)


def write_bars(
    path: Path,
    title: str,
    panels: Mapping[str, Mapping[str, Bar]],
    *,
    logarithmic: bool = False,
) -> None:
    """Writes a PNG: a panel per quantity, a horizontal bar with its value per row.

    Args:
        path: Where to write.
        title: Title of the chart.
        panels: Bars by row, by the name of the quantity; one without bars is left out.
        logarithmic: Whether an axis is logarithmic where the largest value is many times the
            smallest.
    """
    filled = {quantity: bars for quantity, bars in panels.items() if bars}
    rows = list(dict.fromkeys(row for bars in filled.values() for row in bars))
    columns = min(len(filled), _PANELS)
    lines = math.ceil(len(filled) / columns)
    names = _LETTER * max(len(row) for row in rows)
    figure, canvas = new_figure(
        max(6.0, names + 2.5 * columns), 1.2 + lines * (0.5 + 0.25 * len(rows))
    )
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    handles: dict[str, Any] = {}
    for axes, (quantity, bars) in zip(grid.flat, filled.items(), strict=False):
        places = [rows.index(row) for row in bars]
        _draw_bars(axes, places, list(bars.values()))
        values = [bar.value for bar in bars.values()]
        if logarithmic and 0 < _LOGARITHMIC * min(values) < max(values):
            axes.set_xscale("log")
            axes.set_xlim(left=10.0 ** (math.ceil(math.log10(min(values))) - 1))
            quantity = f"{quantity} (logarithmic)"
        axes.set_title(fill(quantity, 34), loc="left", fontsize=10)
        axes.tick_params(axis="y", length=0)
        plain_axes(axes, "x")
        axes.spines["left"].set_visible(False)
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    for axes in grid.flat[len(filled) :]:
        axes.set_visible(False)
    grid[0, 0].set_yticks(range(len(rows)), rows)
    grid[0, 0].set_ylim(len(rows) - 0.5, -0.5)
    _set_title(figure, title)
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False
        )
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
    _set_title(figure, title)
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
    _set_title(figure, title)
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
    _set_title(figure, title)
    canvas.print_png(str(path))


def new_figure(width: float, height: float = 4.8) -> tuple[Any, Any]:
    """A figure of this size in inches and the canvas that writes it, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, FigureCanvasAgg(figure)


def plain_axes(axes: Any, grid: Literal["x", "y"] = "y") -> None:
    """Only the axes that are read, with a light grid along one of them."""
    axes.grid(axis=grid, linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _set_title(figure: Any, title: str) -> None:
    width = int(_TITLE_LETTERS * figure.get_figwidth())
    figure.suptitle(fill(title, width), x=0.01, ha="left", fontsize=12)


def _draw_bars(axes: Any, places: Sequence[int], bars: Sequence[Bar]) -> None:
    """Bars with whiskers, published values, and the values in a column on the right."""
    standing_out = any(bar.best for bar in bars)
    colours = [COLOURS[0] if bar.best or not standing_out else _LIGHT for bar in bars]
    values = [bar.value for bar in bars]
    axes.barh(places, values, height=0.7, color=colours)
    for place, value in zip(places, values, strict=True):
        text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
        at = axes.get_yaxis_transform()
        axes.text(1.02, place, text, transform=at, va="center", fontsize=8)
    if not all(math.isnan(bar.std) for bar in bars):
        axes.errorbar(
            values,
            places,
            xerr=[bar.std for bar in bars],
            linestyle="none",
            color="black",
            elinewidth=1,
            capsize=2,
            label="standard deviation over seeds",
        )
    if not all(math.isnan(bar.published) for bar in bars):
        axes.plot(
            [bar.published for bar in bars],
            places,
            linestyle="none",
            marker="D",
            markersize=5,
            markerfacecolor="white",
            markeredgecolor="black",
            label=PAPER_LABEL,
        )
