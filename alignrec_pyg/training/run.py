"""A run of training: its model, data, optimiser and progress, epoch by epoch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

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
from alignrec_pyg.models import ClosedFormRecommender, Recommender
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training.parallel import (
    Workers,
    check_workers,
    evaluate_distributed,
)
from alignrec_pyg.training.progress import Progress
from alignrec_pyg.training.row_adam import RowAdam
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from alignrec_pyg.training.state import TrainState, restore, save

# Streams of randomness within an epoch; the sampler's are 0 and 3.
_EPOCH_HOOK = 1
_BATCH = 2
_EVAL_USERS = 4  # of the first epoch
_NEIGHBORS = 5
# Part of a saved run's identity: raise it with each change that makes training give other values.
_FORMAT = 8
# Settings that may change when a saved run continues: the training itself is the same.
_SCHEDULE = (
    *("max_epochs", "patience", "eval_every", "ks"),
    *("eval_steps", "patience_steps", "min_steps"),
)
_DIVERGED = "(lower the learning rate, or look for extreme feature values)"

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Makes an optimiser from a model's parameters."""

Report = Callable[[int, dict[str, float]], None]
"""A function that is called with an epoch and its entry of the history."""


class TrainingDivergedError(FloatingPointError):
    """The loss is no longer finite."""


class Run:
    """A run of training: a model with its optimiser, data and progress.

    Epochs are reported from 1 on; ``state.epoch`` is the number of finished ones, and so the index
    of the present one, by which its randomness is seeded.
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
        # Every worker takes a batch a step; the last step may take batches from the beginning
        # again.
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
        if not ours:  # our own optimiser follows from the configuration
            self._optimizer_name += f" {self.optimizer.defaults}"
        # Scales nothing unless it is enabled.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.autocast == "float16")
        self.state = TrainState()
        self._identity: dict[str, Any] = {}
        self._fingerprints: dict[str, Tensor] = {}  # tables and graphs may be rounded
        self._begun = 0, time.monotonic()  # batches done before, and the time of the start

    def begin(self, folder: Path | None) -> None:
        """Restores the state in the folder, if any, and checks that all workers do the same."""
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
        """Evaluates if it is due, records the epoch, and decides whether it was the last."""
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
        """Evaluates the best epoch again if the saved run had other cut-offs."""
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
        """Saves the state, unless it could not be continued.

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
        """Shows the progress of training."""
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
        """The autocast of the forward pass; the surrounding one without ``config.autocast``."""
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
        bad = [
            name
            for name, value in values.items()
            if not math.isfinite(value)
            and self.model.loss_weights.get(name.removeprefix("loss/")) != 0
        ]
        if bad:
            raise TrainingDivergedError(
                f"the loss is not finite in epoch {self.state.epoch + 1}, batch {step + 1}: "
                f"{', '.join(bad)} {_DIVERGED}"
            )

    @property
    def _saved_identity(self) -> dict[str, Any]:
        """The settings and data that must be equal for a saved state to be continued."""
        config = {n: v for n, v in self._identity["config"].items() if n not in _SCHEDULE}
        graphs = content_hash(*self._tensors(rounded=False))
        return {**self._identity, "config": config, "graphs": graphs}

    def _describe(self) -> dict[str, Any]:
        """The settings and data that must be equal on all workers."""
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
        """The tensors that training reads; those with fingerprints only if ``rounded``."""
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
