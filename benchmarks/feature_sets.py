"""Table 4 of the paper: feature sets swapped into models.

    python benchmarks/feature_sets.py
    python benchmarks/feature_sets.py --data FOLDER --sets clip beit3 text+image

Each set is one or more of the data's tables (``a+b``); by default each table alone and all
together. As in the paper BM3 keeps its features frozen, "since this method heavily relies on them".
Memory is the peak of training and scoring with the tables and item graphs that are read; ``memory
saved`` compares with the model's first set, same seed.
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


from alignrec_pyg.checks import unknown_names
from alignrec_pyg.cli import command
from alignrec_pyg.cli.arguments import make_parser
from alignrec_pyg.experiments.paper import table_4
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.experiments.statistics import Measure, Measurement
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.models import BM3

MODELS = ("VBPR", "BM3", "FREEDOM")
SAVED = "memory saved %"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__, models=MODELS)
    parser.add_argument(
        "--sets", nargs="+", metavar="NAME[+NAME]", help="feature sets (each table, then all)"
    )
    return command.main("feature_sets.py", parser, _swap, arguments)


def _swap(session: Session) -> int:
    models, not_run = session.runnable()
    features = session.data.features
    texts = dict.fromkeys(session.options.sets or _default_sets(features))
    sets = [text.split("+") for text in texts]
    problems = [problem for names in sets for problem in unknown_names("feature", names, features)]
    if problems:
        raise SettingsError(problems)
    models = {
        model: settings.with_changes(freeze_features=True) if settings.model is BM3 else settings
        for model, settings in models.items()
    }
    rows = {(model, text): f"{model} on {text}" for model in models for text in texts}
    cells = [
        cell
        for (model, text), row in rows.items()
        for cell in session.cells(row, models[model], features=text.split("+"))
    ]
    outcome = session.run(cells)
    first = {row: rows[model, next(iter(texts))] for (model, _), row in rows.items()}
    return session.conclude(
        "feature_sets",
        "feature sets swapped, test links",
        outcome,
        models=models,
        measure=with_memory(session.measure, outcome.results, first),
        pairs=[(row, first[row]) for row in rows.values() if row != first[row]],
        not_run=not_run,
        style=TableStyle(unmarked=(SAVED,)),
        notes=session.papers(table_4),
    )


def _default_sets(features: Sequence[str]) -> list[str]:
    return [*features, "+".join(features)] if len(features) > 1 else list(features)


def with_memory(
    measure: Measure, results: Sequence[CellResult], first: Mapping[str, str]
) -> Measure:
    """The test metrics, and the memory saved against another row, same seed.

    Args:
        measure: The test metrics.
        results: All finished cells.
        first: For every row the one it is compared with.
    """
    memory = {
        (cell.row, cell.seed): cell.peak_bytes + cell.content_bytes
        for cell in results
        if cell.peak_bytes is not None
    }

    def measured(cell: CellResult) -> Measurement:
        plain = measure(cell)
        own, base = memory.get((cell.row, cell.seed)), memory.get((first[cell.row], cell.seed))
        saved = 100 * (1 - own / base) if own is not None and base else float("nan")
        return plain._replace(values={**plain.values, SAVED: saved})

    return measured


if __name__ == "__main__":
    sys.exit(main())
