"""Table 4 of the paper: feature sets swapped into models.

    python benchmarks/feature_sets.py
    python benchmarks/feature_sets.py --data FOLDER --sets clip beit3 text+image

Each set is one or more of the data's tables (``a+b``); by default each table alone and all
together. As in the paper BM3 keeps its features frozen, "since this method heavily relies on them".
Memory is that of training and scoring; ``memory saved`` compares with the model's first set.
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

from dataclasses import replace

from benchmarks import command
from benchmarks.cells import CellResult
from benchmarks.command import Session
from benchmarks.paper_results import table_4
from benchmarks.presets import BM3Preset
from benchmarks.settings import SettingsError, unknown_names
from benchmarks.summary import Measure, Measurement

MODELS = ("VBPR", "BM3", "FREEDOM")
SAVED = "memory saved %"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`benchmarks.command.main`)."""
    parser = command.make_parser(__doc__, models=MODELS)
    parser.add_argument(
        "--sets", nargs="+", metavar="NAME[+NAME]", help="feature sets (each table, then all)"
    )
    return command.main("feature_sets.py", parser, _swap, arguments)


def _swap(session: Session) -> int:
    presets, not_run = session.runnable()
    features = session.data.features
    sets = [text.split("+") for text in session.options.sets or _default_sets(features)]
    problems = [problem for names in sets for problem in unknown_names("feature", names, features)]
    if problems:
        raise SettingsError(problems)
    cells = []
    for model, preset in presets.items():
        frozen = replace(preset, freeze_features=True) if isinstance(preset, BM3Preset) else preset
        for names in sets:
            cells += session.cells(f"{model} on {'+'.join(names)}", frozen, features=names)
    outcome = session.run(cells)
    return session.conclude(
        "feature_sets",
        "feature sets swapped, test links",
        outcome,
        measure=_with_memory(session.measure, outcome.results),
        compared=False,
        not_run=not_run,
        notes=table_4(session.data.name, session.data.report),
    )


def _default_sets(features: Sequence[str]) -> list[str]:
    return [*features, "+".join(features)] if len(features) > 1 else list(features)


def _with_memory(measure: Measure, results: Sequence[CellResult]) -> Measure:
    """The test metrics, and the memory saved against the model's first set, same seed."""
    first: dict[tuple[str, int], int | None] = {}
    for cell in results:
        first.setdefault((cell.model, cell.seed), cell.peak_bytes)

    def measured(cell: CellResult) -> Measurement:
        plain, base = measure(cell), first[cell.model, cell.seed]
        saved = 100 * (1 - cell.peak_bytes / base) if cell.peak_bytes and base else float("nan")
        return plain._replace(values={**plain.values, SAVED: saved})

    return measured


if __name__ == "__main__":
    sys.exit(main())
