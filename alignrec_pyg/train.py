"""The training loop: one for all models."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm import tqdm

from alignrec_pyg.evaluate import evaluate
from alignrec_pyg.graph import INTERACTS, content_hash
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.models import Recommender
from alignrec_pyg.sampling import TripletSampler, seeded_generator
from alignrec_pyg.train_state import TrainState, restore, save

# Streams of randomness within an epoch; the sampler's is 0.
_EPOCH_HOOK = 1
_BATCH = 2


class TrainingDivergedError(FloatingPointError):
    """The loss is no longer finite."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    r"""How to train.

    Args:
        lr: Learning rate of Adam in epoch 0.
        lr_decay: Factor :math:`\gamma` of the decay :math:`\gamma^{e/T}` in epoch :math:`e`
            (1 = none; 0.96 in AlignRec, MGCN and LATTICE).
        lr_decay_epochs: Epochs :math:`T` until the factor is reached.
        weight_decay: Weight decay of Adam.
        batch_size: Links per batch.
        max_epochs: Most epochs to run; one epoch is one pass over all links.
        patience: Training stops when more evaluations than this in a row bring no improvement.
        eval_every: Epochs between evaluations.
        monitor: Validation metric that selects the best epoch; strictly greater wins.
        ks: Cut-offs of the validation metrics.
        seed: Seed of the order of links, the negatives and the models' draws.

    Raises:
        ValueError: If a value is out of range.
    """

    lr: float = 1e-3
    lr_decay: float = 1.0
    lr_decay_epochs: int = 50
    weight_decay: float = 0.0
    batch_size: int = 2048
    max_epochs: int = 1000
    patience: int = 20
    eval_every: int = 1
    monitor: str = "recall@20"
    ks: tuple[int, ...] = (10, 20)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ks", tuple(self.ks))
        for name in ("lr", "lr_decay"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"'{name}' needs to be positive (got {getattr(self, name)})")
        for name in ("lr_decay_epochs", "batch_size", "max_epochs", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"'{name}' needs to be 1 or more (got {getattr(self, name)})")
        for name in ("weight_decay", "patience", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"'{name}' needs to be 0 or more (got {getattr(self, name)})")
        names = [f"{m}@{k}" for m in ("recall", "ndcg", "precision", "map", "mrr") for k in self.ks]
        if self.monitor not in names:
            raise ValueError(f"'monitor' needs to be one of {names} (got {self.monitor!r})")

    def lr_at(self, epoch: int) -> float:
        """Learning rate in an epoch."""
        return float(self.lr * self.lr_decay ** (epoch / self.lr_decay_epochs))


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What training gave; the model holds the weights of the best epoch.

    Args:
        best_epoch: Epoch (from 0) with the best validation value.
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
) -> FitResult:
    """Trains a model with Adam and early stopping on validation.

    All randomness in an epoch comes from ``(config.seed, epoch)``, so an interrupted run that is
    started again with the same arguments continues exactly; with the same seed, results on CPU are
    equal to the last digit. (The initial weights are drawn when the model is built.)

    Args:
        model: Model on the device to train on; ends with the weights of the best epoch.
        train: Graph to train on (on the same device).
        val: Graph with the links to predict for validation.
        config: How to train.
        report: Called after every evaluation with the epoch and its metrics.
        checkpoint_dir: Where to save the state. If a state of the same run is there, training
            continues from it. With it, Ctrl-C and SIGTERM finish the batch and save first.
        checkpoint_seconds: Time between saves; a lost part is simply trained again.

    Returns:
        The best epoch, its metrics and the history.

    Raises:
        TrainingDivergedError: If the loss is not finite, naming epoch, batch and term.
        CheckpointError: If ``checkpoint_dir`` is damaged or holds another run.
        KeyboardInterrupt, SystemExit: After saving, when interrupted with ``checkpoint_dir``.
    """
    config = config or TrainConfig()
    sampler = TripletSampler(train, batch_size=config.batch_size, seed=config.seed)
    device = next(model.parameters()).device
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # one pass over the parameters instead of several
    )
    state = TrainState()
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    run: dict[str, Any] = {}
    if folder is not None:
        run = _run_identity(model, train, val, config)
        restore(folder, run, state, model, optimizer)
    clock = _Clock(state.seconds)
    saved_at = time.monotonic()

    with (
        StopRequest(active=folder is not None) as stop,
        tqdm(
            total=config.max_epochs * len(sampler),
            initial=state.epoch * len(sampler) + state.step,
            desc=type(model).__name__,
            unit="batch",
            disable=None,
        ) as progress,
    ):

        def save_state() -> None:
            if folder is not None:
                state.seconds = clock.elapsed()
                save(folder, run, state, model, optimizer)

        while not state.finished:
            _train_epoch(model, train, sampler, optimizer, config, state, progress, stop)
            if not stop.requested:
                _end_epoch(model, val, config, state, len(sampler), report)
                progress.set_postfix(
                    epoch=state.epoch, best=f"{state.best_metrics.get(config.monitor, 0):.4f}"
                )
            if (
                stop.requested
                or state.finished
                or time.monotonic() - saved_at >= checkpoint_seconds
            ):
                save_state()
                saved_at = time.monotonic()
            if not state.finished:
                stop.exit_if_requested()

    model.load_state_dict(state.best_weights)
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
    progress: tqdm[Any],
    stop: StopRequest,
) -> None:
    """Trains from ``state.step`` to the end of the epoch, or to a request to stop."""
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
        if stop.requested:
            return
        model.on_batch_start(
            seeded_generator(config.seed, state.epoch, _BATCH, step, device=device)
        )
        optimizer.zero_grad(set_to_none=True)  # before the forward pass, whose peak it lowers
        total, terms = model.loss(train, batch)
        values = {"loss": total.item(), **{f"loss/{name}": t.item() for name, t in terms.items()}}
        _check_finite(values, state.epoch, step)
        total.backward()
        optimizer.step()
        for name, value in values.items():
            state.loss_sums[name] = state.loss_sums.get(name, 0.0) + value
        state.step = step + 1
        progress.update()


def _end_epoch(
    model: Recommender,
    val: HeteroData,
    config: TrainConfig,
    state: TrainState,
    num_batches: int,
    report: Callable[[int, dict[str, float]], None] | None,
) -> None:
    entry = {"epoch": float(state.epoch), "lr": config.lr_at(state.epoch)}
    entry |= {name: value / num_batches for name, value in state.loss_sums.items()}
    last = state.epoch + 1 == config.max_epochs
    if (state.epoch + 1) % config.eval_every == 0 or last:
        metrics = evaluate(model, val, config.ks)
        entry |= metrics
        if not state.best_weights or metrics[config.monitor] > state.best_metrics[config.monitor]:
            state.best_epoch, state.best_metrics = state.epoch, metrics
            state.best_weights = {
                name: value.detach().clone() for name, value in model.state_dict().items()
            }
            state.num_stale = 0
        else:
            state.num_stale += 1
    state.history.append(entry)
    state.finished = last or state.num_stale > config.patience
    state.epoch += 1
    state.step = 0
    state.loss_sums = {}
    if report is not None and config.monitor in entry:
        report(state.epoch - 1, entry)


def _check_finite(values: dict[str, float], epoch: int, step: int) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise TrainingDivergedError(
            f"the loss is not finite in epoch {epoch}, batch {step}: {', '.join(bad)} "
            "(lower the learning rate, or look for extreme feature values)"
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
        "config": {**asdict(config), "ks": list(config.ks)},
        **model.description(),
        "data": content_hash(*tensors, val[INTERACTS].edge_index, val[INTERACTS].edge_label_index),
    }


class _Clock:
    def __init__(self, before: float) -> None:
        self._before = before
        self._start = time.monotonic()

    def elapsed(self) -> float:
        return self._before + time.monotonic() - self._start
