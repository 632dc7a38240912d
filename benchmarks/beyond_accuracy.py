"""Metrics beyond accuracy: coverage, concentration, novelty and diversity of recommendations.

    python benchmarks/beyond_accuracy.py
    python benchmarks/beyond_accuracy.py --data FOLDER --k 10

Models that another script has trained with the same settings and folder are not trained again. The
definitions are those of alignrec_pyg.beyond_accuracy.
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

_NAMES = {
    "coverage": "coverage",
    "gini": "Gini",
    "average_popularity": "average popularity",
    "long_tail_share": "long-tail share",
    "novelty": "novelty (bits)",
    "personalization": "personalization",
}


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    k: Annotated[int, option(EXPERIMENT, "Length of the lists.", "K", parser=positive_int)] = 20


def beyond(options: Options) -> int:
    """Runs the experiment."""
    k = options.k
    if k > experiments.RANKED:
        raise experiments.SettingsError([f"--k {k}: needs to be {experiments.RANKED} or less"])
    session = options.session()
    models, not_run = session.runnable()
    data = session.data
    links = alignrec_pyg.graph.links_to_predict(data.test)

    def measure(cell: experiments.CellResult) -> experiments.Measurement:
        ranking = cell.rankings[experiments.TEST]
        users = alignrec_pyg.user_metrics(ranking, links, k)
        found = alignrec_pyg.beyond_accuracy(ranking, data.train, k)
        values = {f"recall@{k}": users.recall.double().mean().item()}
        values |= {title: getattr(found, name) for name, title in _NAMES.items()}
        for feature in data.features:
            diversity = alignrec_pyg.intra_list_diversity(ranking, data.train, feature, k)
            values[f"diversity ({feature})"] = diversity.diversity
        return experiments.Measurement(values, users.user, users.recall)

    return session.conclude(
        "beyond_accuracy",
        f"beyond accuracy, lists of {k} for the test users",
        session.run(session.cells_of(models)),
        measure=measure,
        compared=False,
        not_run=not_run,
        style=experiments.TableStyle(costs=False, unmarked=None),
        notes=[
            "coverage: share of all items recommended; Gini: 0 if all are recommended equally "
            "often, towards 1 if few are; average popularity: train links of a recommended item; "
            "long-tail share: items "
            "with fewer than 4; diversity: one minus the mean cosine within a list"
        ],
    )


main = script(Options, beyond, __doc__)

if __name__ == "__main__":
    sys.exit(main())
