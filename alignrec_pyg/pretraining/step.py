"""One step of stage 1: gradients of a whole batch, part by part."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.objective import Objective
from alignrec_pyg.pretraining.pairs import PairBatch
from alignrec_pyg.pretraining.precision import autocast
from alignrec_pyg.pretraining.state import PretrainState
from alignrec_pyg.training.loop import StopRequest, TrainingDivergedError
from alignrec_pyg.training.parallel import Workers


class Trainer:
    """Takes steps, and adds up in the state what they give until it is asked for.

    Args:
        objective: What is minimised.
        optimizer: Holds its parameters.
        config: Length of gradients and precision.
        workers: The processes that share every batch.
        state: Where training stands.
    """

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
        """One step on this worker's parts of a batch; whether any worker was asked to stop."""
        workers = self._workers
        counted = [self._objective.counts(part) for part in parts]
        terms = list(counted[0])
        totals = workers.sums([sum(counts[term] for counts in counted) for term in terms])
        counts = {term: max(1.0, total) for term, total in zip(terms, totals, strict=True)}
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            with nullcontext() if last else workers.accumulating(self._wrapped):
                with autocast(workers.device, self._config.precision):
                    found = self._wrapped(part.to(workers.device))
                # The workers' gradients are averaged, and they are to be added up.
                loss = workers.size * torch.stack([found[t] / counts[t] for t in terms]).sum()
                loss.backward()
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double()
        norm = nn.utils.clip_grad_norm_(self._objective.parameters(), self._config.clip_norm)
        unreadable = sum(int(part.unreadable) for part in parts)
        *reduced, unreadable_anywhere, stopping = workers.sums(
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
        """Means over the steps since the last call; of unreadable images the number."""
        sums, self._state.sums = self._state.sums, {}
        steps = sums.pop("steps")
        return {
            name: value if name == "unreadable" else value / steps for name, value in sums.items()
        }

    def _check_finite(self, values: dict[str, float]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TrainingDivergedError(
                f"not finite in epoch {self._state.epoch}, step {self._state.step}: "
                f"{', '.join(bad)} (lower the learning rate, or lengthen the warm-up)"
            )
