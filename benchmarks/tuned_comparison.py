"""Table 2 of the paper: all models, each with the settings that are best on validation.

    python benchmarks/tuned_comparison.py
    python benchmarks/tuned_comparison.py --data FOLDER --models AlignRec FREEDOM LightGCN

Every model gets the same budget: the points of its grid in ``experiments/settings.py``, four
each with ``--grid small``, trained with the first seed, equal limits of epochs and equal patience.
The point of the best validation recall@20 then runs with all seeds, and its test links are scored.
``--grid published`` runs the papers' own grids, whose sizes differ. ``--with-test-selected`` adds a
column that older tables hold: the best test recall@20 of the grid's points, chosen by looking at
the test links.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

from alignrec_pyg.cli import command
from alignrec_pyg.cli.arguments import make_parser
from alignrec_pyg.experiments.paper import table_2
from alignrec_pyg.experiments.prepare import SYNTHETIC
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.runner import RunOutcome
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import (
    PAPER_GRIDS,
    SEARCH_GRIDS,
    Grid,
    ModelSettings,
    SettingsError,
)
from alignrec_pyg.experiments.statistics import Measure, Measurement
from alignrec_pyg.experiments.store import CellResult

TEST_SELECTED = "test-selected recall@20 (one seed)"


GRIDS = {"small": SEARCH_GRIDS, "published": PAPER_GRIDS}
_PATIENCE = 30
"""That of AlignRec's authors, the longest; for all models, unless ``--patience`` says otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__)
    parser.add_argument("--grid", choices=GRIDS, default="small", help="points to try (small)")
    parser.add_argument(
        "--with-test-selected",
        action="store_true",
        help="add the column of older tables, chosen on the test links",
    )
    return command.main("tuned_comparison.py", parser, _search, arguments)


def _search(session: Session) -> int:
    options = session.options
    grids = {model.__name__: grid for model, grid in GRIDS[options.grid].items()}
    models, not_run = session.runnable()
    _refuse_axes(session, grids, models)
    if options.patience is None and options.data != SYNTHETIC:  # whose models agree on one
        models = {name: p.with_changes(patience=_PATIENCE) for name, p in models.items()}
    candidates = {name: settings.points(grids[name]) for name, settings in models.items()}
    trial_cells = [
        cell
        for name, found in candidates.items()
        for number, settings in enumerate(found)
        for cell in session.cells(_trial(name, number), settings, seeds=session.seeds[:1])
    ]
    trials = session.run(trial_cells)
    chosen, best_on_test = choose(candidates, trials.results)
    finals = session.run(
        [cell for name, settings in chosen.items() for cell in session.cells(name, settings)]
    )
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
        RunOutcome(results=finals.results, failed={**trials.failed, **finals.failed}),
        models=chosen,
        measure=measure,
        not_run=not_run,
        paper=session.papers(table_2),
        style=TableStyle(unmarked=(TEST_SELECTED,)),
        notes=notes,
    )


def _refuse_axes(
    session: Session, grids: Mapping[str, Grid], models: Mapping[str, ModelSettings]
) -> None:
    """What the grid decides cannot be given too.

    Raises:
        SettingsError: If it is.
    """
    problems = [
        f"{name} has no {session.options.grid} grid" for name in models if name not in grids
    ]
    given = {text.partition("=")[0] for text in session.options.set}
    for name in models:
        for axis in grids.get(name, ()):
            if f"{name}.{axis}" in given:
                problems.append(f"--set {name}.{axis}: the grid decides it")
            if axis == "lr" and session.options.lr is not None:
                problems.append(f"--lr: the grid of {name} decides it")
    if problems:
        raise SettingsError(problems)


def _trial_lines(
    candidates: Mapping[str, Sequence[ModelSettings]],
    grids: Mapping[str, Grid],
    results: Sequence[CellResult],
    chosen: Mapping[str, ModelSettings],
) -> list[str]:
    by_row = {result.row: result for result in results}
    lines = []
    for name, found in candidates.items():
        told = []
        for number, settings in enumerate(found):
            result = by_row.get(_trial(name, number))
            value = "failed" if result is None else f"{result.val_metrics['recall@20']:.4f}"
            point = ", ".join(f"{axis} {_value(settings, axis)}" for axis in grids[name])
            told.append(f"{point}: {value}{' (chosen)' if chosen.get(name) is settings else ''}")
        lines.append(f"  {name}: {'; '.join(told)}")
    return lines


def choose(
    candidates: dict[str, list[ModelSettings]], results: Sequence[CellResult]
) -> tuple[dict[str, ModelSettings], dict[str, float]]:
    """Each model's point of the best validation recall@20, and the best test recall@20.

    Of equal points the first one wins; a model all of whose points failed has none.
    """
    chosen, best_on_test = {}, {}
    by_row = {result.row: result for result in results}
    for name, found in candidates.items():
        done = {
            number: by_row[_trial(name, number)]
            for number in range(len(found))
            if _trial(name, number) in by_row
        }
        if done:
            best = max(done, key=lambda number: done[number].val_metrics["recall@20"])
            chosen[name] = found[best]
            best_on_test[name] = max(cell.metrics["recall@20"] for cell in done.values())
    return chosen, best_on_test


def _with_test_selected(measure: Measure, best_on_test: dict[str, float]) -> Measure:
    def measured(cell: CellResult) -> Measurement:
        plain = measure(cell)
        values = {**plain.values, TEST_SELECTED: best_on_test[cell.row]}
        return plain._replace(values=values, seedless=(TEST_SELECTED,))

    return measured


def _trial(name: str, number: int) -> str:
    return f"{name}, point {number + 1}"


def _value(settings: ModelSettings, name: str) -> object:
    hparams = settings.hparams
    return hparams[name] if name in hparams else getattr(settings.config, name)


if __name__ == "__main__":
    sys.exit(main())
