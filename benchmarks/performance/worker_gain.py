"""What several workers can save: the time of a training step on a share of its batch.

    python -m benchmarks.performance.worker_gain
    python -m benchmarks.performance.worker_gain --models AlignRec BM3 --batch-size 16384

Workers that train one model together (``fit`` under torchrun or Ray Train) each propagate over the
whole graph and take the step of the optimiser; only what depends on the triples of the batch is
divided. So for every model this measures a step (loss, gradient, Adam) on a whole batch and on its
first half and quarter, the least that two and four workers could take if nothing had to be sent.
Processor time, medians of ``--steps``; links and features of Amazon Baby's size are made up.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from time import process_time

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.models import Recommender
from alignrec_pyg.text_tables import markdown_table
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from benchmarks.performance.made_up import SHAPES, make_graphs
from benchmarks.performance.measuring import (
    add_shape,
    build,
    log,
    make_optimizer,
    make_parser,
    origin,
    positive_int,
    train_step,
)

_WORKERS = (1, 2, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, models=("LightGCN", "FREEDOM", "AlignRec"), threads=1)
    add_shape(parser)
    add = parser.add_argument
    add("--width", type=positive_int, default=768, metavar="N", help="of the features (768)")
    add("--batch-size", type=positive_int, default=2048, metavar="N", help="(2048)")
    add("--steps", type=positive_int, default=5, metavar="N", help="measured steps (5)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    graphs = make_graphs(SHAPES[options.shape], {"mm": options.width})
    rows = [["model", "ms of a step", *(f"{n} workers, at least" for n in _WORKERS[1:])]]
    for name in dict.fromkeys(options.models):
        model, config, data = build(name, *graphs)
        config = replace(config, batch_size=options.batch_size)
        whole, *shares = step_seconds(model, data.train, config, options.steps)
        rows.append([name, f"{1000 * whole:.0f}", *(f"{share / whole:.0%}" for share in shares)])
        log("  ".join(rows[-1]))
    print(markdown_table(rows))
    print(
        f"\nbatches of {options.batch_size:,}, {options.shape}'s size, width {options.width}, "
        f"{origin(torch.device('cpu'))}"
    )
    return 0


def step_seconds(
    model: Recommender, train: HeteroData, config: TrainConfig, num_steps: int
) -> list[float]:
    """Processor time of a step on the whole batch, on its half and on its quarter."""
    batches = list(TripletSampler(train, batch_size=config.batch_size, seed=config.seed).epoch(0))
    optimizer = make_optimizer(model, config)
    model.train()
    model.on_epoch_start(train, seeded_generator(config.seed, 0, 1))
    seconds: dict[int, list[float]] = {workers: [] for workers in _WORKERS}
    for step in range(num_steps + 1):
        batch = batches[step % max(len(batches) - 1, 1)]  # the last one may be shorter
        for workers in _WORKERS:  # in turn, so that what slows the machine slows all
            start = process_time()
            train_step(model, train, optimizer, batch.share(0, workers), step, config.seed)
            if step:  # the first one prepares graphs and the optimiser's state
                seconds[workers].append(process_time() - start)
    return [median(taken) for taken in seconds.values()]


if __name__ == "__main__":
    sys.exit(main())
