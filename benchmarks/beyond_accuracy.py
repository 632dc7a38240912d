"""What models recommend, however right it is: coverage, concentration, novelty, diversity.

    python benchmarks/beyond_accuracy.py
    python benchmarks/beyond_accuracy.py --data FOLDER --k 10

Nothing is trained that an earlier run of another script with the same settings and folder has left.
The definitions are those of ``alignrec_pyg.beyond_accuracy``.
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
from alignrec_pyg.cli.arguments import make_parser, positive_int
from alignrec_pyg.evaluation.beyond_accuracy import beyond_accuracy, intra_list_diversity
from alignrec_pyg.evaluation.metrics import user_metrics
from alignrec_pyg.experiments.cells import RANKED, TEST
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.experiments.statistics import Measurement
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.graph import links_to_predict

_NAMES = {
    "coverage": "coverage",
    "gini": "Gini",
    "average_popularity": "average popularity",
    "long_tail_share": "long-tail share",
    "novelty": "novelty (bits)",
    "personalization": "personalization",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--k", type=positive_int, default=20, metavar="K", help="length of the lists (20)"
    )
    return command.main("beyond_accuracy.py", parser, _beyond, arguments)


def _beyond(session: Session) -> int:
    k = session.options.k
    if k > RANKED:
        raise SettingsError([f"--k {k}: needs to be {RANKED} or less"])
    models, not_run = session.runnable()
    data = session.data
    links = links_to_predict(data.test)

    def measure(cell: CellResult) -> Measurement:
        ranking = cell.rankings[TEST]
        users = user_metrics(ranking, links, k)
        found = beyond_accuracy(ranking, data.train, k)
        values = {f"recall@{k}": users.recall.double().mean().item()}
        values |= {title: getattr(found, name) for name, title in _NAMES.items()}
        for feature in data.features:
            diversity = intra_list_diversity(ranking, data.train, feature, k)
            values[f"diversity ({feature})"] = diversity.diversity
        return Measurement(values, users.user, users.recall)

    cells = [cell for name, settings in models.items() for cell in session.cells(name, settings)]
    return session.conclude(
        "beyond_accuracy",
        f"beyond accuracy, lists of {k} for the test users",
        session.run(cells),
        measure=measure,
        compared=False,
        not_run=not_run,
        style=TableStyle(costs=False, unmarked=None),
        notes=[
            "coverage: share of all items recommended; Gini: 0 if all alike, towards 1 if few take "
            "all; average popularity: train links of a recommended item; long-tail share: items "
            "with fewer than 4; diversity: one minus the mean cosine within a list"
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
