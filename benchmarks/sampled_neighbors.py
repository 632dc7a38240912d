"""Training on sampled neighbourhoods against training on full ones.

    python benchmarks/sampled_neighbors.py
    python benchmarks/sampled_neighbors.py --data FOLDER --models AlignRec FREEDOM --fan-out 20 10 5

Each model is trained twice with the same settings and seeds: with full neighbourhoods, and with
``--fan-out`` sampled neighbours of each node. The interval of the difference over users is also
given as a share of the exact model's value. "links read" is the part of the entries of the
user-item graph, in all layers, that a step with drawn neighbours reads, the mean over the first
epoch's batches; an exact step reads all of them in each layer but the last. Models: AlignRec,
FREEDOM and LightGCN.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import OptionError

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

_MOST_BATCHES = 50


@dataclass(frozen=True, kw_only=True)
class Options(ExperimentOptions):
    """The options of this script."""

    default_models = ("AlignRec", "FREEDOM", "LightGCN")


def compare_sampled(options: Options) -> int:
    """Runs the experiment."""
    if not options.fan_out:
        raise OptionError("--fan-out", "is needed, e.g. 20 10 5: neighbours drawn for each hop")
    session = options.session()
    models, not_run = session.runnable()
    pairs = {name: f"{name} sampled" for name in models}
    rows: dict[str, experiments.ModelSettings] = {}
    for name, settings in models.items():
        rows |= {name: settings.with_changes(fan_out=None), pairs[name]: settings}
    outcome = session.run(session.cells_of(rows))
    summary = experiments.summarize(outcome.results, session.seeds, session.measure)
    table = {row.name: row for row in summary}
    notes = []
    in_pairs = [(sampled, name) for name, sampled in pairs.items()]
    for comparison in experiments.compare_pairs(summary, in_pairs):
        percent = 100 / table[comparison.other].compared_mean
        interval = comparison.difference
        share = links_read(session.data.train, models[comparison.other])
        notes.append(
            f"{comparison.reference}: {comparison.metric} {percent * interval.mean:+.1f} % of the "
            f"exact model's ({percent * interval.low:+.1f} % to {percent * interval.high:+.1f} %, "
            f"95 % interval); links read {share:.0%}"
        )
    return session.conclude(
        "sampled_neighbors",
        f"neighbours drawn ({' '.join(map(str, options.fan_out))}) against all, test links",
        outcome,
        models=rows,
        pairs=in_pairs,
        not_run=not_run,
        notes=notes,
    )


def links_read(train: HeteroData, settings: experiments.ModelSettings) -> float:
    """Entries of the user-item graph that a layer reads in a step, as a share of all."""
    import torch

    from alignrec_pyg.graph import INTERACTS, NeighborSampling
    from alignrec_pyg.nn import MessageFlow, user_item_adjacency
    from alignrec_pyg.training.sampling import TripletSampler, seeded_generator

    config = settings.complete_config(train)
    num_users = int(train["user"].num_nodes)
    graph = user_item_adjacency(
        train[INTERACTS].edge_index, num_users, int(train["item"].num_nodes)
    )
    sampler = TripletSampler(train, batch_size=config.batch_size, seed=config.seed)
    shares = []
    for step in range(min(len(sampler), _MOST_BATCHES)):
        user, *items = sampler.batch(0, step)
        rows = torch.cat([user, *(item + num_users for item in items)]).unique()
        draws = NeighborSampling(config.fan_out or (), seeded_generator(config.seed, step))
        flow = MessageFlow.build(graph, settings.hparams["num_layers"], rows, draws)
        shares += [
            layer.matrix.values().numel() / graph.matrix.values().numel() for layer in flow.layers
        ]
    return fmean(shares)


main = script(Options, compare_sampled, __doc__)

if __name__ == "__main__":
    sys.exit(main())
