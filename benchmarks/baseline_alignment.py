"""AlignRec's alignment losses, added to those of other models.

    python benchmarks/baseline_alignment.py
    python benchmarks/baseline_alignment.py --data FOLDER --models MGCN VBPR

The paper says that its alignments can be integrated into existing approaches, and gives no figures.
Each model runs alone and with CCA, UIA and REG added to its loss, with AlignRec's weights unless
--cca, --uia, --reg say otherwise; all else is equal. Any model with separate content and ID vectors
can take them; LightGCN has no content, so ContentLightGCN stands for it. Models: ContentLightGCN,
VBPR and MGCN.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import EXPERIMENT, option, weight


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    default_models = ("ContentLightGCN", "VBPR", "MGCN")

    cca: Annotated[float, option(EXPERIMENT, "Weight of CCA.", "X", parser=weight)] = 0.01
    uia: Annotated[float, option(EXPERIMENT, "Weight of UIA.", "X", parser=weight)] = 0.1
    reg: Annotated[float, option(EXPERIMENT, "Weight of REG.", "X", parser=weight)] = 0.1


def align(options: Options) -> int:
    """Runs the experiment."""
    session = options.session()
    models = session.alignable(session.models)
    alignment = session.alignment(
        cca_weight=options.cca, uia_weight=options.uia, reg_weight=options.reg
    )
    cells = []
    for name, settings in models.items():
        cells += session.cells(name, settings)
        cells += session.cells(f"{name} + alignment", settings, alignment=alignment)
    return session.conclude(
        "baseline_alignment",
        "models alone and with AlignRec's alignments, test links",
        session.run(cells),
        pairs=[(f"{name} + alignment", name) for name in models],
        notes=[f"weights: CCA {options.cca}, UIA {options.uia}, REG {options.reg}"],
    )


main = script(Options, align, __doc__)

if __name__ == "__main__":
    sys.exit(main())
