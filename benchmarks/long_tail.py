"""Figure 5 of the paper: recommending items, and for users, of few interactions.

    python benchmarks/long_tail.py
    python benchmarks/long_tail.py --data FOLDER --below 6

The paper tests on the links whose item has fewer than four train links; its published code on the
links of users with fewer than four. All items are ranked, only these links count. Models: BM3,
MGCN, FREEDOM and AlignRec. Models that another script has trained with the same settings and folder
are not trained again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import alignrec_pyg
from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import EXPERIMENT, option, positive_int


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    default_models = ("BM3", "MGCN", "FREEDOM", "AlignRec")

    below: Annotated[int, option(EXPERIMENT, "Few means less.", "N", parser=positive_int)] = 4


def long_tail(options: Options) -> int:
    """Runs the experiment."""
    session = options.session()
    models, not_run = session.runnable()
    below, train = options.below, session.data.train
    links = alignrec_pyg.graph.links_to_predict(session.data.test)
    tails = {
        "item": alignrec_pyg.long_tail_links(train, links, below=below, of="item"),
        "user": alignrec_pyg.long_tail_links(train, links, below=below, of="user"),
    }
    if tails["item"].size(1) == 0:
        problem = f"--below {below}: no test link has an item with fewer train links"
        raise experiments.SettingsError([problem])

    def measure(cell: experiments.CellResult) -> experiments.Measurement:
        ranking = cell.rankings[experiments.TEST]
        values = {}
        for of, tail in tails.items():
            if tail.size(1):
                metrics = alignrec_pyg.user_metrics(ranking, tail, 20)
                values[f"recall@20, {of}s < {below}"] = metrics.recall.double().mean().item()
                values[f"ndcg@20, {of}s < {below}"] = metrics.ndcg.double().mean().item()
        items = alignrec_pyg.user_metrics(ranking, tails["item"], 20)
        compared = f"recall@20, items < {below}"
        return experiments.Measurement(values, items.user, items.recall, compared=compared)

    return session.conclude(
        "long_tail",
        f"test links of items, and of users, with fewer than {below} train links",
        session.run(session.cells_of(models)),
        measure=measure,
        not_run=not_run,
        style=experiments.TableStyle(costs=False),
        notes=[
            f"{of}s with fewer than {below} train links: {tail.size(1):,} of {links.size(1):,} "
            f"test links, {tail[0].unique().numel():,} users"
            + ("" if tail.size(1) else " (no column)")
            for of, tail in tails.items()
        ],
    )


main = script(Options, long_tail, __doc__)

if __name__ == "__main__":
    sys.exit(main())
