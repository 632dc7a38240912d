"""Tables 6 and 8 of the paper: AlignRec without each of its parts.

    python benchmarks/ablation.py
    python benchmarks/ablation.py --data FOLDER --set AlignRec.lr=1e-3

The weight of an alignment is set to 0 (w/o CCA, UIA, REG), or one feature set is left out of the
features, the item graph and REG (w/o image, w/o text, ... by the names of the data's tables). One
more row has REG as in the paper's equation; the published figures have that of the code. The paper
encodes an item anew from its other modality; here its other tables stay as they are. The other
settings stay as they are, as in the paper. Five seeds by default.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import Seeds

MODEL = "AlignRec"


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    models: tuple[str, ...] = field(default=(MODEL,), init=False)
    seeds: Seeds = 5


def ablate(options: Options) -> int:
    """Runs the experiment."""
    session = options.session()
    full = session.required(MODEL)
    variants = {
        MODEL: full,
        "w/o CCA": full.with_changes(cca_weight=0.0),
        "w/o UIA": full.with_changes(uia_weight=0.0),
        "w/o REG": full.with_changes(reg_weight=0.0),
        "REG of the paper's equation": full.with_changes(
            reg_similarity="cosine", reg_target="frozen"
        ),
    }
    cells = session.cells_of(variants)
    features = session.data.features
    for left_out in features if len(features) > 1 else ():
        rest = [name for name in features if name != left_out]
        cells += session.cells(f"w/o {left_out}", full, features=rest)
    return session.conclude(
        "ablation",
        "AlignRec without each of its parts, test links",
        session.run(cells),
        reference=MODEL,
        paper=session.papers(experiments.table_8),
        paper_source="Tables 6 (@10, one run) and 8 (@20, means of 5 seeds)",
        notes=[
            "w/o a feature set: its table is left out of features, item graph and REG; the paper "
            "encodes the items anew from what is left",
            "REG of the paper's equation: cosines of content vectors, towards the encoder's "
            "features instead of the table in training",
        ],
    )


main = script(Options, ablate, __doc__)

if __name__ == "__main__":
    sys.exit(main())
