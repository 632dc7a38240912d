"""Training on several GPUs or machines, by Ray Train."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_integer, require_package
from alignrec_pyg.graph import on_device
from alignrec_pyg.models import Recommender
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training.loop import FitResult, fit, take_best
from alignrec_pyg.training.run import OptimizerFactory, Report
from alignrec_pyg.training.state import TrainState, restore


def run_with_ray(
    worker: Callable[[Any, torch.device], object],
    job: Any,
    folder: Path,
    *,
    num_workers: int,
    use_gpu: bool,
) -> None:
    """Calls a function in several processes of Ray Train, which form one process group.

    A worker that fails is started again with the others, up to three times. Each calls ``worker``,
    a function of a module, with ``job`` and its device. Paths in ``job`` are absolute, as workers
    have another working directory; ``folder`` is one that all machines see under this path.

    Raises:
        ImportError: If Ray is missing.
        ValueError: If ``num_workers`` is not positive.
        RuntimeError: If a worker failed more often; Ray's error, which names the worker's own.
    """
    require_package(
        "ray.train", "training with several workers (torchrun does without)", "'ray[tune]'", "tune"
    )
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer, get_device

    check_integer("num_workers", num_workers, 1)

    # Sent by value, with a reference: Ray's controller, through which it goes, then neither imports
    # what the worker needs nor holds the graphs.
    def run_worker(arguments: dict[str, Any]) -> None:
        called, given = ray.get(arguments["work"])
        called(given, get_device())

    TorchTrainer(
        run_worker,
        train_loop_config={"work": ray.put((worker, job))},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name="workers",
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=3),
        ),
    ).fit()


def fit_with_ray(
    model: Recommender,
    train: HeteroData,
    val: HeteroData | None,
    config: TrainConfig | None = None,
    *,
    num_workers: int,
    checkpoint_dir: str | Path,
    use_gpu: bool = False,
    optimizer: OptimizerFactory | None = None,
    report: Report | Sequence[Report] | None = None,
    checkpoint_seconds: float = 60.0,
    worker_timeout: float = 600.0,
) -> FitResult:
    """:func:`~alignrec_pyg.fit` on workers of Ray Train, which may be on several machines.

    Each worker takes batches of its own (see :func:`~alignrec_pyg.fit`). One that fails is started
    again with the others, up to three times, and the run goes on from its last save; the same call
    continues a run that was interrupted.

    Args:
        model: Model to train, on any device; ends with the weights of the best epoch, in
            evaluation mode.
        train: Graph to train on (on the same device), sent to every worker with ``val`` and
            ``model``.
        val: Graph with the links to predict for validation, or ``None``, as in
            :func:`~alignrec_pyg.fit`.
        config: How to train; ``batch_size`` is that of each worker.
        num_workers: Processes that train together.
        checkpoint_dir: As in :func:`~alignrec_pyg.fit`; a folder that all machines see under this
            path.
        use_gpu: Whether each worker takes a GPU.
        optimizer: Makes each worker's optimiser, as in :func:`~alignrec_pyg.fit`.
        report: Called in every worker, as in :func:`~alignrec_pyg.fit`.
        checkpoint_seconds: Time between saves.
        worker_timeout: Seconds after which a worker that does not answer has failed, as in
            :func:`~alignrec_pyg.fit`.

    Returns:
        The best epoch, its metrics and the history.

    Raises:
        ImportError: If Ray is missing.
        ValueError: If ``num_workers`` is not positive, or a graph is not that of the model or on
            another device.
        RuntimeError: If a worker failed more often; Ray's error, which names the worker's own.
    """
    model.check_fits(train, "train")
    if val is not None:
        model.check_fits(val, "val")
    folder = Path(checkpoint_dir).resolve()  # workers have another working directory
    worker = partial(
        _fit,
        config=config,
        optimizer=optimizer,
        report=report,
        checkpoint_dir=folder,
        checkpoint_seconds=checkpoint_seconds,
        worker_timeout=worker_timeout,
    )
    on_cpu = [part if part is None else on_device(part, "cpu") for part in (train, val)]
    job = copy.deepcopy(model).cpu(), *on_cpu
    run_with_ray(worker, job, folder, num_workers=num_workers, use_gpu=use_gpu)
    state = TrainState()
    restore(folder, None, state, model, None)  # the workers have checked that it is this run
    return take_best(model, state, model.complete_config(train, config))


def _fit(
    job: tuple[Recommender, HeteroData, HeteroData | None], device: torch.device, **options: Any
) -> None:
    model, train, val = job
    val = None if val is None else on_device(val, device)
    fit(model.to(device), on_device(train, device), val, **options)
