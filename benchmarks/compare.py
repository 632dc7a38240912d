"""Trains and compares models on one data set; prints and saves the table.

    python benchmarks/compare.py
    python benchmarks/compare.py --data FOLDER --models BPR LightGCN --seeds 3

Without arguments: the models of the paper's Table 2 on generated data, in two minutes. ``--data``
names a folder in MMRec format (``<name>.inter`` and ``.npy`` feature tables); then the published
settings apply.
``<out>/compare.json``, ``.csv``, ``.md`` and ``.png`` hold the results. Finished cells (one model
with one seed each) stay in ``<out>/cells`` and are not run again; an interrupted one continues.
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

from alignrec_pyg.cli import command
from alignrec_pyg.cli.arguments import make_parser
from alignrec_pyg.experiments.paper import table_2
from alignrec_pyg.experiments.session import Session


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison.

    Returns:
        As :func:`alignrec_pyg.cli.command.main`.
    """
    parser = make_parser(__doc__)
    parser.add_argument(
        "--aligned",
        nargs="+",
        default=[],
        metavar="NAME",
        help="models that also run with AlignRec's alignments, each in a row of its own",
    )
    return command.main("compare.py", parser, _compare, arguments)


def _compare(session: Session) -> int:
    models, not_run = session.runnable()
    cells = [cell for name, settings in models.items() for cell in session.cells(name, settings)]
    for name, settings in session.wearers(session.options.aligned).items():
        cells += session.cells(f"{name} + alignment", settings, alignment=session.alignment())
    outcome = session.run(cells)
    return session.conclude(
        "compare",
        f"{len({cell.row for cell in cells})} models, test links",
        outcome,
        not_run=not_run,
        paper=session.papers(table_2),
    )


if __name__ == "__main__":
    sys.exit(main())
