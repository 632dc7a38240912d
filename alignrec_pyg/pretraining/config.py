"""Settings of the optimisation: of stage 1, and of fine-tuning CLIP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from alignrec_pyg.checks import check_choice, check_integer, check_number


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    r"""Optimisation of stage 1: AdamW, warm-up, cosine decay.

    Learning rate and batch size are the paper's. It states no more; the other defaults are those
    of BEiT's authors.

    Args:
        epochs: Passes over the pairs.
        lr: Highest learning rate (paper: 5e-4).
        batch_size: Pairs per step, over all workers (paper: 1024).
        micro_batch_size: Pairs in one forward and backward pass; gradients are accumulated over the
            batch. Lower it if memory does not suffice.
        betas: AdamW's decay rates of both moments.
        eps: AdamW's :math:`\epsilon`.
        weight_decay: On matrices; vectors, positions and special tokens have none.
        warmup: Share of the steps over which the learning rate rises.
        clip_norm: Largest norm of the gradient; larger ones are scaled down to it.
        precision: "auto" computes in bfloat16 on a GPU that supports it and in float32 elsewhere;
            "float32" and "bfloat16" force one. Weights and losses are float32 in any case.
        log_every: Steps between entries of the history.
        max_failures: Share of the images that may be unreadable; each is replaced by another pair.
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
            check_integer(name, getattr(self, name), 1)
        for name in ("num_workers", "seed"):
            check_integer(name, getattr(self, name), 0)
        for name in ("lr", "eps", "clip_norm"):
            check_number(name, getattr(self, name), above=0)
        check_number("weight_decay", self.weight_decay, least=0)
        _check_betas(self.betas)
        check_number("warmup", self.warmup, least=0, below=1)
        check_number("max_failures", self.max_failures, least=0, most=1)
        check_choice("precision", self.precision, ("auto", "float32", "bfloat16"))

    def lr_at(self, step: int, num_steps: int) -> float:
        r"""Learning rate of a step: up linearly to ``lr``, then down along half a cosine to 0."""
        return _cosine_schedule(self.lr, step, round(self.warmup * num_steps), num_steps)


@dataclass(frozen=True, kw_only=True)
class CLIPFinetuneConfig:
    """Settings of fine-tuning CLIP; the AlignRec paper does it, but does not give its settings.

    Args:
        lr: Highest learning rate of AdamW, after the warm-up.
        weight_decay: Weight decay of matrices; norms, biases and the temperature have none.
        betas: AdamW's coefficients (CLIP's).
        eps: AdamW's epsilon (CLIP's).
        batch_size: Most pairs per batch (more of them make the task harder); the batches of an
            epoch differ by one pair at most.
        epochs: Passes over the pairs.
        warmup: Share of the steps over which the learning rate rises; it then falls along half a
            cosine.
        val_share: Share of the pairs kept for validation; the weights of the epoch with the lowest
            validation loss are the result. With 0 those of the last epoch are.
        max_failures: Share of the images that may be unreadable.
        seed: Seed of the validation pairs and of the order.

    Raises:
        ValueError: If a value is out of range.
    """

    lr: float = 1e-5
    weight_decay: float = 0.2
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    batch_size: int = 256
    epochs: int = 10
    warmup: float = 0.1
    val_share: float = 0.05
    max_failures: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "eps"):
            check_number(name, getattr(self, name), least=0)
        _check_betas(self.betas)
        for name in ("warmup", "max_failures"):
            check_number(name, getattr(self, name), least=0, most=1)
        check_number("val_share", self.val_share, least=0, most=0.9)
        check_integer("batch_size", self.batch_size, 2)
        check_integer("epochs", self.epochs, 1)
        check_integer("seed", self.seed, 0)

    def lr_at(self, step: int, num_steps: int) -> float:
        """Learning rate of a step, counted from 0."""
        return _cosine_schedule(self.lr, step, math.ceil(self.warmup * num_steps), num_steps)


def _cosine_schedule(lr: float, step: int, warmup_steps: int, num_steps: int) -> float:
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    angle = math.pi * (step - warmup_steps) / (num_steps - warmup_steps)
    return lr * (1 + math.cos(angle)) / 2


def _check_betas(betas: tuple[float, float]) -> None:
    if len(betas) != 2:
        raise ValueError(f"'betas' needs to hold two numbers (got {betas})")
    for beta in betas:
        check_number("betas", beta, least=0, below=1)
