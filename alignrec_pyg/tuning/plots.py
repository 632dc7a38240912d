"""Pictures of a sweep: all settings of all configurations side by side, and each against recall."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignrec_pyg.experiments.charts import COLOURS, new_figure, plain_axes
from alignrec_pyg.tuning.configurations import SELECTED_BY, Configuration, ranked
from alignrec_pyg.tuning.spaces import Axis, Choice, Space

_STOPPED = "#BBBBBB"
_FINISHED, _BEST = COLOURS[0], COLOURS[5]
_WORST_WIDTH, _BEST_WIDTH = 0.8, 2.8
_TICKS = 5


def write_parallel(
    path: Path, title: str, configurations: Sequence[Configuration], space: Space
) -> None:
    """Writes a PNG: a vertical axis per setting and one of recall, a line per configuration.

    Lines are coloured by validation recall@20; the chosen configuration is orange.

    Args:
        path: Where to write.
        title: Title of the picture.
        configurations: Those without a value are left out.
        space: What was searched.
    """
    from matplotlib import colormaps

    valued = ranked(configurations)
    figure, canvas = new_figure(max(7.0, 1.5 * (len(space) + 2)))
    axes = figure.subplots()
    means = [entry.mean for entry in valued]
    low, high = min(means), max(means)
    reach = (high - low) or 1.0
    for entry in reversed(valued):
        share = (entry.mean - low) / reach
        chosen = entry is valued[0]
        axes.plot(
            range(len(space) + 1),
            [*(_place(axis, entry.point[name]) for name, axis in space.items()), share],
            color=_BEST if chosen else colormaps["viridis_r"](0.15 + 0.85 * share),
            linewidth=_BEST_WIDTH if chosen else _WORST_WIDTH,
            alpha=1.0 if chosen else 0.75,
            zorder=3 if chosen else 2,
        )
    for place, axis in enumerate(space.values()):
        for value in _ticks(axis):
            where = {"ha": "right", "va": "center", "fontsize": 8}
            axes.text(place - 0.03, _place(axis, value), f"{value:g}", **where)
    for step in range(_TICKS):
        share = step / (_TICKS - 1)
        axes.text(len(space) + 0.05, share, f"{low + share * reach:.3f}", va="center", fontsize=8)
    axes.vlines(range(len(space) + 1), 0, 1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(space) + 1), [*space, f"validation\n{SELECTED_BY}"], fontsize=9)
    axes.set_yticks([])
    axes.set_xlim(-0.5, len(space) + 0.5)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title, loc="left")
    canvas.print_png(str(path))


def write_responses(
    path: Path,
    title: str,
    configurations: Sequence[Configuration],
    space: Space,
    shares: Mapping[str, float],
) -> None:
    """Writes a PNG: a panel per setting, its values against validation recall@20.

    A configuration tried with several seeds has bars of one standard deviation. Stopped trials are
    grey: their recall is that of fewer epochs. Where a setting has a list of values, a line joins
    the best configuration of each.

    Args:
        path: Where to write.
        title: Title of the picture.
        configurations: Those without a value are left out.
        space: What was searched.
        shares: Importance of the settings, told in their panels.
    """
    valued = ranked(configurations)
    columns = min(len(space), 4)
    lines = math.ceil(len(space) / columns)
    figure, canvas = new_figure(max(6.0, 3.4 * columns))
    figure.set_figheight(0.9 + 3.1 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axes, (name, axis) in zip(grid, space.items(), strict=False):
        _response(axes, name, axis, valued)
        told = f" (importance {shares[name]:.2f})" if name in shares else ""
        axes.set_xlabel(f"{name}{told}")
        plain_axes(axes)
    for axes in grid[len(space) :]:
        axes.set_visible(False)
    figure.supylabel(f"validation {SELECTED_BY}", fontsize=10)
    figure.suptitle(title)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    canvas.print_png(str(path))


def _response(axes: Any, name: str, axis: Axis, valued: Sequence[Configuration]) -> None:
    finished = [entry for entry in valued if entry.finished]
    kinds = (
        ("stopped early", [entry for entry in valued if not entry.finished], _STOPPED, "o"),
        ("trained to the end", [e for e in finished if e is not valued[0]], _FINISHED, "o"),
        ("chosen", valued[:1], _BEST, "D"),
    )
    for order, (label, entries, colour, marker) in enumerate(kinds):
        axes.errorbar(
            [entry.point[name] for entry in entries],
            [entry.mean for entry in entries],
            yerr=[entry.std or 0.0 for entry in entries],
            linestyle="none",
            marker=marker,
            markersize=5,
            capsize=0,
            elinewidth=1.2,
            color=colour,
            label=label,
            zorder=2 + order,
        )
    if isinstance(axis, Choice):
        best = {
            value: max(e.mean for e in valued if e.point[name] == value)
            for value in axis.values
            if any(entry.point[name] == value for entry in valued)
        }
        look = {"color": "black", "linewidth": 0.8, "label": "best of each value"}
        axes.plot(list(best), list(best.values()), **look)
    if _logarithmic(axis):
        axes.set_xscale("log")
    elif isinstance(axis, Choice):
        axes.set_xticks(axis.values, [f"{value:g}" for value in axis.values])


def _logarithmic(axis: Axis) -> bool:
    if isinstance(axis, Choice):
        return axis.values[0] > 0 and axis.values[-1] >= 10 * axis.values[0]
    return axis.log


def _place(axis: Axis, value: float) -> float:
    """Where a value stands on its axis of length 1; those of a list are equally far apart."""
    if isinstance(axis, Choice):
        return axis.values.index(value) / max(1, len(axis.values) - 1)
    if axis.log:
        return math.log(value / axis.low) / math.log(axis.high / axis.low)
    return (value - axis.low) / (axis.high - axis.low)


def _ticks(axis: Axis) -> list[float]:
    if isinstance(axis, Choice):
        return list(axis.values)
    if not axis.log:
        return [axis.low, axis.low + (axis.high - axis.low) / 2, axis.high]
    first, last = math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high))
    decades = [10.0**power for power in range(first, last + 1)]
    return sorted({axis.low, axis.high, *decades})
