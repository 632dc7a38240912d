"""How the time of an epoch grows with the links: sampled neighbourhoods beside full ones.

    python -m benchmarks.performance.epoch_growth
    python -m benchmarks.performance.epoch_growth --models AlignRec --width 64 --fan-out 5 5

At every number of links (users and items grow with them: eight links a user, three users an item) a
model takes ``--steps`` training steps after three to warm up; an epoch takes the mean of them times
its number of steps. The exponent is the slope of the logarithms: 1 where an epoch grows as its
links, 2 where each step reads the whole graph. ``--whole`` also measures steps that read all
neighbours. Processor time; links, features and neighbours are made up; every measurement has a
process of its own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from time import process_time
from typing import NamedTuple

import torch

from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.graph import NeighborSampling
from alignrec_pyg.nn.features import sparse_gradients
from alignrec_pyg.text_tables import markdown_table
from alignrec_pyg.training.row_adam import RowAdam
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from benchmarks.performance.measuring import (
    in_new_process,
    log,
    make_optimizer,
    make_parser,
    megabytes,
    origin,
    positive_int,
    published,
    take_first_step,
    train_step,
)
from benchmarks.performance.memory_slope import bytes_of, make_large_graphs

_LINKS_OF_A_USER = 8
_WARM_UP = 3


class Growth(NamedTuple):
    """Seconds of an epoch and peak bytes at one number of links."""

    seconds: float
    peak_bytes: int | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, models=("LightGCN", "AlignRec"), threads=1)
    add = parser.add_argument
    sizes = [1_000_000, 2_000_000, 4_000_000, 8_000_000]
    add("--links", nargs="+", type=positive_int, default=sizes, metavar="N", help="(1, 2, 4, 8 M)")
    add("--fan-out", nargs="+", type=positive_int, default=[5, 5, 5], metavar="N")
    add("--whole", action="store_true", help="also measure steps that read all neighbours")
    add("--width", type=positive_int, default=64, metavar="N", help="of the features (64)")
    add("--batch-size", type=positive_int, default=2048, metavar="N", help="(2048)")
    add("--steps", type=positive_int, default=50, metavar="N", help="measured steps (50)")
    options = parser.parse_args(arguments)
    rows = [
        ["model", "neighbourhoods", *(f"{n:,} links: s, MB" for n in options.links), "exponent"]
    ]
    for name in dict.fromkeys(options.models):
        for fan_out in [tuple(options.fan_out), *([None] if options.whole else [])]:
            kind = options.width, options.batch_size, options.steps
            found = [
                in_new_process(options.threads, epoch_of, name, links, fan_out, *kind)
                for links in options.links
            ]
            cells = [f"{growth.seconds:,.1f}, {megabytes(growth.peak_bytes)}" for growth in found]
            slope = exponent(options.links, [growth.seconds for growth in found])
            rows.append([name, str(fan_out or "whole"), *cells, f"{slope:.2f}"])
            log("  ".join(rows[-1]))
    print(markdown_table(rows))
    print(
        f"\nbatches of {options.batch_size:,}, features of width {options.width}, "
        f"{origin(torch.device('cpu'))}"
    )
    return 0


def epoch_of(
    name: str,
    links: int,
    num_neighbors: Sequence[int] | None,
    width: int,
    batch_size: int,
    num_steps: int,
) -> Growth:
    """Measures one model at one size, in this process."""
    take_first_step(torch.device("cpu"))
    users = max(links // _LINKS_OF_A_USER, 12)
    train, _ = make_large_graphs(users, users // 3, _LINKS_OF_A_USER, width)
    del train["user", "interacts", "item"].edge_label_index
    model_class, hparams, config = published(name)
    with PeakMemory(torch.device("cpu")) as memory:
        torch.manual_seed(0)
        model = model_class(train, **hparams)
        optimizer: torch.optim.Optimizer = make_optimizer(model, config)
        if num_neighbors is not None:
            optimizer = RowAdam(model.parameters(), lr=config.lr, fused=True)
        sampler = TripletSampler(train, batch_size=batch_size)
        model.on_epoch_start(train, seeded_generator(0, 0, 1))
        with nullcontext() if num_neighbors is None else sparse_gradients(model):
            for step in range(num_steps + _WARM_UP):
                if step == _WARM_UP:
                    start = process_time()
                batch = sampler.batch(0, step % len(sampler))
                if num_neighbors is not None:
                    draws = NeighborSampling(num_neighbors, seeded_generator(0, 0, 5, step))
                    batch = replace(batch, sampling=draws)
                train_step(model, train, optimizer, batch, step)
            seconds = (process_time() - start) / num_steps
    peak = None if memory.peak_bytes is None else memory.peak_bytes + bytes_of(train)
    return Growth(seconds * len(sampler), peak)


def exponent(links: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of the line through the logarithms, by least squares."""
    x, y = [math.log(n) for n in links], [math.log(s) for s in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    if spread == 0:
        return math.nan
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread


if __name__ == "__main__":
    sys.exit(main())
