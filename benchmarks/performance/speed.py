"""What models cost: parameters, seconds of set-up, steps, epochs and evaluation, peak memory.

    python -m benchmarks.performance.speed
    python -m benchmarks.performance.speed --models LightGCN AlignRec --shape electronics --steps 20

Every model runs with its published settings in a process of its own, on made-up links of the size
of Amazon Baby or Electronics with an image and a text table as wide together as AlignRec's
features. Set-up is from links and features to the built model, item graphs included. An epoch is
that of ``fit``, with its sampling; a step is the median of its steps. With ``--steps`` only so many
are taken, and the epoch's seconds are estimated from them. Evaluation ranks all items for the users
of the test links, the median of three after a first one. Peak memory is that above all imports,
links and features included; on a GPU, the most that tensors took of its memory.

Then two LGConv layers, forward and backward, for every form that the graph can be given in, beside
a plain propagation that gathers, scales and adds rows. All forms must give the same vectors and
gradients, or the exit status is 1.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.metrics import evaluate
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import Recommender
from alignrec_pyg.nn import UserItemPropagation, user_item_adjacency, user_item_edges
from alignrec_pyg.text_tables import markdown_table
from alignrec_pyg.train_config import CompleteTrainConfig
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from benchmarks.performance.made_up import SHAPES, generate_links, make_graphs
from benchmarks.performance.measuring import (
    MODELS,
    add_shape,
    build,
    in_new_process,
    log,
    make_optimizer,
    make_parser,
    median_seconds,
    megabytes,
    origin,
    positive_int,
    take_first_step,
    train_step,
    wait_for,
)

_WIDTHS = {"image": 384, "text": 384}
_NUM_LAYERS = 2
_DIM = 64
_TOLERANCE = 1e-4


class Costs(NamedTuple):
    """What one model costs: a count, seconds and bytes."""

    parameters: int
    setup: float
    step: float
    epoch: float
    evaluation: float
    peak_bytes: int | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints.

    Returns:
        0; 1 if two forms of the graph give other values.
    """
    parser = make_parser(__doc__, models=MODELS)
    add_shape(parser)
    parser.add_argument("--steps", type=positive_int, metavar="N", help="of an epoch (all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU (leave the option out to use the CPU)")
    rows = [["model", "parameters", "set-up s", "step ms", "epoch s", "evaluation s", "peak MB"]]
    place = options.shape, options.device
    for name in dict.fromkeys(options.models):
        costs = in_new_process(options.threads, measure, name, *place, options.steps)
        rows.append(_row(name, costs, estimated=options.steps is not None))
        log("  ".join(rows[-1]))
    print(markdown_table(rows))
    forms = in_new_process(options.threads, propagation, *place)
    plain = forms["plain"][0]
    rows = [["two LGConv layers", "ms", "plain / this", "largest difference"]]
    for name, (seconds, difference) in forms.items():
        rows.append([name, f"{1e3 * seconds:.1f}", f"{plain / seconds:.1f}", f"{difference:.0e}"])
    print(f"\n{markdown_table(rows)}")
    print(f"\n{options.shape}'s size, {origin(torch.device(options.device))}")
    wrong = [name for name, (_, difference) in forms.items() if not difference <= _TOLERANCE]
    for name in wrong:
        log(f"{name}: differs from the plain propagation by up to {forms[name][1]:.1e}")
    return 1 if wrong else 0


def measure(name: str, shape: str, device: str, num_steps: int | None) -> Costs:
    """Time and memory of one model, in this process."""
    place = torch.device(device)
    take_first_step(place)
    with PeakMemory(place) as memory:
        graphs = [graph.to(device) for graph in make_graphs(SHAPES[shape], _WIDTHS)]
        start = perf_counter()
        model, config, data = build(name, *graphs)
        model = model.to(place)
        wait_for(place)
        setup = perf_counter() - start
        step, epoch = train_epoch(model, data.train, config, num_steps)
        evaluation = median_seconds(lambda: evaluate(model, data.test), perf_counter)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Costs(parameters, setup, step, epoch, evaluation, memory.peak_bytes)


def train_epoch(
    model: Recommender, train: HeteroData, config: CompleteTrainConfig, num_steps: int | None = None
) -> tuple[float, float]:
    """Seconds of a step and of the first epoch, estimated if only some steps are taken."""
    device = train[INTERACTS].edge_index.device
    optimizer = make_optimizer(model, config)
    sampler = TripletSampler(train, batch_size=config.batch_size, seed=config.seed)
    model.train()
    wait_for(device)
    start = perf_counter()
    model.on_epoch_start(train, seeded_generator(config.seed, 0, 1, device=device))
    times = [perf_counter()]
    for step in range(min(len(sampler), num_steps or len(sampler))):
        train_step(model, train, optimizer, sampler.batch(0, step), step, config.seed)
        wait_for(device)
        times.append(perf_counter())
    # the first step also makes graphs and the optimiser's state
    steps = [after - before for before, after in pairwise(times)]
    median_step = median(steps[1:] or steps)
    left = len(sampler) - len(steps)
    return median_step, times[-1] - start + left * median_step


def propagation(shape: str, device: str) -> dict[str, tuple[float, float]]:
    """Seconds, and the largest difference from plain propagation, by form of the graph."""
    sizes = SHAPES[shape].num_users, SHAPES[shape].num_items
    return compare_forms(generate_links(SHAPES[shape])[0].to(device), *sizes)


def compare_forms(links: Tensor, num_users: int, num_items: int) -> dict[str, tuple[float, float]]:
    """As :func:`propagation`, on the links given."""
    device = links.device
    edge_index, weight = user_item_edges(links, num_users, num_items)
    size = num_users + num_items
    transposed = torch.sparse_coo_tensor(edge_index.flip(0), weight, (size, size))
    forms: dict[str, tuple[Any, Tensor | None]] = {
        "edge_index": (edge_index, weight),
        "torch CSR": (transposed.to_sparse_csr(), None),
        "prepared Adjacency": (user_item_adjacency(links, num_users, num_items), None),
    }
    if importlib.util.find_spec("torch_sparse") is not None:
        from torch_sparse import SparseTensor

        row, col = edge_index.flip(0)
        sparse = SparseTensor(row=row, col=col, value=weight, sparse_sizes=(size, size))
        forms["torch_sparse"] = (sparse, None)
    generator = torch.Generator().manual_seed(0)
    x, upstream = torch.randn(2, size, _DIM, generator=generator).to(device)
    layers = UserItemPropagation(num_layers=_NUM_LAYERS)

    def of_form(name: str) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        if name == "plain":
            out = plain_propagation(leaf, edge_index, weight)
        else:
            out = torch.cat(layers(*leaf.split([num_users, num_items]), *forms[name]))
        return out.detach(), torch.autograd.grad(out, leaf, upstream)[0]

    def step(name: str) -> None:
        of_form(name)
        wait_for(device)

    expected = of_form("plain")
    found = {}
    for name in ("plain", *forms):
        pairs = zip(of_form(name), expected, strict=True)
        difference = max(float((a - b).abs().max()) for a, b in pairs)
        found[name] = median_seconds(partial(step, name), perf_counter, 7), difference
    return found


def plain_propagation(x: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
    """LightGCN's mean over layers as one would write it first.

    Shapes:
        - **input:** x :math:`(|U| + |I|, d)`, edge_index :math:`(2, E)`, weight :math:`(E)`
        - **output:** :math:`(|U| + |I|, d)`
    """
    source, target = edge_index
    out, layer = x, x
    for _ in range(_NUM_LAYERS):
        layer = torch.zeros_like(x).index_add(0, target, weight.unsqueeze(1) * layer[source])
        out = out + layer
    return out / (_NUM_LAYERS + 1)


def _row(name: str, costs: Costs, *, estimated: bool) -> list[str]:
    return [
        name,
        f"{costs.parameters:,}",
        f"{costs.setup:.2f}",
        f"{1e3 * costs.step:.1f}",
        f"{'~' * estimated}{costs.epoch:.2f}",
        f"{costs.evaluation:.2f}",
        megabytes(costs.peak_bytes),
    ]


if __name__ == "__main__":
    sys.exit(main())
