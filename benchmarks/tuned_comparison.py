"""Table 2 of the paper: all models, each with the settings that are best on validation.

    python benchmarks/tuned_comparison.py
    python benchmarks/tuned_comparison.py --data FOLDER --models AlignRec FREEDOM LightGCN

Every model gets the same budget: the four points of its grid in ``benchmarks/grids.py``, trained
with the first seed. The point of the best validation recall@20 then runs with all seeds, and its
test links are scored. ``--with-test-selected`` adds a column that older tables hold: the best test
recall@20 of the grid's points, chosen by looking at the test links.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

from benchmarks import command
from benchmarks.cells import CellResult
from benchmarks.command import Session
from benchmarks.grids import SEARCH, points
from benchmarks.paper_results import table_2
from benchmarks.presets import Preset
from benchmarks.runner import RunOutcome
from benchmarks.summary import Measure, Measurement

TEST_SELECTED = "test-selected recall@20 (one seed)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`benchmarks.command.main`)."""
    parser = command.make_parser(__doc__)
    parser.add_argument(
        "--with-test-selected",
        action="store_true",
        help="add the column of older tables, chosen on the test links",
    )
    return command.main("tuned_comparison.py", parser, _search, arguments)


def _search(session: Session) -> int:
    presets, not_run = session.runnable()
    candidates = {name: points(preset, SEARCH[name]) for name, preset in presets.items()}
    trial_cells = [
        cell
        for name, found in candidates.items()
        for number, preset in enumerate(found)
        for cell in session.cells(_trial(name, number), preset, seeds=session.seeds[:1])
    ]
    trials = session.run(trial_cells)
    chosen, best_on_test = choose(candidates, trials.results)
    finals = session.run(
        [cell for name, preset in chosen.items() for cell in session.cells(name, preset)]
    )
    failed = {**trials.failed, **finals.failed}
    outcome = RunOutcome(results=finals.results, failed=failed)
    measure = session.measure
    if session.options.with_test_selected:
        measure = _with_test_selected(measure, best_on_test)
    return session.conclude(
        "tuned_comparison",
        f"{len(chosen)} models, settings chosen on validation",
        outcome,
        presets=chosen,
        measure=measure,
        not_run=not_run,
        paper=table_2(session.data.name, session.data.report),
        notes=[
            "settings: of each model's grid (" + _told(presets) + "), the point of the best "
            "validation recall@20 with the first seed:",
            *(
                f"  {name}: " + ", ".join(f"{k} {_value(preset, k)}" for k in SEARCH[name])
                for name, preset in chosen.items()
            ),
            *(
                [
                    f"{TEST_SELECTED}: the grid's point that is best on the test links, as older "
                    "tables were made; an optimistic figure that no user will see"
                ]
                if session.options.with_test_selected
                else []
            ),
        ],
    )


def choose(
    candidates: dict[str, list[Preset]], results: Sequence[CellResult]
) -> tuple[dict[str, Preset], dict[str, float]]:
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
        return plain._replace(values={**plain.values, TEST_SELECTED: best_on_test[cell.row]})

    return measured


def _trial(name: str, number: int) -> str:
    return f"{name}, point {number + 1}"


def _value(preset: Preset, name: str) -> object:
    hparams = preset.hparams()
    return hparams[name] if name in hparams else getattr(preset.train, name)


def _told(presets: dict[str, Preset]) -> str:
    sizes = {len(points(preset, SEARCH[name])) for name, preset in presets.items()}
    return f"{', '.join(map(str, sorted(sizes)))} points"


if __name__ == "__main__":
    sys.exit(main())
