"""Figures 3 and 6 of the paper: AlignRec against the weights of its alignments.

    python benchmarks/sensitivity.py
    python benchmarks/sensitivity.py --data FOLDER --values 0.01 0.1 1

One weight at a time takes the values (alpha: CCA, beta: UIA, lambda: REG), the others stay. The
paper chooses by such curves on test links; the picture shows test recall@20, the table validation
too. The values are those of the paper's figures: alpha and beta up to 0.1, lambda up to 1.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import EXPERIMENT, option, weight

MODEL = "AlignRec"
WEIGHTS = {"alpha": "cca_weight", "beta": "uia_weight", "lambda": "reg_weight"}
_VALIDATION = "validation recall@20"


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    models: tuple[str, ...] = field(default=(MODEL,), init=False)
    values: Annotated[
        tuple[float, ...],
        option(EXPERIMENT, "Values of each weight.", "X ...", parser=weight),
    ] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def vary(options: Options) -> int:
    """Runs the experiment."""
    session = options.session()
    settings = session.required(MODEL)
    values = sorted(set(options.values))
    cells = [
        cell
        for symbol, argument in WEIGHTS.items()
        for value in values
        for cell in session.cells(_row(symbol, value), settings.with_changes(**{argument: value}))
    ]

    def measure(cell: experiments.CellResult) -> experiments.Measurement:
        plain = session.measure(cell)
        return plain._replace(values={**plain.values, _VALIDATION: cell.val_metrics["recall@20"]})

    def draw(table: Sequence[experiments.Row], path: Path) -> None:
        by_name = {row.name: row for row in table}
        panels = {
            f"{symbol} ({argument})": {
                name: curve(
                    {v: by_name[_row(symbol, v)] for v in values if _row(symbol, v) in by_name},
                    column,
                )
                for name, column in (("test", "recall@20"), ("validation", _VALIDATION))
            }
            for symbol, argument in WEIGHTS.items()
            if any(_row(symbol, value) in by_name for value in values)
        }
        title = f"AlignRec on {session.data.name}"
        experiments.charts.write_curves(path, title, panels, "recall@20")

    return session.conclude(
        "sensitivity",
        "AlignRec against the weights of its alignments",
        session.run(cells),
        measure=measure,
        compared=False,
        draw=draw,
        notes=[
            "the other weights stay at "
            + ", ".join(f"{symbol} {settings.hparams[name]}" for symbol, name in WEIGHTS.items())
        ],
    )


def curve(rows: Mapping[float, experiments.Row], column: str) -> experiments.charts.Curve:
    """A column of the rows against their values; a value whose cells failed has no point."""
    deviations = [row.std[column] for row in rows.values() if row.std is not None]
    return experiments.charts.Curve(
        x=list(rows),
        mean=[row.mean[column] for row in rows.values()],
        std=deviations if len(deviations) == len(rows) else None,
    )


def _row(symbol: str, value: float) -> str:
    return f"{symbol} = {value!r}"


main = script(Options, vary, __doc__)

if __name__ == "__main__":
    sys.exit(main())
