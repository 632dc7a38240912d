"""AlignRec's alignment losses, added to those of other models.

    python benchmarks/baseline_alignment.py
    python benchmarks/baseline_alignment.py --data FOLDER --models MGCN VBPR

The paper says that its alignments can be integrated into existing approaches, and gives no figures.
Each model runs as it is and with CCA, UIA and REG added to its loss, with AlignRec's weights unless
--cca, --uia, --reg give others; all else is equal. Any model with separate content and ID vectors
can take them; LightGCN has no content, so ContentLightGCN stands for it. Models: ContentLightGCN,
VBPR and MGCN.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import EXPERIMENT, option, weight


def _weight(name: str) -> Any:
    return option(EXPERIMENT, f"Weight of {name}.", "X", parser=weight, show_default="AlignRec's")


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    default_models = ("ContentLightGCN", "VBPR", "MGCN")

    cca: Annotated[float | None, _weight("CCA")] = None
    uia: Annotated[float | None, _weight("UIA")] = None
    reg: Annotated[float | None, _weight("REG")] = None


def align(options: Options) -> int:
    """Runs the experiment."""
    session = options.session()
    models = session.alignable(session.models)
    alignment = session.alignment(
        cca_weight=options.cca, uia_weight=options.uia, reg_weight=options.reg
    )
    cca, uia, reg = (alignment[f"{name}_weight"] for name in ("cca", "uia", "reg"))
    cells = []
    for name, settings in models.items():
        cells += session.cells(name, settings)
        cells += session.cells(f"{name} + alignment", settings, alignment=alignment)
    return session.conclude(
        "baseline_alignment",
        "models alone and with AlignRec's alignments, test links",
        session.run(cells),
        pairs=[(f"{name} + alignment", name) for name in models],
        notes=[f"weights: CCA {cca}, UIA {uia}, REG {reg}"],
    )


main = script(Options, align, __doc__)

if __name__ == "__main__":
    sys.exit(main())
