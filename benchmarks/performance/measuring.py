"""Shared parts of the measurements: options, models to measure, clocks and processes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median
from typing import Any, TypeVar

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments.prepared_data import PreparedData
from alignrec_pyg.experiments.provenance import commit, hardware, versions
from alignrec_pyg.experiments.settings import load_model, published_settings
from alignrec_pyg.graph import InteractionBatch, feature_names
from alignrec_pyg.models import Recommender, model_names
from alignrec_pyg.report import describe, describe_split
from alignrec_pyg.train_config import CompleteTrainConfig, TrainConfig
from alignrec_pyg.training.sampling import seeded_generator
from benchmarks.performance.made_up import SHAPES

MODELS = model_names()
ResultT = TypeVar("ResultT")


def make_parser(
    doc: str | None, *, models: tuple[str, ...] = (), threads: int | None = None
) -> argparse.ArgumentParser:
    """A parser with the options that most measurements have; without models no ``--models``."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    if models:
        names = f"of {', '.join(MODELS)} (default: {' '.join(models)})"
        add("--models", nargs="+", choices=MODELS, default=models, metavar="NAME", help=names)
    threads = threads or torch.get_num_threads()
    add("--threads", type=positive_int, default=threads, metavar="N", help="(%(default)s)")
    return parser


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Adds the option for the size of made-up data."""
    text = "size of the made-up links (%(default)s)"
    parser.add_argument("--shape", choices=SHAPES, default="baby", help=text)


def positive_int(text: str) -> int:
    """An integer of 1 or more, for ``argparse``."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs to be an integer of 1 or more (got {text!r})")
    return int(text)


def log(line: str) -> None:
    """Prints progress to stderr."""
    print(line, file=sys.stderr, flush=True)


def origin(device: torch.device) -> str:
    """Commit, hardware and versions that a figure comes from."""
    numbers = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"commit {commit()}, {hardware(device)}, {numbers}"


def megabytes(num_bytes: int | None) -> str:
    """A peak of memory as a cell of a table."""
    return "not measured" if num_bytes is None else f"{num_bytes / 1e6:,.0f}"


def in_new_process(threads: int, function: Callable[..., ResultT], *arguments: object) -> ResultT:
    """The result of a call in a new process, where nothing was allocated before."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        return pool.submit(function, *arguments).result()


def median_seconds(
    action: Callable[[], object], clock: Callable[[], float], repeats: int = 3
) -> float:
    """The median of several calls, after a first one that prepares what later ones find ready."""
    seconds = []
    for _ in range(repeats + 1):
        start = clock()
        action()
        seconds.append(clock() - start)
    return median(seconds[1:])


def wait_for(device: torch.device) -> None:
    """Waits until a GPU has finished its work; on a CPU a call returns when it has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_first_step(device: torch.device) -> None:
    """Takes a step of Adam: torch loads more code in the first one of a process."""
    number = torch.nn.Parameter(torch.ones(1, device=device))
    number.sum().backward()
    torch.optim.Adam([number], fused=True).step()


def published(name: str) -> tuple[type[Recommender], dict[str, Any], CompleteTrainConfig]:
    """The class of a model, its published arguments, and how it is trained as published."""
    settings = published_settings(load_model(name), "")
    config = settings.config.completed(TrainConfig(), num_links=0)  # it leaves nothing open
    return settings.model, dict(settings.hparams), config


def build(
    name: str, train: HeteroData, val: HeteroData, test: HeteroData
) -> tuple[Recommender, CompleteTrainConfig, PreparedData]:
    """A model with its published settings, how it is trained, and the data with its item graphs."""
    model_class, hparams, config = published(name)
    data = PreparedData(
        name="made up",
        train=train,
        val=val,
        test=test,
        known=train,
        hashes={},
        features=feature_names(train),
        scale="raw",
        neighbors={},
        source_report=describe(train),
        split=describe_split(train, val, test),
        split_rule="labels",
    )
    torch.manual_seed(0)
    return model_class(train, **{**hparams, **data.inputs(model_class)}), config, data


def make_optimizer(model: Recommender, config: CompleteTrainConfig) -> torch.optim.Adam:
    """The optimiser that ``fit`` makes."""
    return torch.optim.Adam(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )


def train_step(
    model: Recommender,
    train: HeteroData,
    optimizer: torch.optim.Optimizer,
    batch: InteractionBatch,
    step: int,
    seed: int = 0,
) -> None:
    """One step of the first epoch, as ``fit`` takes it."""
    model.on_batch_start(seeded_generator(seed, 0, 2, step, device=batch.user.device))
    optimizer.zero_grad(set_to_none=True)
    loss, _ = model.loss(train, batch)
    loss.item()  # fit looks at every loss, and so waits for the device
    loss.backward()
    optimizer.step()
