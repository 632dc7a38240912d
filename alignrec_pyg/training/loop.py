"""The training loop: one for all models."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_number
from alignrec_pyg.fingerprint import data_fingerprints
from alignrec_pyg.graph import (
    INTERACTS,
    NeighborSampling,
    content_hash,
    feature_key,
    feature_names,
    item_graph_names,
    knn_edge_type,
    links_to_predict,
    mask_key,
    with_links_to_predict,
)
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.models import ClosedFormRecommender, Recommender
from alignrec_pyg.nn.features import sparse_gradients
from alignrec_pyg.train_config import CompleteTrainConfig, TrainConfig
from alignrec_pyg.training.parallel import (
    Workers,
    check_workers,
    evaluate_distributed,
)
from alignrec_pyg.training.progress import Progress
from alignrec_pyg.training.row_adam import RowAdam
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from alignrec_pyg.training.state import RunClock, TrainState, restore, run_lock, save

# Streams of randomness within an epoch; the sampler's are 0 and 3.
_EPOCH_HOOK = 1
_BATCH = 2
_EVAL_USERS = 4  # of the first epoch
_NEIGHBORS = 5
# Part of a saved run's identity: raise it with each change that makes training give other values.
_FORMAT = 8
# What may change when a saved run goes on: the training itself is the same.
_SCHEDULE = (
    *("max_epochs", "patience", "eval_every", "ks"),
    *("eval_steps", "patience_steps", "min_steps"),
)
_DIVERGED = "(lower the learning rate, or look for extreme feature values)"

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Makes an optimiser from a model's parameters."""

Report = Callable[[int, dict[str, float]], None]
"""Takes an epoch and what is known of it."""


class TrainingDivergedError(FloatingPointError):
    """The loss is no longer finite."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What training gave; the model holds the weights of the best epoch.

    Args:
        best_epoch: Epoch with the best validation value; epochs count from 1.
        best_metrics: Validation metrics of that epoch; none without validation, whose best epoch
            is the last one.
        num_epochs: Epochs run.
        stopped_early: Whether patience ended training; else it went to the limit of epochs. A model
            in closed form always did: it has no more epochs.
        still_rising: Whether validation was still rising at the end: the best evaluation is among
            the last tenth of them, rounded up. Then a larger limit (or, if ``stopped_early``,
            patience) may well give a better model.
        seconds: Time spent by the clock, including before interruptions.
        cpu_seconds: Time spent by the processor, all threads of the process together; of several
            workers that of the first. Unlike ``seconds`` it does not count what else the machine
            did, nor waiting for a GPU.
        config: How the model was trained, with what followed from model and data.
        history: One entry per epoch: ``epoch``, ``step`` (batches done in all), ``lr``, mean
            ``loss`` and ``loss/<term>``, and the validation metrics where it was evaluated. Of a
            model in closed form there is one without ``lr`` and losses.

    ``str(result)`` says it in a sentence. A run with a ``checkpoint_dir`` goes on where it ended
    with a larger limit, ``TrainConfig(max_epochs=...)``, or a larger ``patience``.
    """

    best_epoch: int
    best_metrics: dict[str, float]
    num_epochs: int
    stopped_early: bool
    still_rising: bool
    seconds: float
    cpu_seconds: float
    config: CompleteTrainConfig
    history: list[dict[str, float]] = field(repr=False)

    @property
    def way_on(self) -> Literal["max_epochs", "patience"] | None:
        """What a saved run goes on with if it is larger; ``None`` if it stopped as it should."""
        if not self.stopped_early:
            return "max_epochs"
        return "patience" if self.still_rising else None

    def __str__(self) -> str:
        if self.stopped_early and self.num_epochs == 1:  # patience ends no run before the second
            return "solved in closed form"
        end = "stopped early" if self.stopped_early else "at the limit of epochs"
        rising = ", validation still rising" if self.still_rising else ""
        return f"best epoch {self.best_epoch} of {self.num_epochs}, {end}{rising}"


def fit(
    model: Recommender,
    train: HeteroData,
    val: HeteroData | None,
    config: TrainConfig | None = None,
    *,
    optimizer: OptimizerFactory | None = None,
    report: Report | Sequence[Report] | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    worker_timeout: float = 600.0,
    progress: bool = True,
) -> FitResult:
    """Trains a model with early stopping on validation.

    A :class:`~alignrec_pyg.models.ClosedFormRecommender` is solved instead, in a single epoch.

    All randomness in an epoch comes from ``(config.seed, epoch)``, so an interrupted run that is
    started again with the same arguments continues exactly; with the same seed, results on CPU are
    equal to the last digit. (The initial weights are drawn when the model is built.)

    A saved run, also one that has ended, goes on with other ``max_epochs``, ``patience``,
    ``eval_every`` (or these in steps) or ``ks``, which hold from there on: it is trained further if
    neither the limit nor the patience ends it any longer, and otherwise the result is that of the
    epochs done. An evaluation of the last epoch that ``eval_every`` did not ask for may be the best
    one, but does not count against the patience.

    Inside a process group (``torchrun``, Ray Train: :func:`~alignrec_pyg.fit_with_ray`) its
    workers train one model, given the same arguments: each has the whole graph, takes every
    ``world_size``-th batch of ``config.batch_size`` links and its part of the users to evaluate,
    and all step along the mean of their gradients, as with
    :class:`~torch.nn.parallel.DistributedDataParallel`. So a step reads ``world_size`` batches, an
    epoch has so many fewer steps, and losses within a batch contrast a worker's own links. The
    initial weights are the first worker's.

    Args:
        model: Model on the device to train on; ends with the weights of the best epoch, in
            evaluation mode.
        train: Graph to train on (on the same device).
        val: Graph with the links to predict for validation. ``None``: nothing is evaluated, and
            the model ends with the weights of the last of ``config.max_epochs`` epochs.
        config: How to train (default: as ``model.train_config(train)``, which also has what
            ``config`` leaves ``None``).
        optimizer: Makes the optimiser from the model's parameters, e.g. ``torch.optim.AdamW`` or
            ``partial(torch.optim.SGD, momentum=0.9)`` (default: Adam with ``config.weight_decay``).
            All its learning rates are set to ``config``'s before every epoch. Of several workers
            with ``config.fan_out`` it needs to change those rows of a table alone that have a
            gradient, as :class:`torch.optim.SGD` without momentum and ``Adagrad`` do.
        report: One function or several, called after every evaluation with the epoch (from 1) and
            its entry of the result's ``history``, to which the best epoch so far is added with its
            metrics: ``best_epoch``, ``best_recall@20`` and so on. ``best_<monitor>`` never falls,
            in a resumed run neither: it is what a tuner should maximise. Of several workers it is
            called by each, with the same values.
        checkpoint_dir: Where to save the state; of several machines a folder that all see. If a
            state of the same run, with as many workers, is there, training continues from
            it. With it, Ctrl-C and SIGTERM finish the batch and save first.
        checkpoint_seconds: Time from one save to the next, also within an epoch, and more where a
            save takes longer than a twentieth of it; 0 saves after every batch. What was not saved
            when the process is killed is trained again, to the same values.
        worker_timeout: Seconds after which a worker that does not answer the others is given up;
            longer than the first one takes to save, when the others wait. (With the backend
            ``nccl`` torch then ends the process.)
        progress: Whether to show how far training has come, on standard error: a bar on a
            terminal, a line a minute elsewhere.

    Returns:
        The best epoch, its metrics and the history.

    Raises:
        ValueError: If a graph is not that of the model, has no links, or is on another device; if
            the model cannot draw neighbourhoods and ``config.fan_out`` is given; if
            ``config.weight_decay`` is given beside ``optimizer``, whose own it should be; if
            ``optimizer`` is given for a model in closed form, or that is too large to solve; if it
            has momentum and several workers draw neighbours; if workers were given different
            arguments.
        TrainingDivergedError: If the loss is not finite, naming epoch, batch and term.
        CheckpointError: If ``checkpoint_dir`` is damaged or holds another run.
        LockedError: If another process trains in ``checkpoint_dir``.
        WorkerLostError: If another worker died or did not answer for ``worker_timeout``.
        KeyboardInterrupt, SystemExit: After saving, when interrupted with ``checkpoint_dir``.
    """
    check_number("worker_timeout", worker_timeout, above=0)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    run = _Run(model, train, val, config, optimizer, worker_timeout)
    reports = [report] if callable(report) else report or []
    with (
        closing(run.workers),
        run_lock(folder if run.first else None),
        StopRequest(active=folder is not None) as stop,
        Progress(type(model).__name__, shown=progress and run.first) as bar,
        nullcontext() if run.config.fan_out is None else sparse_gradients(model),
    ):
        run.begin(folder)
        clock = RunClock(run.state, checkpoint_seconds)

        def save_if(due: bool) -> None:
            if folder is None:
                return
            due = due or (run.first and clock.save_is_due())
            stopping, saving = run.workers.all_reduce([stop.requested, due or stop.requested])
            if saving:
                with clock.saving():
                    run.workers.gather_rows(run.optimizer)
                    if run.first:
                        clock.stamp()
                        run.save(folder)
            if stopping:
                run.workers.barrier()  # the others wait for the state to be saved
                stop.exit_if_requested()
                raise SystemExit(143)  # another worker was asked to stop

        while not run.state.finished:
            for _ in run.train_epoch():
                run.show(bar)
                save_if(due=False)
            run.end_epoch(reports)
            save_if(due=run.state.finished)
        stop.exit_if_requested()
        clock.stamp()

    return take_best(model, run.state, run.config)


def take_best(model: Recommender, state: TrainState, config: CompleteTrainConfig) -> FitResult:
    """Gives the model the weights of the best epoch of a run that has ended."""
    model.load_state_dict(state.best_weights)
    model.eval()
    evaluated = [entry["epoch"] for entry in state.history if config.monitor in entry]
    closed_form = isinstance(model, ClosedFormRecommender)
    last_tenth = evaluated[-max(1, math.ceil(len(evaluated) / 10)) :]
    return FitResult(
        best_epoch=state.best_epoch,
        best_metrics=state.best_metrics,
        num_epochs=state.epoch,
        stopped_early=state.stopped_early or closed_form,
        still_rising=state.best_epoch in last_tenth and not closed_form,
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
        config=config,
        history=state.history,
    )


class _Run:
    """A run of training: a model with its optimiser, data and progress.

    Epochs count from 1 wherever they are seen; ``state.epoch`` is how many are done, and so the
    index of the present one, by which its draws are seeded.
    """

    def __init__(
        self,
        model: Recommender,
        train: HeteroData,
        val: HeteroData | None,
        config: TrainConfig | None,
        optimizer: OptimizerFactory | None,
        worker_timeout: float,
    ) -> None:
        model.check_fits(train, "train")
        config = model.complete_config(train, config)
        if val is not None:
            model.check_fits(val, "val")
            links_to_predict(val, "val")
            val = val if config.eval_users is None else _some_users(val, config)
        if isinstance(model, ClosedFormRecommender):
            if optimizer is not None:
                raise ValueError(
                    f"'optimizer' needs to be None for {type(model).__name__} (got {optimizer!r}): "
                    "it is solved in closed form"
                )
            config = replace(config, max_epochs=1, fan_out=None)
        self.model, self.train, self.val = model, train, val
        self.config = config
        self.sampler = TripletSampler(
            train,
            batch_size=config.batch_size,
            num_negatives=config.num_negatives,
            known_negatives=config.known_negatives,
            seed=config.seed,
        )
        self.device = train[INTERACTS].edge_index.device
        self.workers = Workers(self.device, worker_timeout)
        self.workers.broadcast_parameters(model)
        # Every worker takes a batch a step; the last step may begin anew.
        self.num_steps = -(-len(self.sampler) // self.workers.world_size)
        self.eval_epochs = config.evaluation_epochs(self.num_steps)
        self.patience = config.patience_evaluations(self.num_steps)
        self.first = self.workers.rank == 0
        if config.fan_out is not None and not model.supports_neighbor_sampling:
            raise ValueError(
                f"'fan_out' needs to be None for {type(model).__name__} (got "
                f"{config.fan_out}): it reads whole neighbourhoods; AlignRec, LightGCN and "
                "all models with 'supports_neighbor_sampling' can draw them"
            )
        ours = optimizer is None
        if optimizer is None:
            optimizer = partial(
                torch.optim.Adam if config.fan_out is None else RowAdam,
                lr=config.lr,
                weight_decay=config.weight_decay,
                fused=self.device.type in ("cpu", "cuda"),  # one pass over all parameters
            )
        elif config.weight_decay:
            raise ValueError(
                f"'weight_decay' needs to be 0 where 'optimizer' is given (got "
                f"{config.weight_decay}): let 'optimizer' have it, e.g. by functools.partial"
            )
        parameters = model.parameters()
        if isinstance(model, ClosedFormRecommender):  # one step, with nothing to optimise
            self.num_steps, parameters = 1, iter([nn.Parameter(torch.empty(0))])
        self.optimizer = optimizer(parameters)
        self._optimizer_name = type(self.optimizer).__name__
        alone = self.workers.world_size == 1
        if config.fan_out is not None and self.optimizer.defaults.get("momentum") and not alone:
            raise ValueError(
                "'optimizer' needs to be without momentum where several workers draw neighbours "
                f"(got {type(self.optimizer).__name__}): it moves rows that have no gradient, "
                "which workers do not send; leave out 'fan_out', or take torch.optim.Adagrad"
            )
        if not ours:  # of ours, the configuration says the rest
            self._optimizer_name += f" {self.optimizer.defaults}"
        # Scales nothing unless it is enabled.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.autocast == "float16")
        self.state = TrainState()
        self._identity: dict[str, Any] = {}
        self._fingerprints: dict[str, Tensor] = {}  # of what rounding may change
        self._begun = 0, time.monotonic()  # batches done before, and when it went on

    def begin(self, folder: Path | None) -> None:
        """Restores what the folder holds, and checks that all workers are about to do the same."""
        if folder is not None or self.workers.world_size > 1:
            self._identity = self._describe()
        if folder is not None:
            self._fingerprints = data_fingerprints(self.train, *self.model.read_names())
            restore(
                folder,
                self._saved_identity,
                self.state,
                self.model,
                self.optimizer,
                self._fingerprints,
            )
            if self.state.loss_scale:
                self.scaler.load_state_dict(self.state.loss_scale)
        if self.workers.world_size > 1:
            saved = None if folder is None else self.state
            check_workers(self.workers, self._identity, saved, self.val)
        if self.state.best_epoch > 0:
            self._complete_best_metrics()
            self.state.finished = self.state.step == 0 and self._is_over()
        self._begun = self.state.total_steps, time.monotonic()

    def train_epoch(self) -> Iterator[None]:
        """Trains from ``state.step`` to the end of the epoch; yields after each batch."""
        model, state, workers = self.model, self.state, self.workers
        if isinstance(model, ClosedFormRecommender):
            if state.step == 0:
                model.solve(self.train)
                state.step = state.total_steps = 1
                yield
            return
        model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(state.epoch + 1)
        model.on_epoch_start(self.train, self._generator(_EPOCH_HOOK))
        for step in range(state.step, self.num_steps):
            number = (step * workers.world_size + workers.rank) % len(self.sampler)
            batch = self.sampler.batch(state.epoch, number)
            if self.config.fan_out is not None:
                draws = self._generator(_NEIGHBORS, number)
                sampling = NeighborSampling(self.config.fan_out, draws)
                batch = replace(batch, sampling=sampling)
            model.on_batch_start(self._generator(_BATCH, number))
            # Before the forward pass, whose peak it lowers.
            self.optimizer.zero_grad(set_to_none=True)
            with self._precision():
                total, terms = model.loss(self.train, batch)
            names = ["loss", *(f"loss/{name}" for name in terms)]
            # One wait for the device.
            losses = workers.average(torch.stack([total, *terms.values()]).detach())
            values = dict(zip(names, losses, strict=True))
            self._check_loss(values, step)
            self.scaler.scale(total).backward()
            workers.average_gradients(model, scaled=self.scaler.is_enabled())
            if self.config.clip_grad_norm is not None:
                self.scaler.unscale_(self.optimizer)
                workers.clip_gradients(model, self.config.clip_grad_norm)
            self.scaler.step(self.optimizer)
            workers.share_rows()
            self.scaler.update()
            for name, value in values.items():
                state.loss_sums[name] = state.loss_sums.get(name, 0.0) + value
            state.step = step + 1
            state.total_steps += 1
            yield

    def end_epoch(self, reports: Sequence[Report]) -> None:
        """Evaluates where it is time to, notes the epoch, and decides whether it was the last."""
        config, state = self.config, self.state
        epoch = state.epoch + 1
        entry = {"epoch": float(epoch)}
        if not isinstance(self.model, ClosedFormRecommender):
            entry["lr"] = config.lr_at(epoch)
        entry |= {name: value / self.num_steps for name, value in state.loss_sums.items()}
        entry["step"] = float(state.total_steps)
        in_turn = epoch % self.eval_epochs == 0
        last = epoch >= config.max_epochs
        evaluated = self.val is not None and (in_turn or last)
        if self.val is not None and evaluated:
            metrics = evaluate_distributed(self.model, self.val, config.ks, self.workers)
            entry |= metrics
            best = state.best_metrics.get(config.monitor, -math.inf)
            if metrics[config.monitor] > best:
                state.best_epoch, state.best_metrics, state.num_stale = epoch, metrics, 0
                self._keep_weights()
            elif in_turn:
                state.num_stale += 1
        elif last:
            state.best_epoch = epoch
            self._keep_weights()
        state.history.append(entry)
        state.epoch, state.step, state.loss_sums = epoch, 0, {}
        state.finished = self._is_over()
        for report in reports if evaluated else ():
            best_metrics = {f"best_{name}": value for name, value in state.best_metrics.items()}
            report(epoch, {**entry, "best_epoch": float(state.best_epoch), **best_metrics})

    def _is_over(self) -> bool:
        """Whether the limit or the patience ends training after the epochs done."""
        state, config = self.state, self.config
        stale = state.num_stale > self.patience
        state.stopped_early = stale and state.total_steps >= config.min_steps
        return state.stopped_early or state.epoch >= config.max_epochs

    def _complete_best_metrics(self) -> None:
        """Evaluates the best epoch again where the saved run had other cut-offs."""
        state = self.state
        names = {f"recall@{k}" for k in self.config.ks}
        if self.val is None or names <= state.best_metrics.keys():
            return
        present = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(state.best_weights)
        state.best_metrics = evaluate_distributed(
            self.model, self.val, self.config.ks, self.workers
        )
        self.model.load_state_dict(present)

    def save(self, folder: Path) -> None:
        """Saves the state, but none that could not be continued.

        Raises:
            TrainingDivergedError: If a parameter is not finite.
        """
        for name, parameter in self.model.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise TrainingDivergedError(
                    f"{name} is not finite after {self.state.epoch} epochs and {self.state.step} "
                    f"batches {_DIVERGED}"
                )
        self.state.loss_scale = self.scaler.state_dict()
        save(
            folder,
            self._saved_identity,
            self.state,
            self.model,
            self.optimizer,
            self._fingerprints,
        )

    def show(self, bar: Progress) -> None:
        """Shows how far training has come."""
        config, state = self.config, self.state
        # Early stopping is the end that is known; it moves with every better epoch.
        epochs = config.max_epochs
        if self.val is not None:
            stale = state.best_epoch + (self.patience + 1) * self.eval_epochs
            epochs = min(epochs, max(stale, -(-config.min_steps // self.num_steps)))
        done = state.total_steps
        total = max(epochs * self.num_steps, done, 1)
        before, start = self._begun
        seconds = (time.monotonic() - start) / max(1, done - before) * (total - done)
        best = state.best_metrics.get(config.monitor)
        so_far = "" if best is None else f", best {config.monitor} {best:.4f}"
        bar.update(done / total, seconds, f"epoch {state.epoch + 1}{so_far}")

    def _generator(self, *stream: int) -> torch.Generator:
        return seeded_generator(self.config.seed, self.state.epoch, *stream, device=self.device)

    def _precision(self) -> AbstractContextManager[None]:
        """That of the forward pass; the surrounding one unless ``config.autocast`` says more."""
        if self.config.autocast is None:
            return nullcontext()
        dtype: torch.dtype = getattr(torch, self.config.autocast)
        return torch.autocast(self.device.type, dtype)

    def _keep_weights(self) -> None:
        if isinstance(self.model, ClosedFormRecommender):  # no later epoch changes them
            self.state.best_weights = self.model.state_dict()
            return
        for name, value in self.model.state_dict().items():
            if name in self.state.best_weights:
                self.state.best_weights[name].copy_(value)
            else:
                self.state.best_weights[name] = value.detach().clone()

    def _check_loss(self, values: dict[str, float], step: int) -> None:
        weights = self.model.loss_weights
        bad = [
            name
            for name, value in values.items()
            if not math.isfinite(value) and weights.get(name.removeprefix("loss/")) != 0
        ]
        if bad:
            raise TrainingDivergedError(
                f"the loss is not finite in epoch {self.state.epoch + 1}, batch {step + 1}: "
                f"{', '.join(bad)} {_DIVERGED}"
            )

    @property
    def _saved_identity(self) -> dict[str, Any]:
        """What has to be the same for a saved state to be continued."""
        config = {n: v for n, v in self._identity["config"].items() if n not in _SCHEDULE}
        graphs = content_hash(*self._tensors(rounded=False))
        return {**self._identity, "config": config, "graphs": graphs}

    def _describe(self) -> dict[str, Any]:
        """What has to be the same for all workers."""
        return {
            "format": _FORMAT,
            "workers": self.workers.world_size,
            "config": {
                **asdict(self.config),
                "ks": list(self.config.ks),
                "fan_out": self.config.fan_out and list(self.config.fan_out),
            },
            "optimizer": self._optimizer_name,
            **self.model.description(),
            "graphs": content_hash(*self._tensors(rounded=True)),
        }

    def _tensors(self, *, rounded: bool) -> list[Tensor]:
        """What training reads; without what is told by fingerprints unless ``rounded``."""
        features, item_graphs = map(set, self.model.read_names())
        unread = set(feature_names(self.train)) - features
        left_out = {feature_key(name) for name in unread} | {mask_key(name) for name in unread}
        graphs = set(item_graph_names(self.train)) - item_graphs
        if not rounded:
            left_out |= {feature_key(name) for name in features}
            graphs |= item_graphs
        kinds = {knn_edge_type(name) for name in graphs}
        tensors = [
            value
            for store in self.train.stores
            for name, value in sorted(store.items())
            if isinstance(value, Tensor) and name not in left_out and store._key not in kinds
        ]
        if self.val is not None:
            tensors += [self.val[INTERACTS].edge_index, links_to_predict(self.val)]
        return tensors


def _some_users(val: HeteroData, config: TrainConfig) -> HeteroData:
    """``val`` with the links to predict of ``config.eval_users`` users drawn by ``config.seed``."""
    label = links_to_predict(val, "val")
    users = label[0].unique()
    generator = seeded_generator(config.seed, 0, _EVAL_USERS)
    drawn = torch.randperm(users.numel(), generator=generator)[: config.eval_users]
    return with_links_to_predict(val, label[:, torch.isin(label[0], users[drawn.to(users.device)])])
