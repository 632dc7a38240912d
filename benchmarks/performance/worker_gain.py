"""What several workers can save: the time of a training step on a share of its batch.

    python benchmarks/worker_gain.py
    python benchmarks/worker_gain.py --models AlignRec BM3 --batch-size 16384

Workers that train one model together (``fit`` under torchrun or Ray Train) each propagate over the
whole graph and take the step of the optimiser; only what depends on the triples of the batch is
shared out. So for every model this measures a step (loss, gradient, Adam) on a whole batch and on
its first half and quarter, the least that two and four workers could take, were there nothing to
send. Processor time on one thread, medians of ``--steps``; links and features of the shape of
Amazon Baby are made up.

Exit status: 0, 2 if the arguments do not fit.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.cli.arguments import positive_int
from alignrec_pyg.cli.options import unknown_names
from alignrec_pyg.experiments.presets import PAPER
from alignrec_pyg.experiments.provenance import commit, hardware
from alignrec_pyg.experiments.session import log
from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.models import Recommender
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from benchmarks.performance.cost import SHAPES, load

_WORKERS = (1, 2, 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the models.

    Returns:
        0, 2 if the arguments do not fit.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    problems = unknown_names("model", options.models, list(PAPER))
    if problems:
        for problem in problems:
            log(f"worker_gain.py: {problem}")
        return 2
    data = load(options, {"mm": options.width})
    lines = [
        f"| model | ms of a step | {' | '.join(f'{n} workers, at least' for n in _WORKERS[1:])} |",
        f"| --- | {' | '.join(['---:'] * len(_WORKERS))} |",
    ]
    for name in dict.fromkeys(options.models):
        preset = PAPER[name]
        torch.manual_seed(0)
        model = preset.model(data.train, **{**preset.hparams(), **data.inputs(preset)})
        whole, *shares = step_seconds(model, data.train, options.batch_size, options.steps)
        parts = " | ".join(f"{share / whole:.0%}" for share in shares)
        lines.append(f"| {name} | {1000 * whole:.0f} | {parts} |")
        log(lines[-1])
    print("\n".join(lines))
    print(
        f"\nbatches of {options.batch_size:,}, {options.shape} shape, width {options.width}, "
        f"commit {commit()}, {hardware(torch.device('cpu'))}"
    )
    return 0


def step_seconds(
    model: Recommender, train: HeteroData, batch_size: int, num_steps: int
) -> list[float]:
    """Processor time of a step on the whole batch, on its half and on its quarter."""
    batches = list(TripletSampler(train, batch_size=batch_size).epoch(0))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model.train()
    model.on_epoch_start(train, seeded_generator(0, 0, 1))
    seconds: dict[int, list[float]] = {workers: [] for workers in _WORKERS}
    for number in range(num_steps + 1):
        batch = batches[number % (len(batches) - 1)]  # the last one may be shorter
        for workers in _WORKERS:  # in turn, so that what slows the machine slows all
            taken = _step(model, train, optimizer, batch.share(0, workers), number)
            if number:  # the first one prepares graphs and the optimiser's state
                seconds[workers].append(taken)
    return [median(taken) for taken in seconds.values()]


def _step(
    model: Recommender,
    train: HeteroData,
    optimizer: torch.optim.Optimizer,
    batch: InteractionBatch,
    number: int,
) -> float:
    start = process_time()
    model.on_batch_start(seeded_generator(0, 0, 2, number))
    optimizer.zero_grad(set_to_none=True)
    model.loss(train, batch)[0].backward()
    optimizer.step()
    return process_time() - start


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    models = ["LightGCN", "FREEDOM", "AlignRec"]
    add("--models", nargs="+", default=models, metavar="NAME", help=f"of {', '.join(PAPER)}")
    add("--data", type=Path, metavar="PATH", help="folder in MMRec format, for its links")
    add("--shape", choices=SHAPES, default="baby", help="size of made-up links (baby)")
    add("--width", type=positive_int, default=768, metavar="N", help="of the features (768)")
    add("--batch-size", type=positive_int, default=2048, metavar="N", help="(2048)")
    add("--steps", type=positive_int, default=5, metavar="N", help="measured steps (5)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
