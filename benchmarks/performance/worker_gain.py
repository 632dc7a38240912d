"""Speed-up by a second worker: links per second of two workers of one thread against one.

    python -m benchmarks.performance.worker_gain
    python -m benchmarks.performance.worker_gain --models AlignRec --links 200000

``fit`` trains on sampled neighbourhoods, in processes of one thread, each kept to a processor of
its own, that form a group by gloo. One worker and two take turns, ``--repeats`` times; the first
steps are not measured. The ratio is also given by the processor seconds of the first worker, in
place of those of the clock: what it would be if workers never waited, be it for each other or for
what else the machine does. Links and features are made up, eight links for each user and 24 for
each item; every worker takes ``--batch-size`` links a step, as in :func:`~alignrec_pyg.fit`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import distributed, multiprocessing
from torch.multiprocessing.spawn import start_processes
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.text_tables import markdown_table
from alignrec_pyg.train_config import CompleteTrainConfig, TrainConfig
from alignrec_pyg.training.loop import fit
from alignrec_pyg.training.row_adam import RowAdam
from benchmarks.performance.measuring import log, make_parser, origin, positive_int, published
from benchmarks.performance.memory_slope import make_large_graphs

_LINKS_OF_A_USER = 8
_WARM_UP = 5  # steps: the first ones prepare graphs and the optimiser's state


class Speed(NamedTuple):
    """Links that all workers train on in a second of the clock, and of one's processor."""

    clock: float
    processor: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, models=("LightGCN",), threads=1)
    add = parser.add_argument
    add("--links", type=positive_int, default=4_000_000, metavar="N", help="to train on (4000000)")
    add("--width", type=positive_int, default=64, metavar="N", help="of the features (64)")
    add("--batch-size", type=positive_int, default=2048, metavar="N", help="of a worker (2048)")
    fan_out = "drawn for each hop (5 5 5)"
    add("--fan-out", type=positive_int, nargs="+", default=[5] * 3, metavar="N", help=fan_out)
    add("--steps", type=positive_int, default=50, metavar="N", help="measured steps (50)")
    add("--repeats", type=positive_int, default=3, metavar="N", help="of each (3)")
    options = parser.parse_args(arguments)
    users = options.links // _LINKS_OF_A_USER
    items = users // 3
    config = TrainConfig(
        batch_size=options.batch_size,
        fan_out=tuple(options.fan_out),
        max_epochs=1,
        eval_users=100,
    ).completed(TrainConfig(), options.links)
    # What processes import is imported once, in the one that they are forked from.
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["benchmarks.performance.memory_slope"]
    )
    rows = [["model", "links/s of one worker", "of two", "ratio", "by processor seconds"]]
    with TemporaryDirectory() as name:
        folder = Path(name)
        graphs = make_large_graphs(users, items, _LINKS_OF_A_USER, options.width)
        torch.save(graphs, folder / "graphs.pt")
        del graphs
        for model in dict.fromkeys(options.models):
            job = model, config, options.steps, options.threads, folder
            speeds: dict[int, list[Speed]] = {1: [], 2: []}  # by workers
            for _ in range(options.repeats):
                for workers, found in speeds.items():  # in turn: what slows the machine slows both
                    found.append(links_per_second(workers, *job))
                    log(f"{model}, {workers} workers: {found[-1].clock:,.0f} links/s")
            one, two = (median(speed.clock for speed in found) for found in speeds.values())
            pairs = list(zip(*speeds.values(), strict=True))
            ratios = (
                median(b.clock / a.clock for a, b in pairs),
                median(b.processor / a.processor for a, b in pairs),
            )
            rows.append([model, f"{one:,.0f}", f"{two:,.0f}", *(f"{r:.2f}" for r in ratios)])
    print(markdown_table(rows))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"\n{options.links:,} links, {users:,} users, {items:,} items, batches of "
        f"{options.batch_size:,}, medians of {options.repeats} runs of {options.steps} steps, load "
        f"{load} at the end, {origin(torch.device('cpu'))}"
    )
    return 0


def links_per_second(
    num_workers: int,
    name: str,
    config: CompleteTrainConfig,
    num_steps: int,
    threads: int,
    folder: Path,
) -> Speed:
    """Links that so many processes train on in a second, after the first steps."""
    (folder / "group").unlink(missing_ok=True)  # where the processes of a group meet
    job = num_workers, name, config, num_steps, threads, folder
    start_processes(_work, job, num_workers, start_method="forkserver")
    return Speed(*map(float, (folder / "speed").read_text().split()))


def _work(
    rank: int,
    num_workers: int,
    name: str,
    config: CompleteTrainConfig,
    num_steps: int,
    threads: int,
    folder: Path,
) -> None:
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[rank % len(allowed)]})
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=num_workers
    )
    train, val = torch.load(folder / "graphs.pt", weights_only=False)
    moments = step_moments(name, train, val, config, (_WARM_UP + num_steps) * num_workers)
    if rank == 0:
        links = num_steps * num_workers * config.batch_size
        spent = zip(moments[_WARM_UP - 1], moments[-1], strict=True)
        (folder / "speed").write_text(" ".join(str(links / (end - start)) for start, end in spent))
    distributed.destroy_process_group()


def step_moments(
    name: str, train: HeteroData, val: HeteroData, config: CompleteTrainConfig, num_batches: int
) -> list[tuple[float, float]]:
    """When each step of a short epoch ended, by the clock and by the processor.

    All its links are known, and few are trained on.
    """
    links = train[INTERACTS].edge_index
    drawn = torch.randperm(links.size(1), generator=torch.Generator().manual_seed(0))
    train[INTERACTS].edge_label_index = links[:, drawn[: num_batches * config.batch_size]]
    moments: list[tuple[float, float]] = []
    torch.manual_seed(0)
    model_class, hparams, _ = published(name)
    model = model_class(train, **hparams)
    optimizer = partial(_ClockedAdam, moments=moments, lr=config.lr, fused=True)
    fit(model, train, val, config, optimizer=optimizer, progress=False)
    return moments


class _ClockedAdam(RowAdam):
    """The optimiser of ``fit``, which notes when each of its steps ended."""

    def __init__(self, params: Any, *, moments: list[tuple[float, float]], **options: Any) -> None:
        super().__init__(params, **options)
        self._moments = moments

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = super().step(closure)
        self._moments.append((time.perf_counter(), time.process_time()))
        return loss


if __name__ == "__main__":
    sys.exit(main())
