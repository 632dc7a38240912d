"""Table 5 of the paper: models without one of the modalities.

    python benchmarks/without_modality.py
    python benchmarks/without_modality.py --data FOLDER --models BM3 FREEDOM MGCN

Each of the data's feature sets in turn is absent: not zeros, but no table, no part of the item
graph, no term of the loss. The paper leaves out vision on Baby.
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
from alignrec_pyg.experiments.paper import table_5
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import SettingsError

MODELS = ("VBPR", "BM3", "FREEDOM")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__, models=MODELS)
    return command.main("without_modality.py", parser, _leave_out, arguments)


def _leave_out(session: Session) -> int:
    models, not_run = session.runnable()
    features = session.data.features
    if len(features) < 2:
        raise SettingsError([f"--data: needs two feature sets to leave one out (got {features})"])
    cells = []
    for model, settings in models.items():
        cells += session.cells(model, settings)
        for left_out in features:
            rest = [name for name in features if name != left_out]
            cells += session.cells(f"{model} w/o {left_out}", settings, features=rest)
    return session.conclude(
        "without_modality",
        "models without one modality, test links",
        session.run(cells),
        pairs=[(model, f"{model} w/o {left_out}") for model in models for left_out in features],
        not_run=not_run,
        paper=session.papers(table_5),
        paper_source="Table 5",
    )


if __name__ == "__main__":
    sys.exit(main())
