"""Table 4 of the paper: feature sets swapped into models.

    python benchmarks/feature_sets.py
    python benchmarks/feature_sets.py --data FOLDER --sets clip beit3 text+image

Each set is one or more of the data's tables (a+b); by default each table alone and all together. As
in the paper BM3 keeps its features frozen, "since this method heavily relies on them". Memory is
the peak of training and scoring with the tables and item graphs that are read; "memory saved"
compares with the model's first set, same seed. Models: VBPR, BM3 and FREEDOM.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import alignrec_pyg
from alignrec_pyg import experiments
from alignrec_pyg.checks import unknown_names
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import EXPERIMENT, option

SAVED = "memory saved %"


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    default_models = ("VBPR", "BM3", "FREEDOM")

    sets: Annotated[
        tuple[str, ...],
        option(EXPERIMENT, "Feature sets.", "NAME[+NAME] ...", show_default="each table, then all"),
    ] = ()


def swap(options: Options) -> int:
    """Runs the experiment."""
    session = options.session()
    models, not_run = session.runnable()
    features = session.data.features
    all_together = ["+".join(features)] if len(features) > 1 else []
    texts = dict.fromkeys(options.sets or [*features, *all_together])
    problems = [p for text in texts for p in unknown_names("feature", text.split("+"), features)]
    if problems:
        raise experiments.SettingsError(problems)
    models = {
        name: settings.with_changes(freeze_features=True)
        if settings.model is alignrec_pyg.BM3
        else settings
        for name, settings in models.items()
    }
    rows = {(name, text): f"{name} on {text}" for name in models for text in texts}
    cells = [
        cell
        for (name, text), row in rows.items()
        for cell in session.cells(row, models[name], features=text.split("+"))
    ]
    outcome = session.run(cells)
    first = {row: rows[name, next(iter(texts))] for (name, _), row in rows.items()}
    return session.conclude(
        "feature_sets",
        "feature sets swapped, test links",
        outcome,
        models=models,
        measure=with_memory(session.measure, outcome.results, first),
        pairs=[(row, first[row]) for row in rows.values() if row != first[row]],
        not_run=not_run,
        style=experiments.TableStyle(unmarked=(SAVED,)),
        notes=session.papers(experiments.table_4),
    )


def with_memory(
    measure: experiments.Measure,
    results: Sequence[experiments.CellResult],
    first: Mapping[str, str],
) -> experiments.Measure:
    """The test metrics, and the memory saved against the row in ``first``, same seed."""
    memory = {
        (cell.row, cell.seed): cell.peak_bytes + cell.content_bytes
        for cell in results
        if cell.peak_bytes is not None
    }

    def measured(cell: experiments.CellResult) -> experiments.Measurement:
        plain = measure(cell)
        own, base = memory.get((cell.row, cell.seed)), memory.get((first[cell.row], cell.seed))
        saved = 100 * (1 - own / base) if own is not None and base else float("nan")
        return plain._replace(values={**plain.values, SAVED: saved})

    return measured


main = script(Options, swap, __doc__)

if __name__ == "__main__":
    sys.exit(main())
