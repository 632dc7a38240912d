"""Whom, and for which items, models serve well: metrics by activity and by popularity.

    python benchmarks/groups.py
    python benchmarks/groups.py --data FOLDER --models AlignRec LightGCN --num-groups 5

Users in groups of about equal size by their train links; test links by the popularity of their
item: the head takes 20 % of the train links, the tail 20 %, the middle the rest. Nothing is trained
that an earlier run of another script with the same settings and folder has left.
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
from alignrec_pyg.evaluation.groups import activity_groups, popularity_groups
from alignrec_pyg.evaluation.metrics import user_metrics
from alignrec_pyg.experiments.cells import TEST
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.statistics import Measurement
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.graph import links_to_predict

_K = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--num-groups", type=positive_int, default=4, metavar="N", help="of users (4)"
    )
    return command.main("groups.py", parser, _by_group, arguments)


def _by_group(session: Session) -> int:
    models, not_run = session.runnable()
    train, links = session.data.train, links_to_predict(session.data.test)

    def measure(cell: CellResult) -> Measurement:
        users = user_metrics(cell.rankings[TEST], links, _K)
        values = {}
        for group in activity_groups(users, train, num_groups=session.options.num_groups):
            if group.num_users:
                values[f"users {group.min_degree}-{group.max_degree}"] = group.recall
        for item_group in popularity_groups(cell.rankings[TEST], train, links, _K):
            if item_group.num_links:
                values[f"items: {item_group.name}"] = item_group.recall
        return Measurement(values, users.user, users.recall)

    cells = [cell for name, settings in models.items() for cell in session.cells(name, settings)]
    outcome = session.run(cells)
    return session.conclude(
        "groups",
        f"recall@{_K} on test links, by users' activity and items' popularity",
        outcome,
        measure=measure,
        compared=False,
        not_run=not_run,
        style=TableStyle(costs=False),
        notes=_sizes(session, outcome.results[0]) if outcome.results else [],
    )


def _sizes(session: Session, cell: CellResult) -> list[str]:
    train, links = session.data.train, links_to_predict(session.data.test)
    users = user_metrics(cell.rankings[TEST], links, _K)
    lines = [
        f"users {group.min_degree}-{group.max_degree}: {group.num_users:,} users with so many "
        "train links"
        for group in activity_groups(users, train, num_groups=session.options.num_groups)
        if group.num_users
    ]
    return lines + [
        f"items: {group.name}: {group.num_items:,} items with {group.min_degree} to "
        f"{group.max_degree} train links, {group.num_links:,} test links of "
        f"{group.num_users:,} users"
        for group in popularity_groups(cell.rankings[TEST], train, links, _K)
    ]


if __name__ == "__main__":
    sys.exit(main())
