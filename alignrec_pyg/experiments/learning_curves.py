"""Learning curves: loss terms and validation metrics by epoch, as a table and drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.charts import COLOURS, new_figure, plain_axes, write_figure
from alignrec_pyg.experiments.results import write_files
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.text_tables import csv_table

History = Sequence[Mapping[str, float]]
"""An entry for each epoch, as :class:`~alignrec_pyg.FitResult` has them."""

CURVES = "curves"
"""Stem of the files of learning curves."""

SHOWN = "recall@20"
"""The validation metric that models are selected by, and drawn with."""

_FIRST = ("epoch", "step", "lr")
_STYLES = ("-", "--", ":")
_LOGARITHMIC = 10  # from so many times as many epochs of the longest as of the shortest run


def curves_csv(runs: Iterable[tuple[Mapping[str, object], History]]) -> str:
    """The histories of some runs, a row for each epoch; the first columns name the run.

    A field is empty where an epoch was not evaluated, or another model has the loss term.
    """
    rows = [
        {**named, **entry, "epoch": int(entry["epoch"]), "step": int(entry["step"])}
        for named, history in runs
        for entry in history
    ]
    told = list(dict.fromkeys(name for row in rows for name in row))
    metrics = [name for name in told if "@" in name or name == "num_users"]
    losses = [name for name in told if name == "loss" or name.startswith("loss/")]
    names = [name for name in told if name not in (*_FIRST, *losses, *metrics)]
    header = [*names, *_FIRST, *losses, *metrics]
    return csv_table([header, *([row.get(name) for name in header] for row in rows)])


def write_curves(folder: Path, title: str, cells: Sequence[CellResult]) -> list[Path]:
    """Writes the histories of trained cells as ``curves.csv``; ``curves.png`` draws validation.

    ``curves.json`` lists them. Where matplotlib is missing nothing is drawn.

    Returns:
        The files written.
    """
    trained = [cell for cell in cells if cell.history]
    if not trained:
        return []
    text = curves_csv(({"model": cell.row, "seed": cell.seed}, cell.history) for cell in trained)
    draw = partial(write_validation_curves, title=title, cells=trained)
    return write_files(folder, CURVES, {"title": title}, {".csv": text}, draw)


def write_run_curves(path: Path, title: str, history: History, best_epoch: int) -> None:
    """Writes a PNG of a run: its loss terms, and its validation metrics with the best epoch.

    Losses are those of training, on a logarithmic axis where all are positive; a model in closed
    form has none.
    """
    marker = "o" if len(history) == 1 else None  # a line needs two points
    figure, canvas = new_figure(11.0, 4.2)
    losses, metrics = figure.subplots(1, 2)
    for number, name in enumerate(name for name in history[0] if name.startswith("loss")):
        label = name.removeprefix("loss/") if "/" in name else "all, weighted"
        style = {"color": "black"} if name == "loss" else {"color": COLOURS[number % len(COLOURS)]}
        losses.plot(*_points(history, name), label=label, marker=marker, **style)
    if all(entry[name] > 0 for entry in history for name in entry if name.startswith("loss")):
        losses.set_yscale("log")
    losses.set_ylabel("training loss")
    for name, colour in zip(METRICS, COLOURS, strict=False):
        metrics.plot(*_points(history, name), label=name, marker=marker, color=colour)
    metrics.axvline(best_epoch, color="black", linewidth=0.8, linestyle=":")
    metrics.set_ylabel("validation")
    for axes in (losses, metrics):
        axes.set_xlabel("epoch")
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
        plain_axes(axes)
    write_figure(path, title, figure, canvas)


def write_validation_curves(path: Path, title: str, cells: Sequence[CellResult]) -> None:
    """Writes a PNG: validation recall@20 by epoch, a line for each row of a table, best first.

    A line is the mean over seeds, as far as all of them were trained; seeds are thin behind it,
    with a dot at their best epochs.
    """
    rows: dict[str, list[CellResult]] = {}
    for cell in cells:
        rows.setdefault(cell.row, []).append(cell)
    best = {row: fmean(cell.val_metrics[SHOWN] for cell in of) for row, of in rows.items()}
    figure, canvas = new_figure(9.0, max(4.8, 1.2 + 0.24 * len(rows)))
    axes = figure.subplots()
    for number, row in enumerate(sorted(rows, key=lambda row: -best[row])):
        style = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": _STYLES[number // len(COLOURS) % len(_STYLES)],
        }
        curves = [dict(zip(*_points(cell.history, SHOWN), strict=True)) for cell in rows[row]]
        for cell, curve in zip(rows[row], curves, strict=True):
            axes.plot(list(curve), list(curve.values()), linewidth=0.6, alpha=0.4, **style)
            dot = {"color": style["color"], "markersize": 4, "linestyle": "none"}
            axes.plot([cell.best_epoch], [cell.val_metrics[SHOWN]], marker="o", **dot)
        shared = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
        means = [fmean(curve[epoch] for curve in curves) for epoch in shared]
        axes.plot(shared, means, linewidth=1.8, label=f"{row} ({best[row]:.4f})", **style)
    # Models in closed form have one epoch and no curve.
    lengths = [cell.num_epochs for cell in cells if cell.num_epochs > 1] or [1]
    if max(lengths) >= _LOGARITHMIC * min(lengths):
        axes.set_xscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {SHOWN}")
    plain_axes(axes)
    figure.legend(
        loc="outside right upper", frameon=False, fontsize=9, title="mean at the best epochs"
    )
    write_figure(path, title, figure, canvas)


def _points(history: History, name: str) -> tuple[list[float], list[Any]]:
    """The epochs that have a value, and the values."""
    present = [entry for entry in history if name in entry]
    return [entry["epoch"] for entry in present], [entry[name] for entry in present]
