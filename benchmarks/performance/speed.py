"""Time and memory of one AlignRec epoch and validation against a plain reference, in one run.

    python benchmarks/speed.py [--data FOLDER] [--epochs 1] [--out DIR] [--profile]

Both sides get the same links, features, initial parameters and number of threads, and each runs in
a process of its own. The reference is ``benchmarks/plain_reference.py``; the two must give the same
loss on the same first batch and the same validation metrics from the same parameters, else the exit
status is 1. ``--data`` names a folder in MMRec format (Amazon Baby for figures to compare with
others); without it, interactions of Baby's shape are generated. Features are generated in any case,
768 wide.

Set-up runs from interactions and features in memory to the loss of the first batch. Evaluation is
the median of three after one that does not count. Peak memory is the largest resident size less
that after all imports and one step of Adam on a single number (torch imports more only then).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository: no installed package

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.evaluation.metrics import evaluate
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.experiments.provenance import commit, hardware, versions
from alignrec_pyg.graph import INTERACTS, ITEM, USER, knn_edge_type
from alignrec_pyg.models import AlignRec
from alignrec_pyg.nn import UserItemPropagation, user_item_adjacency, user_item_edges
from alignrec_pyg.training.loop import TrainConfig, fit
from alignrec_pyg.training.sampling import TripletSampler
from alignrec_pyg.transforms import KNNItemGraph, SplitInteractions
from benchmarks.performance.generated import BABY, generate_features, generate_links
from benchmarks.performance.plain_reference import (
    PlainAlignRec,
    items_of_users,
    plain_evaluate,
    sample_epoch,
)
from benchmarks.performance.speed_report import disagreements, report

BATCH_SIZE = 2048
KS = (10, 20)
LR = 3e-4
PARAMETERS = {
    "user_table": "user_embedding.weight",
    "item_table": "item_embedding.weight",
    "features": "feature_table.weight",
    "project.weight": "projection.weight",
    "project.bias": "projection.bias",
    "gate.weight": "gate.weight",
    "gate.bias": "gate.bias",
}
"""Names of the reference's parameters, with those of the package's."""


def make_problem(folder: Path | None) -> dict[str, Any]:
    """Links, sizes and features that both sides work on."""
    if folder is None:
        train, val, _ = generate_links(BABY)
        num_users, num_items = BABY.num_users, BABY.num_items
    else:
        train_data, val_data, _ = SplitInteractions("labels")(MMRecFolder(folder).data)
        train, val = train_data[INTERACTS].edge_index, val_data[INTERACTS].edge_label_index
        num_users, num_items = int(train_data[USER].num_nodes), int(train_data[ITEM].num_nodes)
    return {
        "train": train,
        "val": val,
        "num_users": num_users,
        "num_items": num_items,
        "features": generate_features(num_items),
    }


def as_graphs(problem: dict[str, Any]) -> tuple[HeteroData, HeteroData]:
    """The training and the validation graph of ``problem``."""
    train, val = HeteroData(), HeteroData()
    for data, labels in ((train, problem["train"]), (val, problem["val"])):
        data[USER].num_nodes = problem["num_users"]
        data[ITEM].num_nodes = problem["num_items"]
        data[ITEM].x_mm = problem["features"]
        data[INTERACTS].edge_index = problem["train"]
        data[INTERACTS].edge_label_index = labels
    return train, val


class Stopwatch:
    """Seconds by name of part, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times the block."""
        start = perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + perf_counter() - start


def _first_step_of_adam() -> None:
    number = torch.nn.Parameter(torch.ones(1))
    number.sum().backward()
    torch.optim.Adam([number]).step()


def _evaluation_seconds(
    evaluation: Callable[[], dict[str, float]],
) -> tuple[dict[str, float], float]:
    """The metrics, and the median time of three evaluations after a first one."""
    metrics = evaluation()
    return metrics, _milliseconds(evaluation, (), repeats=3) / 1e3


def run_ours(folder: Path, epochs: int, profile: bool) -> dict[str, Any]:
    """Measures the package; leaves its parameters, first batch and item graph in ``folder``."""
    _first_step_of_adam()
    clock = Stopwatch()
    with PeakMemory(torch.device("cpu")) as memory:
        train, val = as_graphs(torch.load(folder / "problem.pt", weights_only=True))
        torch.manual_seed(0)
        with clock.part("item graph"):
            train = KNNItemGraph("mm", k=10)(train)
        val[knn_edge_type("mm")].update(train[knn_edge_type("mm")])
        with clock.part("model"):
            model = AlignRec(train, features=["mm"], item_graph="mm")
        with clock.part("sampler"):
            sampler = TripletSampler(train, batch_size=BATCH_SIZE, seed=0)
            batch = next(iter(sampler.epoch(0)))
        with clock.part("first loss"), torch.no_grad():
            total, terms = model.loss(train, batch)
        torch.save(model.state_dict(), folder / "initial.pt")
        torch.save(tuple(batch), folder / "batch.pt")
        edges = train[knn_edge_type("mm")]
        torch.save((edges.edge_index, edges.edge_weight), folder / "item_graph.pt")

        config = TrainConfig(
            max_epochs=epochs, patience=epochs, seed=0, batch_size=BATCH_SIZE, lr=LR, ks=KS
        )
        with clock.part("fit"):
            fit(model, train, val, config)
        metrics, clock.seconds["evaluation"] = _evaluation_seconds(
            lambda: evaluate(model, val, ks=KS)
        )
    torch.save(model.state_dict(), folder / "trained.pt")
    clock.seconds["epoch"] = clock.seconds.pop("fit") / epochs - clock.seconds["evaluation"]

    _train_in_parts(model.train(), train, sampler, clock)
    table = _profile(model, train, sampler) if profile else None
    loss = {"total": float(total)} | {name: float(term) for name, term in terms.items()}
    return {
        "seconds": clock.seconds,
        "memory": memory.peak_bytes,
        "loss": loss,
        "metrics": metrics,
        "profile": table,
    }


def _train_in_parts(
    model: AlignRec, train: HeteroData, sampler: TripletSampler, clock: Stopwatch
) -> None:
    """One more epoch, in the open, to see where the time of ``fit`` goes."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)  # as fit does
    with clock.part("sampling"):
        batches = list(sampler.epoch(0))
    for batch in batches:
        with clock.part("forward"):
            total, _ = model.loss(train, batch)
        with clock.part("backward"):
            optimizer.zero_grad()
            total.backward()
        with clock.part("Adam"):
            optimizer.step()


def _profile(model: AlignRec, train: HeteroData, sampler: TripletSampler) -> str:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        _train_in_parts(model, train, sampler, Stopwatch())
    averages = profiler.key_averages()
    return str(
        averages.table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40)
    )


def run_reference(folder: Path, epochs: int) -> dict[str, Any]:
    """Measures the plain reference from what :func:`run_ours` left in ``folder``."""
    _first_step_of_adam()
    clock = Stopwatch()
    with PeakMemory(torch.device("cpu")) as memory:
        problem = torch.load(folder / "problem.pt", weights_only=True)
        batch = torch.load(folder / "batch.pt", weights_only=True)
        with clock.part("model"):
            model = PlainAlignRec(
                problem["train"],
                problem["num_users"],
                problem["num_items"],
                problem["features"],
                batch_size=BATCH_SIZE,
            )
        with clock.part("sampler"):
            seen = items_of_users(problem["train"], model.num_users)
            held_out = items_of_users(problem["val"], model.num_users)
        model.load_state_dict(to_reference(torch.load(folder / "initial.pt", weights_only=True)))
        with clock.part("first loss"), torch.no_grad():
            total, terms = model.loss(batch)

        optimizer = torch.optim.Adam(model.parameters(), lr=LR)
        rng = random.Random(0)
        with clock.part("epoch"):
            for _ in range(epochs):
                with clock.part("sampling"):
                    batches = sample_epoch(problem["train"], seen, BATCH_SIZE, rng)
                for batch in batches:
                    with clock.part("forward"):
                        loss, _ = model.loss(batch)
                    with clock.part("backward"):
                        optimizer.zero_grad()
                        loss.backward()
                    with clock.part("Adam"):
                        optimizer.step()
        for name in ("epoch", "sampling", "forward", "backward", "Adam"):
            clock.seconds[name] /= epochs
        model.load_state_dict(to_reference(torch.load(folder / "trained.pt", weights_only=True)))
        metrics, clock.seconds["evaluation"] = _evaluation_seconds(
            lambda: plain_evaluate(model, seen, held_out, KS)
        )
    differing, weight_error = _compare_item_graphs(model, folder)
    return {
        "seconds": clock.seconds,
        "memory": memory.peak_bytes,
        "loss": {"total": float(total)} | {name: float(term) for name, term in terms.items()},
        "metrics": metrics,
        "differing_edges": differing,
        "edge_weight_error": weight_error,
    }


def _compare_item_graphs(model: PlainAlignRec, folder: Path) -> tuple[int, float]:
    """Edges that only one side has, and the largest difference of weights on the others."""
    (source, target), weight = torch.load(folder / "item_graph.pt", weights_only=True)
    ours = torch.sparse_coo_tensor(torch.stack([target, source]), weight, model.item_graph.shape)
    key = [
        g.indices()[0] * model.num_items + g.indices()[1]
        for g in (ours.coalesce(), model.item_graph)
    ]
    shared = [torch.isin(a, b) for a, b in (key, key[::-1])]
    values = [
        g.values()[s] for g, s in zip((ours.coalesce(), model.item_graph), shared, strict=True)
    ]
    differing = max(int((~s).sum()) for s in shared)
    return differing, float((values[0] - values[1]).abs().max())


def to_reference(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of ``AlignRec`` under the names of the reference."""
    return {name: state[ours] for name, ours in PARAMETERS.items()}


def run_propagation(folder: Path, repeats: int = 7) -> dict[str, float]:
    """Median milliseconds of two LGConv layers, forward and backward, by form of the graph."""
    problem = torch.load(folder / "problem.pt", weights_only=True)
    sizes = problem["num_users"], problem["num_items"]
    edge_index, weight = user_item_edges(problem["train"], *sizes)
    size = sum(sizes)
    transposed = torch.sparse_coo_tensor(edge_index.flip(0), weight, (size, size))
    forms: dict[str, tuple[Any, Tensor | None]] = {
        "edge_index": (edge_index, weight),
        "torch CSR": (transposed.to_sparse_csr(), None),
        "prepared Adjacency": (user_item_adjacency(problem["train"], *sizes), None),
    }
    if importlib.util.find_spec("torch_sparse") is not None:
        from torch_sparse import SparseTensor

        row, col = edge_index.flip(0)
        sparse = SparseTensor(row=row, col=col, value=weight, sparse_sizes=(size, size))
        forms["torch_sparse"] = (sparse, None)
    propagation = UserItemPropagation(num_layers=2)
    user_x = torch.randn(sizes[0], 64, requires_grad=True)
    item_x = torch.randn(sizes[1], 64, requires_grad=True)
    upstream = torch.randn(sizes[0], 64), torch.randn(sizes[1], 64)

    def step(adjacency: Any, edge_weight: Tensor | None) -> None:
        out = propagation(user_x, item_x, adjacency, edge_weight)
        torch.autograd.grad(out, (user_x, item_x), upstream)

    return {name: _milliseconds(step, form, repeats) for name, form in forms.items()}


def _milliseconds(step: Callable[..., object], arguments: tuple[Any, ...], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        start = perf_counter()
        step(*arguments)
        seconds.append(perf_counter() - start)
    return median(seconds[1:]) * 1e3


def measure(data: Path | None, epochs: int, threads: int, profile: bool) -> dict[str, Any]:
    """Runs both sides and the propagation table, one process after the other."""
    problem = make_problem(data)
    torch.set_num_threads(threads)
    result: dict[str, Any] = {
        "data": "generated interactions" if data is None else data.name,
        "num_users": problem["num_users"],
        "num_items": problem["num_items"],
        "num_train": problem["train"].size(1),
        "num_val": problem["val"].size(1),
        "epochs": epochs,
        "threads": threads,
        "commit": commit(),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(problem, folder / "problem.pt")
        for side in ("ours", "reference", "propagation"):
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "benchmarks.performance.speed",
                "--side",
                side,
            ]
            command += ["--folder", name, "--epochs", str(epochs), "--threads", str(threads)]
            command += ["--profile"] * profile
            subprocess.run(command, check=True, cwd=Path(__file__).resolve().parents[2])
            result[side] = json.loads((folder / f"{side}.json").read_text())
    return result


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; returns 1 if the two sides disagree, else 0."""
    parser = argparse.ArgumentParser(description="AlignRec's speed against a plain reference")
    parser.add_argument("--data", type=Path, help="a folder in MMRec format (default: generated)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs to average over")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for speed.json and speed.md")
    parser.add_argument("--profile", action="store_true", help="list the top operators of ours")
    parser.add_argument("--side", help=argparse.SUPPRESS)  # the process of one side
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # what the sides share
    options = parser.parse_args(arguments)
    for name in ("epochs", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"'--{name}' needs to be 1 or more (got {getattr(options, name)})")

    if options.side:
        torch.set_num_threads(options.threads)
        if options.side == "ours":
            side = run_ours(options.folder, options.epochs, options.profile)
        elif options.side == "reference":
            side = run_reference(options.folder, options.epochs)
        else:
            side = run_propagation(options.folder)
        (options.folder / f"{options.side}.json").write_text(json.dumps(side))
        return 0

    try:
        result = measure(options.data, options.epochs, options.threads, options.profile)
    except ValueError as error:
        parser.error(f"--data {options.data}: {error}")
    print(report(result))
    wrong = disagreements(result["ours"], result["reference"])
    for line in wrong:
        print(f"The two sides disagree in {line}", file=sys.stderr)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "speed.json").write_text(json.dumps(result, indent=2) + "\n")
        (options.out / "speed.md").write_text(report(result))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
