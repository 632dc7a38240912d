"""For which users and items models work well: metrics by activity and by popularity.

    python benchmarks/groups.py
    python benchmarks/groups.py --data FOLDER --models AlignRec LightGCN --num-groups 5

Users in groups of about equal size by their train links; test links by the popularity of their
item: the head takes 20 % of the train links, the tail 20 %, the middle the rest. Models that
    another script has trained with the same settings and folder are not trained again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import alignrec_pyg
from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import EXPERIMENT, option, positive_int

_K = 20


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    num_groups: Annotated[int, option(EXPERIMENT, "Groups of users.", "N", parser=positive_int)] = 4


def by_group(options: Options) -> int:
    """Runs the experiment."""
    session = options.session()
    models, not_run = session.runnable()
    train, links = session.data.train, alignrec_pyg.graph.links_to_predict(session.data.test)

    def groups(
        cell: experiments.CellResult,
    ) -> tuple[
        alignrec_pyg.UserMetrics,
        list[alignrec_pyg.ActivityGroup],
        Sequence[alignrec_pyg.PopularityGroup],
    ]:
        ranking = cell.rankings[experiments.TEST]
        users = alignrec_pyg.user_metrics(ranking, links, _K)
        by_activity = alignrec_pyg.activity_groups(users, train, num_groups=options.num_groups)
        by_popularity = alignrec_pyg.popularity_groups(ranking, train, links, _K)
        return users, [group for group in by_activity if group.num_users], by_popularity

    def measure(cell: experiments.CellResult) -> experiments.Measurement:
        users, by_activity, by_popularity = groups(cell)
        values = {f"users {g.min_degree}-{g.max_degree}": g.recall for g in by_activity}
        values |= {f"items: {g.name}": g.recall for g in by_popularity if g.num_links}
        return experiments.Measurement(values, users.user, users.recall)

    outcome = session.run(session.cells_of(models))
    notes = []
    if outcome.results:
        _, by_activity, by_popularity = groups(outcome.results[0])
        notes = [
            f"users {group.min_degree}-{group.max_degree}: {group.num_users:,} users with so many "
            "train links"
            for group in by_activity
        ]
        notes += [
            f"items: {group.name}: {group.num_items:,} items with {group.min_degree} to "
            f"{group.max_degree} train links, {group.num_links:,} test links of "
            f"{group.num_users:,} users"
            for group in by_popularity
        ]
    return session.conclude(
        "groups",
        f"recall@{_K} on test links, by users' activity and items' popularity",
        outcome,
        measure=measure,
        compared=False,
        not_run=not_run,
        style=experiments.TableStyle(costs=False),
        notes=notes,
    )


main = script(Options, by_group, __doc__)

if __name__ == "__main__":
    sys.exit(main())
