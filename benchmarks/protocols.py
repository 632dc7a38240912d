"""The effect of the protocol on figures: kind of split, validation links known or not in tests.

    python benchmarks/protocols.py
    python benchmarks/protocols.py --data FOLDER --models AlignRec LightGCN FREEDOM

Splits: the file's labels, each user's links at random, each user's latest link, all links after a
moment. Those that the data has no labels or times for are left out. At test time the validation
links are not in the graph and are ranked (MMRec's rule, behind the papers' tables), or they are in
the graph and excluded from rankings. Each model is trained once per split and seed. Models:
LightGCN, FREEDOM and AlignRec.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import alignrec_pyg
from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import SplitRule

if TYPE_CHECKING:
    from torch import Tensor

SPLITS: tuple[SplitRule, ...] = ("labels", "random", "leave_last_out", "global_time")
KNOWN = "validation known"
_COLUMNS = ("recall@20", "ndcg@20")


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    default_models = ("LightGCN", "FREEDOM", "AlignRec")


def compare_protocols(options: Options) -> int:
    """Runs the experiment."""
    import torch

    if options.split is not None:
        raise experiments.SettingsError(["--split: this script runs all splits"])
    session = options.session()
    models, not_run = session.runnable()
    links: dict[str, Tensor] = {}
    results: list[experiments.CellResult] = []
    failed: dict[tuple[str, int], str] = {}
    notes = []
    for rule in SPLITS:
        try:
            here = session.prepared(split=rule)
        except experiments.SettingsError as error:
            notes += [f"no {rule} split: {problem}" for problem in error.problems]
            continue
        data = here.data
        rows = {f"{name}, {rule}": settings for name, settings in models.items()}
        cells = here.cells_of(rows)  # also makes the tables and item graphs that the tests need
        tests = {experiments.TEST: data.test, KNOWN: experiments.val_known_at_test(data)}
        outcome = here.run(cells, data.parts._replace(tests=tests))
        results += outcome.results
        failed |= outcome.failed
        links |= dict.fromkeys(rows, alignrec_pyg.graph.links_to_predict(data.test))
        notes += experiments.split_text(data).splitlines()
        notes += [f"item graph '{name}': {text}" for name, text in data.item_graphs.items()]

    def measure(cell: experiments.CellResult) -> experiments.Measurement:
        test, known = (
            experiments.link_metrics(cell.rankings[name], links[cell.row])
            for name in (experiments.TEST, KNOWN)
        )
        values = {column: test[column] for column in _COLUMNS}
        values |= {f"{column}, {KNOWN}": known[column] for column in _COLUMNS}
        nobody = torch.empty(0, dtype=torch.int64)
        return experiments.Measurement(values, nobody, torch.empty(0))

    return session.conclude(
        "protocols",
        "models under several splits, validation links unknown and known at test time",
        experiments.RunOutcome(results=results, failed=failed),
        measure=measure,
        compared=False,
        not_run=not_run,
        style=experiments.TableStyle(unmarked=None),
        one_split=False,
        notes=[
            f"{KNOWN}: at test time the validation links are part of the graph and not ranked",
            *notes,
        ],
    )


main = script(Options, compare_protocols, __doc__)

if __name__ == "__main__":
    sys.exit(main())
