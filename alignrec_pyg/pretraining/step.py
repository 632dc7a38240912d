"""One training step of stage 1, and its validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.pretraining.config import CLIPFinetuneConfig, PretrainConfig
from alignrec_pyg.pretraining.objective import Objective
from alignrec_pyg.pretraining.pairs import PairBatch, PairDataset, load
from alignrec_pyg.training.parallel import Workers
from alignrec_pyg.training.run import TrainingDivergedError
from alignrec_pyg.training.state import RunState


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to bfloat16, for "bfloat16" or, with "auto", on a GPU that supports it."""
    half = precision == "bfloat16"
    if precision == "auto":
        half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def adamw(
    module: nn.Module,
    is_decayed: Callable[[str, nn.Parameter], bool],
    config: PretrainConfig | CLIPFinetuneConfig,
    *,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """AdamW with weight decay on some parameters only, those of which ``is_decayed`` is true."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in module.named_parameters():
        groups[is_decayed(name, parameter)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": config.weight_decay if decayed else 0.0}
            for decayed, parameters in groups.items()
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=fused,
    )


@dataclass
class PretrainState(RunState):
    """Progress of pre-training, beside weights and optimiser; no best weights are kept."""

    sums: dict[str, float] = field(default_factory=dict)  # since the last entry of the history


class Trainer:
    """Takes training steps, and adds their losses to the state until :meth:`means` is called."""

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        config: PretrainConfig,
        workers: Workers,
        state: PretrainState,
    ) -> None:
        self._objective = objective
        self._wrapped = workers.wrap(objective)
        self._optimizer = optimizer
        self._config = config
        self._workers = workers
        self._state = state

    def step(self, parts: list[PairBatch], lr: float, stop: StopRequest) -> bool:
        """Takes a step on this worker's slices of a batch; true if any worker is to stop."""
        workers = self._workers
        counted = [self._objective.counts(part) for part in parts]
        terms = list(counted[0])
        totals = workers.all_reduce([sum(counts[term] for counts in counted) for term in terms])
        counts = {term: max(1.0, total) for term, total in zip(terms, totals, strict=True)}
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with nullcontext() if last else workers.no_sync(self._wrapped):
                with autocast(workers.device, self._config.precision):
                    found = self._wrapped(part.to(workers.device))
                # DistributedDataParallel averages the workers' gradients; we need their sum.
                loss = workers.world_size * torch.stack([found[t] / counts[t] for t in terms]).sum()
                loss.backward()
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double()
        norm = nn.utils.clip_grad_norm_(self._objective.parameters(), self._config.clip_norm)
        unreadable = sum(int(part.unreadable) for part in parts)
        *reduced, unreadable_anywhere, stopping = workers.all_reduce(
            [*torch.stack(list(sums.values())).tolist(), unreadable, stop.requested]
        )
        values = {"loss": 0.0, "grad_norm": float(norm)}
        for name, value in zip(sums, reduced, strict=True):
            term = name.removesuffix("_correct")
            values[term if name == term else f"{term}_accuracy"] = value / counts[term]
        values["loss"] = sum(values[term] for term in terms)
        self._check_finite(values)
        self._optimizer.step()
        for name, value in (values | {"unreadable": unreadable_anywhere, "steps": 1}).items():
            self._state.sums[name] = self._state.sums.get(name, 0.0) + value
        return stopping > 0

    def means(self) -> dict[str, float]:
        """Means over the steps since the last call, and the number of unreadable images."""
        sums, self._state.sums = self._state.sums, {}
        steps = sums.pop("steps")
        return {
            name: value if name == "unreadable" else value / steps for name, value in sums.items()
        }

    def _check_finite(self, values: dict[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrainingDivergedError(
                f"not finite in epoch {self._state.epoch + 1}, step {self._state.step + 1}: "
                f"{', '.join(bad)}; lower lr={self._config.lr}"
            )


@torch.no_grad()
def validate(
    objective: Objective, val: PairDataset, config: PretrainConfig, workers: Workers
) -> dict[str, float]:
    """Means over all held-out pairs, with uncropped images and the same masks every time.

    ``val_loss`` is the sum of the terms. Each term "x" gives ``val_x`` and ``val_x_accuracy``, and
    both of them

    - with each text beside the image of another pair, ``val_x_control``: if that is no worse, the
      model does not use the other modality;
    - without the other modality, ``val_x_alone``: how well a modality is predicted from itself.
      Part of that loss is due to training only with both modalities.

    The objective is left in training mode.
    """
    if len(val) < 2:
        raise ValueError(f"'val' needs two pairs or more, to exchange images (got {len(val)})")
    objective.eval()
    parts = [(None, part) for part in _parts(len(val), config.micro_batch_size)]
    mine = parts[workers.rank :: workers.world_size]
    weight = 1.0 if mine else 0.0  # a worker without a part still needs the terms' names
    sums: dict[str, float] = {}
    terms: list[str] = []
    for batch in load(val, mine or parts[:1], config, workers.device):
        exchanged = objective.control(batch)
        for suffix, sums_of, pairs in (
            ("", objective, batch),
            ("_control", objective, exchanged),
            ("_alone", objective.alone, batch),
        ):
            counts = objective.counts(pairs)
            terms = list(counts)
            with autocast(workers.device, config.precision):
                found = sums_of(pairs.to(workers.device))
            values = {f"{term}{suffix} count": float(count) for term, count in counts.items()}
            for name, value in found.items():
                term = name.removesuffix("_correct")
                values[f"{term}{suffix}" + ("_accuracy" if name != term else "")] = float(value)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + weight * value
    objective.train()
    names = sorted(sums)
    totals = dict(zip(names, workers.all_reduce([sums[name] for name in names]), strict=True))
    metrics = {
        f"val_{key}": totals[key] / max(1.0, totals[f"{key.removesuffix('_accuracy')} count"])
        for key in names
        if not key.endswith(" count")
    }
    return {"val_loss": sum(metrics[f"val_{term}"] for term in terms), **metrics}


def _parts(count: int, size: int) -> list[range]:
    """Ranges of ``size`` pairs, none of them of a single pair."""
    size = max(2, size)
    starts = [start for start in range(0, count, size) if count - start > 1 or start == 0]
    return [range(start, count if start == starts[-1] else start + size) for start in starts]
