"""Table 2 of the paper: all models, each with the settings that are best on validation.

    python benchmarks/tuned_comparison.py
    python benchmarks/tuned_comparison.py --data FOLDER --models AlignRec FREEDOM LightGCN

Every model gets the same budget: the points of its grid in alignrec_pyg/experiments/settings.py,
four each with --grid small, trained with the first seed, equal limits of epochs and equal patience.
The point of the best validation recall@20 then runs with all seeds, and its test links are scored.
--grid published runs the papers' own grids, whose sizes differ. --with-test-selected adds a column
that older tables hold: the best test recall@20 of the grid's points, chosen by looking at the test
links.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import EXPERIMENT, option

TEST_SELECTED = "test-selected recall@20 (one seed)"


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    grid: Annotated[Literal["small", "published"], option(EXPERIMENT, "Points to try.")] = "small"
    with_test_selected: Annotated[
        bool,
        option(
            EXPERIMENT,
            "Add the column of older tables, chosen on the test links.",
            name="--with-test-selected",
        ),
    ] = False


def compare_tuned(options: Options) -> int:
    """Runs the experiment."""
    session = options.session()
    by_class = {"small": experiments.SEARCH_GRIDS, "published": experiments.PAPER_GRIDS}
    grids = {model.__name__: grid for model, grid in by_class[options.grid].items()}
    models, not_run = session.runnable()
    if problems := _grid_problems(options, grids, models):
        raise experiments.SettingsError(problems)
    candidates = {name: settings.points(grids[name]) for name, settings in models.items()}
    trials = session.run(
        [
            cell
            for name, points in candidates.items()
            for number, settings in enumerate(points)
            for cell in session.cells(_trial(name, number), settings, seeds=session.seeds[:1])
        ]
    )
    chosen, best_on_test = choose(candidates, trials.results)
    finals = session.run(session.cells_of(chosen))
    measure = session.measure
    notes = [
        f"settings: the point of the best validation recall@20 with seed {session.seeds[0]}, of "
        f"the {options.grid} grid; validation recall@20 of all points:",
        *_trial_lines(candidates, grids, trials.results, chosen),
    ]
    if options.with_test_selected:
        measure = _with_test_selected(measure, best_on_test)
        notes.append(
            f"{TEST_SELECTED}: the grid's point that is best on the test links, as older tables "
            "were made; an optimistic figure that no user will see"
        )
    return session.conclude(
        "tuned_comparison",
        f"{len(chosen)} models, settings chosen on validation",
        experiments.RunOutcome(results=finals.results, failed={**trials.failed, **finals.failed}),
        models=chosen,
        measure=measure,
        not_run=not_run,
        paper=session.papers(experiments.table_2),
        style=experiments.TableStyle(unmarked=(TEST_SELECTED,)),
        notes=notes,
    )


def choose(
    candidates: Mapping[str, Sequence[experiments.ModelSettings]],
    results: Sequence[experiments.CellResult],
) -> tuple[dict[str, experiments.ModelSettings], dict[str, float]]:
    """Each model's point of the best validation recall@20, and the best test recall@20.

    Of equal points the first one wins; a model all of whose points failed has none.
    """
    chosen, best_on_test = {}, {}
    by_row = {result.row: result for result in results}
    for name, points in candidates.items():
        done = {
            number: by_row[_trial(name, number)]
            for number in range(len(points))
            if _trial(name, number) in by_row
        }
        if done:
            best = max(done, key=lambda number: done[number].val_metrics["recall@20"])
            chosen[name] = points[best]
            best_on_test[name] = max(cell.metrics["recall@20"] for cell in done.values())
    return chosen, best_on_test


def _grid_problems(
    options: Options,
    grids: Mapping[str, experiments.Grid],
    models: Mapping[str, experiments.ModelSettings],
) -> list[str]:
    """Options that conflict with the grid."""
    problems = [f"{name} has no {options.grid} grid" for name in models if name not in grids]
    given = {text.partition("=")[0] for text in options.set}
    for name in models:
        for axis in grids.get(name, ()):
            if f"{name}.{axis}" in given:
                problems.append(f"--set {name}.{axis}: the grid decides it")
            if axis == "lr" and options.lr is not None:
                problems.append(f"--lr: the grid of {name} decides it")
    return problems


def _trial_lines(
    candidates: Mapping[str, Sequence[experiments.ModelSettings]],
    grids: Mapping[str, experiments.Grid],
    results: Sequence[experiments.CellResult],
    chosen: Mapping[str, experiments.ModelSettings],
) -> list[str]:
    by_row = {result.row: result for result in results}
    lines = []
    for name, points in candidates.items():
        told = []
        for number, settings in enumerate(points):
            result = by_row.get(_trial(name, number))
            value = "failed" if result is None else f"{result.val_metrics['recall@20']:.4f}"
            values = {**vars(settings.config), **settings.hparams}
            point = ", ".join(f"{axis} {values[axis]}" for axis in grids[name])
            told.append(f"{point}: {value}{' (chosen)' if chosen.get(name) is settings else ''}")
        lines.append(f"  {name}: {'; '.join(told)}")
    return lines


def _with_test_selected(
    measure: experiments.Measure, best_on_test: Mapping[str, float]
) -> experiments.Measure:
    def measured(cell: experiments.CellResult) -> experiments.Measurement:
        plain = measure(cell)
        values = {**plain.values, TEST_SELECTED: best_on_test[cell.row]}
        return plain._replace(values=values, seedless=(TEST_SELECTED,))

    return measured


def _trial(name: str, number: int) -> str:
    return f"{name}, point {number + 1}"


main = script(Options, compare_tuned, __doc__)

if __name__ == "__main__":
    sys.exit(main())
