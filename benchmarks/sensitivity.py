"""Figures 3 and 6 of the paper: AlignRec against the weights of its alignments.

    python benchmarks/sensitivity.py
    python benchmarks/sensitivity.py --data FOLDER --values 0.01 0.1 1

One weight at a time takes the values (alpha: CCA, beta: UIA, lambda: REG), the others stay. The
paper chooses by such curves on test links; the picture shows test recall@20, the table validation
too.
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
from alignrec_pyg.cli.arguments import make_parser, weight
from alignrec_pyg.experiments.charts import Curve, write_curves
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.statistics import Measurement, Row
from alignrec_pyg.experiments.store import CellResult

MODEL = "AlignRec"
WEIGHTS = {"alpha": "cca_weight", "beta": "uia_weight", "lambda": "reg_weight"}
VALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the paper's figures: alpha and beta up to 0.1, lambda up to 1."""
_VALIDATION = "validation recall@20"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__, models=[MODEL], choosable=False)
    parser.add_argument(
        "--values",
        nargs="+",
        type=weight,
        default=VALUES,
        metavar="X",
        help="of each weight",
    )
    return command.main("sensitivity.py", parser, _vary, arguments)


def _vary(session: Session) -> int:
    settings = session.required(MODEL)
    values = sorted(set(session.options.values))
    cells = [
        cell
        for symbol, argument in WEIGHTS.items()
        for value in values
        for cell in session.cells(_row(symbol, value), settings.with_changes(**{argument: value}))
    ]

    def measure(cell: CellResult) -> Measurement:
        plain = session.measure(cell)
        return plain._replace(values={**plain.values, _VALIDATION: cell.val_metrics["recall@20"]})

    def draw(table: Sequence[Row], path: Path) -> None:
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
        write_curves(path, f"AlignRec on {session.data.name}", panels, "recall@20")

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


def curve(rows: Mapping[float, Row], column: str) -> Curve:
    """A column of the rows against their values; a value whose cells failed has no point."""
    spreads = [row.std for row in rows.values()]
    return Curve(
        x=list(rows),
        mean=[row.mean[column] for row in rows.values()],
        std=None
        if any(spread is None for spread in spreads)
        else [spread[column] for spread in spreads if spread is not None],
    )


def _row(symbol: str, value: float) -> str:
    return f"{symbol} = {value!r}"


if __name__ == "__main__":
    sys.exit(main())
