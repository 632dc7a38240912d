"""Items that come after training: held out entirely, then added by their content.

    python benchmarks/cold_items.py
    python benchmarks/cold_items.py --data FOLDER --models AlignRec VBPR FREEDOM --held-out 0.2

A share of the items is removed from the data, with all its links, before anything else. Models are
trained and selected on the rest; then the held-out items are added to each (add_items): without an
ID vector (content only), and with the mean of their neighbours' ID vectors. Rows beside them: items
by popularity, and items by the cosine of their features with the user's train items. Models:
AlignRec, VBPR and FREEDOM.

Columns: the held-out items' links, ranked among the held-out items alone; then test links by the
number of train links of their item (0: held out), ranked among all items.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import alignrec_pyg
from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import EXPERIMENT, fraction, natural, option

_K = 20


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    default_models = ("AlignRec", "VBPR", "FREEDOM")

    held_out: Annotated[
        float, option(EXPERIMENT, "Share of the items to hold out.", "X", parser=fraction)
    ] = 0.2
    item_seed: Annotated[int, option(EXPERIMENT, "Seed of their draw.", "N", parser=natural)] = 0


def cold_items(options: Options) -> int:
    """Runs the experiment."""
    from alignrec_pyg.experiments.cold_items import COLD, NEIGHBORS, ColdItems, by_id_vectors

    if options.neighbors:
        problem = "--neighbors: lists lack the items that are added; give features"
        raise experiments.SettingsError([problem])
    session = options.session()
    if not session.data.features:
        problem = "--data: needs a feature table, by which held-out items are added"
        raise experiments.SettingsError([problem])
    by_id = [name for name, s in session.models.items() if not s.model.supports_new_items]
    if by_id:
        raise experiments.SettingsError(
            [f"--models {name}: has only ID vectors, which held-out items lack" for name in by_id]
        )
    with experiments.errors_about("--held-out"):
        held_out = alignrec_pyg.transforms.HoldOutItems(options.held_out, seed=options.item_seed)
    session = session.prepared(held_out=held_out)
    models, not_run = session.runnable()
    cells = session.cells_of(models)  # also makes the tables that the held-out items need
    cold = ColdItems.of(session.data)
    outcome = session.run(cells, cold.parts())
    results = [row for result in outcome.results for row in by_id_vectors(result)]
    results += cold.baselines(session.seeds)
    by_degree = cold.links_by_degree()

    def measure(cell: experiments.CellResult) -> experiments.Measurement:
        alone = alignrec_pyg.user_metrics(cell.rankings[COLD], cold.links, _K)
        values = {
            f"recall@{_K}, {COLD}": alone.recall.double().mean().item(),
            f"ndcg@{_K}, {COLD}": alone.ndcg.double().mean().item(),
        }
        for name, part in by_degree.items():
            if part.size(1):
                users = alignrec_pyg.user_metrics(cell.rankings[experiments.TEST], part, _K)
                values[f"recall@{_K}, {name} train links"] = users.recall.double().mean().item()
        compared = f"recall@{_K}, {COLD}"
        return experiments.Measurement(values, alone.user, alone.recall, compared=compared)

    num_cold, num_warm = cold.numbers.numel(), int(session.data.train["item"].num_nodes)
    return session.conclude(
        "cold_items",
        "items held out entirely, and test links by the number of train links of their item",
        experiments.RunOutcome(results=results, failed=outcome.failed),
        measure=measure,
        not_run=not_run,
        style=experiments.TableStyle(costs=False),
        notes=[
            f"held out: {num_cold:,} items of {num_cold + num_warm:,} (share {options.held_out} of "
            f"those with links, seed {options.item_seed}), with "
            f"{cold.links.size(1) + cold.num_dropped:,} links, of which {cold.num_dropped:,} have "
            "a user without train links and are left out",
            f"rows '{NEIGHBORS}': new items have the mean of their neighbours' ID vectors, else "
            "none",
            *(
                f"{name} train links: {part.size(1):,} test links of "
                f"{part[0].unique().numel():,} users" + ("" if part.size(1) else " (no column)")
                for name, part in by_degree.items()
            ),
        ],
    )


main = script(Options, cold_items, __doc__)

if __name__ == "__main__":
    sys.exit(main())
