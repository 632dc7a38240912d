"""AlignRec's alignment losses, worn by other models.

    python benchmarks/worn_alignment.py
    python benchmarks/worn_alignment.py --data FOLDER --models MGCN VBPR

The paper says that its alignments can be integrated into existing approaches, and gives no figures.
Each model runs alone and with CCA, UIA and REG added to its loss, with AlignRec's weights unless
``--cca``, ``--uia``, ``--reg`` say otherwise; all else is equal. Any model that tells content from
ID vectors can wear them; LightGCN has no content, so ``ContentLightGCN`` stands for it.
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
from alignrec_pyg.cli.arguments import make_parser, weight
from alignrec_pyg.experiments.session import Session

MODELS = ("ContentLightGCN", "VBPR", "MGCN")
_WEIGHTS = {"cca": 0.01, "uia": 0.1, "reg": 0.1}
"""AlignRec's own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__, models=MODELS)
    for name, default in _WEIGHTS.items():
        parser.add_argument(
            f"--{name}",
            type=weight,
            default=default,
            metavar="X",
            help=f"its weight ({default})",
        )
    return command.main("worn_alignment.py", parser, _wear, arguments)


def _wear(session: Session) -> int:
    options = session.options
    models = session.wearers(session.models)
    alignment = session.alignment(
        cca_weight=options.cca, uia_weight=options.uia, reg_weight=options.reg
    )
    cells = []
    for name, settings in models.items():
        cells += session.cells(name, settings)
        cells += session.cells(f"{name} + alignment", settings, alignment=alignment)
    return session.conclude(
        "worn_alignment",
        "models alone and with AlignRec's alignments, test links",
        session.run(cells),
        pairs=[(f"{name} + alignment", name) for name in models],
        notes=[f"weights: CCA {options.cca}, UIA {options.uia}, REG {options.reg}"],
    )


if __name__ == "__main__":
    sys.exit(main())
