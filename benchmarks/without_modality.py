"""Table 5 of the paper: models without one of the modalities.

    python benchmarks/without_modality.py
    python benchmarks/without_modality.py --data FOLDER --models BM3 FREEDOM MGCN

Each of the data's feature sets in turn is left out: it is not replaced by zeros, but there is no
table, no part of the item graph and no term of the loss. The paper leaves out vision on Baby.
Models: VBPR, BM3 and FREEDOM.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    default_models = ("VBPR", "BM3", "FREEDOM")


def leave_out(options: Options) -> int:
    """Runs the experiment."""
    session = options.session()
    models, not_run = session.runnable()
    features = session.data.features
    if len(features) < 2:
        problem = f"--data: needs two feature sets to leave one out (got {features})"
        raise experiments.SettingsError([problem])
    cells = []
    for name, settings in models.items():
        cells += session.cells(name, settings)
        for left_out in features:
            rest = [feature for feature in features if feature != left_out]
            cells += session.cells(f"{name} w/o {left_out}", settings, features=rest)
    return session.conclude(
        "without_modality",
        "models without one modality, test links",
        session.run(cells),
        pairs=[(name, f"{name} w/o {left_out}") for name in models for left_out in features],
        not_run=not_run,
        paper=session.papers(experiments.table_5),
        paper_source="Table 5",
    )


main = script(Options, leave_out, __doc__)

if __name__ == "__main__":
    sys.exit(main())
