"""Figure 5 of the paper: recommending items, and for users, of few interactions.

    python benchmarks/long_tail.py
    python benchmarks/long_tail.py --data FOLDER --below 6

The paper tests on the links whose item has fewer than four train links; its published code on the
links of users with fewer than four. All items are ranked, only these links count. Nothing is
trained that an earlier run of another script with the same settings and folder has left.
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
from alignrec_pyg.evaluation.groups import long_tail_links
from alignrec_pyg.evaluation.metrics import user_metrics
from alignrec_pyg.experiments.cells import TEST
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.experiments.statistics import Measurement
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.graph import links_to_predict

MODELS = ("BM3", "MGCN", "FREEDOM", "AlignRec")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__, models=MODELS)
    parser.add_argument(
        "--below", type=positive_int, default=4, metavar="N", help="few means less (4)"
    )
    return command.main("long_tail.py", parser, _long_tail, arguments)


def _long_tail(session: Session) -> int:
    models, not_run = session.runnable()
    below = session.options.below
    links = links_to_predict(session.data.test)
    tails = {
        "item": long_tail_links(session.data.train, links, below=below, of="item"),
        "user": long_tail_links(session.data.train, links, below=below, of="user"),
    }
    if tails["item"].size(1) == 0:
        raise SettingsError([f"--below {below}: no test link has an item of so few train links"])

    def measure(cell: CellResult) -> Measurement:
        values = {}
        for of, tail in tails.items():
            if tail.size(1):
                metrics = user_metrics(cell.rankings[TEST], tail, 20)
                values[f"recall@20, {of}s < {below}"] = metrics.recall.double().mean().item()
                values[f"ndcg@20, {of}s < {below}"] = metrics.ndcg.double().mean().item()
        items = user_metrics(cell.rankings[TEST], tails["item"], 20)
        compared = f"recall@20, items < {below}"
        return Measurement(values, items.user, items.recall, compared=compared)

    cells = [cell for name, settings in models.items() for cell in session.cells(name, settings)]
    return session.conclude(
        "long_tail",
        f"test links of items, and of users, with fewer than {below} train links",
        session.run(cells),
        measure=measure,
        not_run=not_run,
        style=TableStyle(costs=False),
        notes=[
            f"{of}s with fewer than {below} train links: {tail.size(1):,} of {links.size(1):,} "
            f"test links, {tail[0].unique().numel():,} users"
            + ("" if tail.size(1) else " (no column)")
            for of, tail in tails.items()
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
