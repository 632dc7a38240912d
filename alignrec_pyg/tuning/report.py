"""The report of a sweep: tables of its trials, importance of each setting, and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignrec_pyg.atomic import atomic_path
from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.charts import COLOURS, chart_problem, new_figure, plain_axes
from alignrec_pyg.experiments.description import SELECTED_BY
from alignrec_pyg.experiments.learning_curves import curves_csv
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.storage import write_text
from alignrec_pyg.text_tables import aligned_table, csv_table, markdown_table
from alignrec_pyg.tuning.spaces import Axis, Choice, Space
from alignrec_pyg.tuning.trial import (
    Configuration,
    Trial,
    TrialJob,
    history,
    ranked,
)

_PRINTED = 10
"""Number of configurations that are printed; the files have all of them."""
_FEWEST = 4
"""Number of configurations below which a share of variance is meaningless."""
_STOPPED, _FINISHED, _BEST = "#BBBBBB", COLOURS[0], COLOURS[5]
_TICKS = 5


def write_report(
    session: Session, configurations: Sequence[Configuration], space: Space, by_hand: str
) -> list[Path]:
    """Prints the best configurations; writes ``search.csv``, ``search.md`` and the pictures.

    ``by_hand`` is the command line that trains the chosen one anew.
    """
    (name,) = session.models
    title = f"{name} on {session.data.name}: {len(configurations)} configurations"
    shares = importances(configurations, space)
    outcomes = [trial.outcome for entry in configurations for trial in entry.trials]
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes))
    seconds = sum(trial.seconds for entry in configurations for trial in entry.trials)
    notes = [
        "Validation only. Configuration 0 has the default settings. All ran with seed 0, the best "
        f"{session.options.finalists} and configuration 0 with seeds 0 to {len(session.seeds) - 1} "
        "(mean ± standard deviation).",
        f"{len(outcomes)} trials: {counts}; one after another {seconds:.0f} s.",
        "Importance (share of variance of validation recall@20, fANOVA): "
        + ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
        + "."
        if shares
        else "Importance: too few configurations with different values.",
    ]
    best = configuration_rows(ranked(configurations)[:_PRINTED], space)
    print("\n" + aligned_table(best, rule=True) + "\n")
    print("\n".join(notes))
    notes.append(f"By hand: `{by_hand}`")
    first = ranked(configurations)
    others = [entry for entry in configurations if entry not in first]
    table = markdown_table(configuration_rows([*first, *others], space))
    texts = {
        session.out / "search.csv": trials_csv(configurations, space),
        session.out / "search.md": "\n\n".join([f"# {title}", table, *notes]) + "\n",
    }
    for path, text in texts.items():
        write_text(path, text)
    if chart_problem() is not None:
        return list(texts)
    pictures = [session.out / "search_parallel.png", session.out / "search_response.png"]
    with atomic_path(pictures[0]) as path:
        write_parallel(path, title, configurations, space)
    with atomic_path(pictures[1]) as path:
        write_responses(path, title, configurations, space, shares)
    return [*texts, *pictures]


def write_trial_curves(path: Path, job: TrialJob, configurations: Sequence[Configuration]) -> Path:
    """Writes the learning curves of all trials, as far as they were trained and saved."""
    runs = (
        ({"configuration": trial.number, "seed": trial.seed}, history(trial.point, trial.seed, job))
        for entry in configurations
        for trial in entry.trials
    )
    write_text(path, curves_csv(runs))
    return path


def trials_csv(configurations: Sequence[Configuration], space: Space) -> str:
    """Every trial in a line, unrounded."""
    costs = ["best epoch", "epochs", "seconds"]
    metrics = [f"val {metric}" for metric in METRICS]
    rows: list[list[object]] = [
        ["configuration", "seed", *space, "outcome", *metrics, *costs, "why"]
    ]
    for entry in configurations:
        for trial in entry.trials:
            rows.append(
                [
                    trial.number,
                    trial.seed,
                    *(trial.point[name] for name in space),
                    trial.outcome,
                    *(trial.val.get(metric) for metric in METRICS),
                    trial.best_epoch or None,
                    trial.epochs,
                    trial.seconds,
                    trial.reason or None,
                ]
            )
    return csv_table(rows)


def configuration_rows(configurations: Sequence[Configuration], space: Space) -> list[list[str]]:
    """The rows of a table of configurations, its header first."""
    header = ["configuration", *space, f"validation {SELECTED_BY}", "seeds", "outcome", "epochs"]
    rows = [
        [
            str(entry.number),
            *(f"{entry.point[name]:g}" for name in space),
            _mean_and_std(entry),
            str(len(entry.values)),
            ", ".join(dict.fromkeys(map(_outcome, entry.trials))),
            ", ".join(str(trial.epochs) for trial in entry.trials),
        ]
        for entry in configurations
    ]
    return [header, *rows]


def _mean_and_std(entry: Configuration) -> str:
    if not entry.values:
        return ""
    return f"{entry.mean:.4f}" if entry.std is None else f"{entry.mean:.4f} ± {entry.std:.4f}"


def _outcome(trial: Trial) -> str:
    return f"{trial.outcome} ({trial.reason})" if trial.reason else trial.outcome


def importances(configurations: Sequence[Configuration], space: Space) -> dict[str, float]:
    """Share of the variance of validation recall@20 that each setting explains, largest first.

    Functional ANOVA of a random forest (`Hutter et al., ICML 2014
    <https://proceedings.mlr.press/v32/hutter14.html>`_), as Optuna computes it.

    Returns:
        Shares that add up to 1; nothing if there are too few configurations or their values equal.
    """
    valued = [entry for entry in configurations if entry.values]
    if len(valued) < _FEWEST or len({entry.mean for entry in valued}) == 1:
        return {}
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce every study
    study = optuna.create_study(direction="maximize")
    distributions = {name: axis.distribution() for name, axis in space.items()}
    for entry in valued:
        study.add_trial(
            optuna.trial.create_trial(
                params=entry.point, distributions=distributions, value=entry.mean
            )
        )
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def write_parallel(
    path: Path, title: str, configurations: Sequence[Configuration], space: Space
) -> None:
    """Draws parallel coordinates: an axis per setting and one of recall, a line per configuration.

    Lines are coloured by validation recall@20; the chosen configuration is orange, and those
    without a value are left out.
    """
    from matplotlib import colormaps

    valued = ranked(configurations)
    figure, canvas = new_figure(max(7.0, 1.5 * (len(space) + 2)))
    axes = figure.subplots()
    means = [entry.mean for entry in valued]
    low, high = min(means), max(means)
    extent = (high - low) or 1.0
    for entry in reversed(valued):
        height = (entry.mean - low) / extent
        heights = [*(_position(axis, entry.point[name]) for name, axis in space.items()), height]
        if entry is valued[0]:
            style = {"color": _BEST, "linewidth": 2.8, "zorder": 3}
        else:
            colour = colormaps["viridis_r"](0.15 + 0.85 * height)
            style = {"color": colour, "linewidth": 0.8, "zorder": 2, "alpha": 0.75}
        axes.plot(range(len(space) + 1), heights, **style)
    for number, axis in enumerate(space.values()):
        for value in _ticks(axis):
            align = {"ha": "right", "va": "center", "fontsize": 8}
            axes.text(number - 0.03, _position(axis, value), f"{value:g}", **align)
    for step in range(_TICKS):
        height = step / (_TICKS - 1)
        label = f"{low + height * extent:.3f}"
        axes.text(len(space) + 0.05, height, label, va="center", fontsize=8)
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
    """Draws response curves: a panel per setting, its values against validation recall@20.

    A configuration tried with several seeds has bars of one standard deviation. Stopped trials are
    grey: their recall is that of fewer epochs. Where a setting has a list of values, a line joins
    the best configuration of each. The panels show the importance of their settings.
    """
    valued = ranked(configurations)
    columns = min(len(space), 4)
    lines = math.ceil(len(space) / columns)
    figure, canvas = new_figure(max(6.0, 3.4 * columns))
    figure.set_figheight(0.9 + 3.1 * lines)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True).flatten()
    for axes, (name, axis) in zip(grid, space.items(), strict=False):
        _draw_response(axes, name, axis, valued)
        importance = f" (importance {shares[name]:.2f})" if name in shares else ""
        axes.set_xlabel(f"{name}{importance}")
        plain_axes(axes)
    for axes in grid[len(space) :]:
        axes.set_visible(False)
    figure.supylabel(f"validation {SELECTED_BY}", fontsize=10)
    figure.suptitle(title)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    canvas.print_png(str(path))


def _draw_response(axes: Any, name: str, axis: Axis, valued: Sequence[Configuration]) -> None:
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
        style = {"color": "black", "linewidth": 0.8, "label": "best of each value"}
        axes.plot(list(best), list(best.values()), **style)
        logarithmic = axis.values[0] > 0 and axis.values[-1] >= 10 * axis.values[0]
        if not logarithmic:
            axes.set_xticks(axis.values, [f"{value:g}" for value in axis.values])
    else:
        logarithmic = axis.log
    if logarithmic:
        axes.set_xscale("log")


def _position(axis: Axis, value: float) -> float:
    """The position of a value on its axis of length 1; those of a list are equally far apart."""
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
