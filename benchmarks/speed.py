"""Time and memory of one AlignRec epoch and validation against a plain reference, in one run.

    python benchmarks/speed.py [--data FOLDER] [--epochs 1] [--out DIR] [--profile]

Both sides get the same links, features, initial parameters and number of threads, and each runs in
a process of its own. The reference is ``benchmarks/plain_reference.py``; the two must give the same
loss on the same first batch and the same validation metrics from the same parameters, else the exit
status is 1. ``--data`` names a folder in MMRec format (Amazon Baby for figures to compare with
others); without it, interactions of Baby's shape are generated. Features are generated in any case,
768 wide.

Set-up runs from interactions and features in memory to the loss of the first batch. Peak memory is
the largest resident size less that after all imports and one step of Adam on a single number
(torch imports a good deal only then).
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
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.evaluate import evaluate
from alignrec_pyg.graph import INTERACTS, ITEM, USER, knn_edge_type
from alignrec_pyg.models import AlignRec
from alignrec_pyg.nn import UserItemPropagation, user_item_adjacency, user_item_edges
from alignrec_pyg.sampling import TripletSampler
from alignrec_pyg.train import TrainConfig, fit
from alignrec_pyg.transforms import KNNItemGraph, SplitInteractions

BATCH_SIZE = 2048
FEATURE_DIM = 768
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
SETUP_PARTS = ("item graph", "model", "sampler", "first loss")
LOSS_TOLERANCE = 1e-4  # relative, float32 sums of about a million terms
METRIC_TOLERANCE = 1e-4  # absolute: near-ties may swap two items of a few users


class Shape(NamedTuple):
    """Size of a data set: nodes, and links per split."""

    num_users: int
    num_items: int
    train: int
    val: int
    test: int


BABY = Shape(num_users=19_445, num_items=7_050, train=118_551, val=20_559, test=21_682)


def generate_links(shape: Shape, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Distinct links of ``shape``, skewed on both sides: training ``[2, train]``, ``[2, val]``.

    As in MMRec's splits, every user has at least three training, one validation and one test item.

    Raises:
        ValueError: If ``shape`` has too few links for that, or too many to be distinct.
    """
    rng = np.random.default_rng(seed)
    users, extra = shape.num_users, shape.train + shape.val + shape.test - 5 * shape.num_users
    if min(extra, shape.train - 3 * users, shape.val - users, shape.test - users) < 0:
        raise ValueError(f"'shape' needs 3 training, 1 val, 1 test link per user (got {shape})")
    activity = rng.pareto(1.5, users) + 0.05
    # at most a third of the items each, so that drawing until distinct comes to an end
    degree = 5 + np.minimum(
        rng.multinomial(extra, activity / activity.sum()), max(shape.num_items // 3 - 5, 0)
    )
    while (missing := 5 * users + extra - degree.sum()) > 0:
        open_users = np.flatnonzero(degree < shape.num_items // 3)
        if not len(open_users):
            raise ValueError(f"'shape' needs fewer links per item and user (got {shape})")
        chosen = rng.permutation(open_users)[:missing]
        degree[chosen] += 1
    popularity = (np.arange(shape.num_items) + 20.0) ** -0.7
    popularity = rng.permutation(popularity / popularity.sum())
    key = np.empty(0, dtype=np.int64)
    while (short := degree - np.bincount(key // shape.num_items, minlength=users)).any():
        user = np.repeat(np.arange(users), short)
        item = rng.choice(shape.num_items, size=user.size, p=popularity)
        key = np.unique(np.concatenate([key, user * shape.num_items + item]))
    key = rng.permutation(key)
    key = key[np.argsort(key // shape.num_items, kind="stable")]
    rank = np.arange(key.size) - np.repeat(degree.cumsum() - degree, degree)
    label = np.where(rank < 3, 0, np.where(rank == 3, 1, np.where(rank == 4, 2, -1)))
    rest = np.repeat([0, 1, 2], [shape.train - 3 * users, shape.val - users, shape.test - users])
    label[label == -1] = rng.permutation(rest)
    links = torch.from_numpy(np.stack([key // shape.num_items, key % shape.num_items]))
    labels = torch.from_numpy(label)
    return links[:, labels == 0], links[:, labels == 1]


def generate_features(num_items: int, seed: int = 0) -> Tensor:
    """Rows with a low-rank structure, a shared mean and noise, float32 ``[num_items, 768]``."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((num_items, 32)) @ rng.standard_normal((32, FEATURE_DIM)) / 32**0.5
    rows = topics + rng.standard_normal(FEATURE_DIM) + 0.3 * rng.standard_normal(topics.shape)
    return torch.from_numpy(rows.astype(np.float32))


def make_problem(folder: Path | None) -> dict[str, Any]:
    """Links, sizes and features that both sides work on."""
    if folder is None:
        (train, val), num_users, num_items = generate_links(BABY), BABY.num_users, BABY.num_items
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


def peak_memory() -> float:
    """Largest resident size of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        return _status_field(status, "VmHWM")
    import resource  # POSIX only

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def resident_memory() -> float:
    """Resident size of this process in MB; where the system does not say, its peak so far."""
    status = Path("/proc/self/status")
    return _status_field(status, "VmRSS") if status.exists() else peak_memory()


def _status_field(status: Path, field: str) -> float:
    line = next(line for line in status.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024 / 1e6


def _memory_after_imports() -> float:
    number = torch.nn.Parameter(torch.ones(1))
    number.sum().backward()
    torch.optim.Adam([number]).step()
    return resident_memory()


def run_ours(folder: Path, epochs: int, profile: bool) -> dict[str, Any]:
    """Measures the package; leaves its parameters, first batch and item graph in ``folder``."""
    imported, clock = _memory_after_imports(), Stopwatch()
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
    torch.save(train[knn_edge_type("mm")].edge_index, folder / "item_graph.pt")

    config = TrainConfig(max_epochs=epochs, seed=0, batch_size=BATCH_SIZE, lr=LR)
    with clock.part("fit"):
        fit(model, train, val, config)
    with clock.part("evaluation"):
        metrics = evaluate(model, val, ks=KS)
    memory = peak_memory() - imported
    torch.save(model.state_dict(), folder / "trained.pt")
    clock.seconds["epoch"] = clock.seconds.pop("fit") / epochs - clock.seconds["evaluation"]

    _train_in_parts(model, train, sampler, clock)
    table = _profile(model, train, sampler) if profile else None
    loss = {"total": float(total)} | {name: float(term) for name, term in terms.items()}
    return {
        "seconds": clock.seconds,
        "memory": memory,
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
    # not at the top: as a script, this file has no package to import its neighbour from
    from benchmarks.plain_reference import (
        PlainAlignRec,
        items_of_users,
        plain_evaluate,
        sample_epoch,
    )

    imported, clock = _memory_after_imports(), Stopwatch()
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
    with clock.part("evaluation"):
        metrics = plain_evaluate(model, seen, held_out, KS)
    memory = peak_memory() - imported

    target, source = model.item_graph.indices()
    ours = torch.load(folder / "item_graph.pt", weights_only=True)
    size = model.num_items
    same = torch.isin(ours[1] * size + ours[0], target * size + source).sum()
    return {
        "seconds": clock.seconds,
        "memory": memory,
        "loss": {"total": float(total)} | {name: float(term) for name, term in terms.items()},
        "metrics": metrics,
        "differing_edges": max(ours.size(1), target.numel()) - int(same),
    }


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


def _milliseconds(step: Callable[..., None], arguments: tuple[Any, ...], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        start = perf_counter()
        step(*arguments)
        seconds.append(perf_counter() - start)
    return median(seconds[1:]) * 1e3


def disagreements(ours: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    """The values that differ by more than rounding allows, one line each."""
    lines = []
    for name, value in reference["loss"].items():
        if not abs(ours["loss"][name] - value) <= LOSS_TOLERANCE * abs(value):
            lines.append(f"loss {name}: {ours['loss'][name]!r} against {value!r}")
    for name, value in reference["metrics"].items():
        if not abs(ours["metrics"][name] - value) <= METRIC_TOLERANCE:
            lines.append(f"{name}: {ours['metrics'][name]!r} against {value!r}")
    return lines


def report(result: dict[str, Any]) -> str:
    """The tables of a finished run, in Markdown."""
    ours, reference = result["ours"], result["reference"]
    seconds, slow = ours["seconds"], reference["seconds"]
    rows: list[tuple[str, float, float]] = [
        ("set-up [s]", _setup_seconds(seconds), _setup_seconds(slow)),
        ("epoch [s]", seconds["epoch"], slow["epoch"]),
        ("evaluation [s]", seconds["evaluation"], slow["evaluation"]),
        ("peak memory above imports [MB]", ours["memory"], reference["memory"]),
    ]
    lines = [
        f"AlignRec on {result['data']}: {result['num_users']} users, {result['num_items']} items, "
        f"{result['num_train']} training and {result['num_val']} validation links, "
        f"{result['threads']} threads, torch {result['torch']}",
        "",
        "| | ours | reference | reference / ours |",
        "|---|---:|---:|---:|",
        *(f"| {name} | {a:.2f} | {b:.2f} | {b / a:.1f} |" for name, a, b in rows),
        "",
        "Parts in seconds (the reference builds its item graph with its model):",
        "",
        "| | ours | reference |",
        "|---|---:|---:|",
    ]
    for name in (*SETUP_PARTS, "sampling", "forward", "backward", "Adam"):
        other = f"{slow[name]:.3f}" if name in slow else ""
        lines.append(f"| {name} | {seconds[name]:.3f} | {other} |")
    lines += [
        "",
        "| same input, same value | ours | reference | difference |",
        "|---|---:|---:|---:|",
    ]
    for kind, label in (("loss", "first batch, "), ("metrics", "validation, ")):
        for name, value in reference[kind].items():
            mine = ours[kind][name]
            lines.append(f"| {label}{name} | {mine:.7f} | {value:.7f} | {mine - value:.1e} |")
    lines += [
        f"| item graph, differing edges | | | {reference['differing_edges']} |",
        "",
        "| two LGConv layers, forward + backward | ms | against the fastest |",
        "|---|---:|---:|",
    ]
    fastest = min(result["propagation"].values())
    for name, value in result["propagation"].items():
        lines.append(f"| {name} | {value:.1f} | {value / fastest:.1f} |")
    if ours["profile"]:
        lines += ["", "Operators of one epoch of ours:", "", "```", ours["profile"].strip(), "```"]
    return "\n".join(lines) + "\n"


def _setup_seconds(seconds: dict[str, float]) -> float:
    return sum(seconds.get(part, 0.0) for part in SETUP_PARTS)


def measure(data: Path | None, epochs: int, threads: int, profile: bool) -> dict[str, Any]:
    """Runs both sides and the propagation table, one process after the other."""
    problem = make_problem(data)
    result: dict[str, Any] = {
        "data": "generated interactions" if data is None else data.name,
        "num_users": problem["num_users"],
        "num_items": problem["num_items"],
        "num_train": problem["train"].size(1),
        "num_val": problem["val"].size(1),
        "epochs": epochs,
        "threads": threads,
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(problem, folder / "problem.pt")
        for side in ("ours", "reference", "propagation"):
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.speed", "--side", side]
            command += ["--folder", name, "--epochs", str(epochs), "--threads", str(threads)]
            command += ["--profile"] * profile
            subprocess.run(command, check=True, cwd=Path(__file__).resolve().parent.parent)
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

    result = measure(options.data, options.epochs, options.threads, options.profile)
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
