"""How stage 1 is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    r"""Optimisation of stage 1: AdamW, warm-up, cosine decay.

    Learning rate and batch size are the paper's. It states no more; the other defaults are habits
    of BEiT's authors.

    Args:
        epochs: Passes over the pairs.
        lr: Highest learning rate (paper: 5e-4).
        batch_size: Pairs per step, over all workers (paper: 1024).
        micro_batch_size: Pairs that a device works on at a time; gradients are accumulated, with
            the loss of the whole batch. Lower it if memory does not suffice.
        betas: AdamW's decay rates of both moments.
        eps: AdamW's :math:`\epsilon`.
        weight_decay: On matrices; vectors, positions and special tokens have none.
        warmup: Share of the steps over which the learning rate rises.
        clip_norm: Longest gradient; longer ones are shortened.
        precision: "auto" computes in bfloat16 on a GPU that has it and in float32 elsewhere;
            "float32" and "bfloat16" force one. Weights and losses are float32 in any case.
        log_every: Steps between entries of the history.
        max_failures: Share of the images that may be unreadable; another pair stands in for each.
        num_workers: Processes that load pairs; 0 loads in the training process.
        seed: Seed of the order of pairs.

    Raises:
        ValueError: If a value is out of range.
    """

    epochs: int = 10
    lr: float = 5e-4
    batch_size: int = 1024
    micro_batch_size: int = 32
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip_norm: float = 3.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    log_every: int = 50
    max_failures: float = 0.05
    num_workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch_size", "log_every"):
            self._check_integer(name, 1)
        for name in ("num_workers", "seed"):
            self._check_integer(name, 0)
        for name in ("lr", "eps", "clip_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"'{name}' needs to be finite and positive (got {value})")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(
                f"'weight_decay' needs to be finite and 0 or more (got {self.weight_decay})"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"'betas' needs to be two numbers in [0, 1) (got {self.betas})")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"'warmup' needs to be in [0, 1) (got {self.warmup})")
        if not 0 <= self.max_failures <= 1:
            raise ValueError(f"'max_failures' needs to be in [0, 1] (got {self.max_failures})")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"'precision' needs to be 'auto', 'float32' or 'bfloat16' (got {self.precision!r})"
            )

    def _check_integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"'{name}' needs to be an integer of at least {least} (got {value!r})")

    def lr_at(self, step: int, num_steps: int) -> float:
        r"""Learning rate of a step: up linearly to ``lr``, then down along half a cosine to 0."""
        rising = round(self.warmup * num_steps)
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr / 2 * (1 + math.cos(math.pi * (step - rising) / (num_steps - rising)))
