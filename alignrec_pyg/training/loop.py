"""The training loop: one for all models."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, content_hash, links_to_predict
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.models import Recommender
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training.parallel import (
    Workers,
    check_shares_add_up,
    check_workers,
    evaluate_together,
)
from alignrec_pyg.training.progress import Progress
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from alignrec_pyg.training.state import RunClock, TrainState, restore, save

# Streams of randomness within an epoch; the sampler's is 0.
_EPOCH_HOOK = 1
_BATCH = 2
# Part of a saved run's identity: raise it with each change that makes training give other values.
_FORMAT = 3


class TrainingDivergedError(FloatingPointError):
    """The loss is no longer finite."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What training gave; the model holds the weights of the best epoch.

    Args:
        best_epoch: Epoch with the best validation value; epochs count from 1.
        best_metrics: Validation metrics of that epoch.
        num_epochs: Epochs run.
        seconds: Time spent, including before interruptions.
        history: One entry per epoch: ``epoch``, ``lr``, mean ``loss`` and ``loss/<term>``, and the
            validation metrics where it was evaluated.
    """

    best_epoch: int
    best_metrics: dict[str, float]
    num_epochs: int
    seconds: float
    history: list[dict[str, float]] = field(repr=False)


def fit(
    model: Recommender,
    train: HeteroData,
    val: HeteroData,
    config: TrainConfig | None = None,
    *,
    report: Callable[[int, dict[str, float]], None] | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: bool = True,
) -> FitResult:
    """Trains a model with Adam and early stopping on validation.

    All randomness in an epoch comes from ``(config.seed, epoch)``, so an interrupted run that is
    started again with the same arguments continues exactly; with the same seed, results on CPU are
    equal to the last digit. (The initial weights are drawn when the model is built.)

    Inside a process group (``torchrun``, Ray Train: :func:`~alignrec_pyg.fit_with_ray`) its
    workers train one model, given the same arguments: each has the whole graph, takes its share of
    every batch of ``config.batch_size`` links and of the users to evaluate, and all take the same
    steps, those of one worker up to rounding. The initial weights are the first worker's.

    Args:
        model: Model on the device to train on; ends with the weights of the best epoch, in
            evaluation mode.
        train: Graph to train on (on the same device).
        val: Graph with the links to predict for validation.
        config: How to train.
        report: Called after every evaluation with the epoch (from 1) and its entry of the result's
            ``history``, to which the best epoch so far is added with its metrics: ``best_epoch``,
            ``best_recall@20`` and so on. ``best_<monitor>`` never falls, in a resumed run neither:
            it is what a tuner should maximise. Of several workers it is called by each, with the
            same values.
        checkpoint_dir: Where to save the state; of several machines a folder that all see. If a
            state of the same run is there, training continues from it, also with another number of
            workers. With it, Ctrl-C and SIGTERM finish the batch and save first.
        checkpoint_seconds: Time between saves, also within an epoch; what was not saved when the
            process is killed is trained again, to the same values.
        progress: Whether to show how far training has come, on standard error: a bar on a
            terminal, a line a minute elsewhere.

    Returns:
        The best epoch, its metrics and the history.

    Raises:
        ValueError: If a graph is not that of the model, has no links, or is on another device; if
            workers were given different arguments, or the model's loss cannot be shared.
        TrainingDivergedError: If the loss is not finite, naming epoch, batch and term.
        CheckpointError: If ``checkpoint_dir`` is damaged or holds another run.
        KeyboardInterrupt, SystemExit: After saving, when interrupted with ``checkpoint_dir``.
    """
    config = config or TrainConfig()
    model.check_fits(train, "train")
    model.check_fits(val, "val")
    links_to_predict(val, "val")
    sampler = TripletSampler(train, batch_size=config.batch_size, seed=config.seed)
    device = next(model.parameters()).device
    workers = Workers(device)
    workers.broadcast_parameters(model)
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # one pass over the parameters instead of several
    )
    state = TrainState()
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    run: dict[str, Any] = {}
    if folder is not None or workers.size > 1:
        run = _run_identity(model, train, val, config)
    if folder is not None:
        restore(folder, run, state, model, optimizer)
    if workers.size > 1:
        check_workers(workers, run, None if folder is None else state, val)
        generators = [
            seeded_generator(config.seed, 0, *stream, device=device)
            for stream in ((_EPOCH_HOOK,), (_BATCH, 0))
        ]
        check_shares_add_up(model, train, next(sampler.epoch(0)), generators, workers)
    first = workers.rank == 0
    clock = RunClock(state.seconds, checkpoint_seconds if folder is not None else math.inf)

    with (
        StopRequest(active=folder is not None) as stop,
        Progress(type(model).__name__, shown=progress and first) as bar,
    ):
        begun = state.epoch * len(sampler) + state.step
        start = time.monotonic()

        def show() -> None:
            # Early stopping is the end that is known; it moves with every better epoch.
            patience = (config.patience + 1) * config.eval_every
            epochs = min(config.max_epochs, max(0, state.best_epoch) + patience)
            done = state.epoch * len(sampler) + state.step
            total = max(epochs * len(sampler), done, 1)
            seconds = (time.monotonic() - start) / max(1, done - begun) * (total - done)
            best = state.best_metrics.get(config.monitor)
            so_far = "" if best is None else f", best {config.monitor} {best:.4f}"
            bar.update(done / total, seconds, f"epoch {state.epoch + 1}{so_far}")

        def save_if(due: bool) -> None:
            if folder is None:
                return
            stopping = workers.any(stop.requested)
            if first and (due or stopping or clock.save_is_due()):
                _check_parameters(model, state)
                state.seconds = clock.elapsed()
                save(folder, run, state, model, optimizer)
                clock.saved()
            if stopping:
                workers.barrier()  # the others wait for the state to be saved
                stop.exit_if_requested()
                raise SystemExit(143)  # another worker was asked to stop

        while not state.finished:
            for _ in _train_epoch(model, train, sampler, optimizer, config, state, workers):
                show()
                save_if(due=False)
            _end_epoch(model, val, config, state, len(sampler), report, workers)
            save_if(due=state.finished)
        stop.exit_if_requested()

    model.load_state_dict(state.best_weights)
    model.eval()
    return FitResult(
        best_epoch=state.best_epoch,
        best_metrics=state.best_metrics,
        num_epochs=state.epoch,
        seconds=clock.elapsed(),
        history=state.history,
    )


def _train_epoch(
    model: Recommender,
    train: HeteroData,
    sampler: TripletSampler,
    optimizer: torch.optim.Adam,
    config: TrainConfig,
    state: TrainState,
    workers: Workers,
) -> Iterator[None]:
    """Trains from ``state.step`` to the end of the epoch; yields after each batch."""
    model.train()
    device = next(model.parameters()).device
    for group in optimizer.param_groups:
        group["lr"] = config.lr_at(state.epoch)
    model.on_epoch_start(
        train, seeded_generator(config.seed, state.epoch, _EPOCH_HOOK, device=device)
    )
    for step, batch in enumerate(sampler.epoch(state.epoch)):
        if step < state.step:
            continue
        model.on_batch_start(
            seeded_generator(config.seed, state.epoch, _BATCH, step, device=device)
        )
        optimizer.zero_grad(set_to_none=True)  # before the forward pass, whose peak it lowers
        total, terms = model.loss(train, batch.share(workers.rank, workers.size))
        names = ["loss", *(f"loss/{name}" for name in terms)]
        # one wait for the device
        losses = workers.sums(torch.stack([total, *terms.values()]).detach())
        values = dict(zip(names, losses, strict=True))
        unused = {f"loss/{name}" for name, weight in model.loss_weights.items() if weight == 0}
        _check_finite(values, unused, state.epoch + 1, step + 1)
        total.backward()
        workers.add_gradients(model)
        optimizer.step()
        for name, value in values.items():
            state.loss_sums[name] = state.loss_sums.get(name, 0.0) + value
        state.step = step + 1
        yield


def _end_epoch(
    model: Recommender,
    val: HeteroData,
    config: TrainConfig,
    state: TrainState,
    num_batches: int,
    report: Callable[[int, dict[str, float]], None] | None,
    workers: Workers,
) -> None:
    epoch = state.epoch + 1
    entry = {"epoch": float(epoch), "lr": config.lr_at(state.epoch)}
    entry |= {name: value / num_batches for name, value in state.loss_sums.items()}
    last = epoch == config.max_epochs
    if epoch % config.eval_every == 0 or last:
        metrics = evaluate_together(model, val, config.ks, workers)
        entry |= metrics
        if not state.best_weights or metrics[config.monitor] > state.best_metrics[config.monitor]:
            state.best_epoch, state.best_metrics = epoch, metrics
            for name, value in model.state_dict().items():
                if name in state.best_weights:
                    state.best_weights[name].copy_(value)
                else:
                    state.best_weights[name] = value.detach().clone()
            state.num_stale = 0
        else:
            state.num_stale += 1
    state.history.append(entry)
    state.finished = last or state.num_stale > config.patience
    state.epoch, state.step = epoch, 0
    state.loss_sums = {}
    if report is not None and config.monitor in entry:
        best = {f"best_{name}": value for name, value in state.best_metrics.items()}
        report(epoch, {**entry, "best_epoch": float(state.best_epoch), **best})


def _check_finite(values: dict[str, float], unused: set[str], epoch: int, batch: int) -> None:
    bad = [name for name, v in values.items() if name not in unused and not math.isfinite(v)]
    if bad:
        raise TrainingDivergedError(
            f"the loss is not finite in epoch {epoch}, batch {batch}: {', '.join(bad)} "
            "(lower the learning rate, or look for extreme feature values)"
        )


def _check_parameters(model: Recommender, state: TrainState) -> None:
    """Nothing is saved that could not be continued."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise TrainingDivergedError(
                f"{name} is not finite after {state.epoch} epochs and {state.step} batches (lower "
                "the learning rate, or look for extreme feature values)"
            )


def _run_identity(
    model: Recommender, train: HeteroData, val: HeteroData, config: TrainConfig
) -> dict[str, Any]:
    """What has to be the same for a saved state to be continued."""
    tensors = [
        value
        for store in train.stores
        for _, value in sorted(store.items())
        if isinstance(value, Tensor)
    ]
    return {
        "format": _FORMAT,
        "config": {**asdict(config), "ks": list(config.ks)},
        **model.description(),
        "graphs": content_hash(
            *tensors, val[INTERACTS].edge_index, val[INTERACTS].edge_label_index
        ),
    }
