"""How CLIP is fine-tuned."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CLIPFinetuneConfig:
    """How to fine-tune; the AlignRec paper says that it fine-tunes CLIP, not how.

    Args:
        lr: Largest learning rate of AdamW, after the warm-up.
        weight_decay: Weight decay of matrices; norms, biases and the temperature have none.
        betas: AdamW's coefficients (CLIP's).
        eps: AdamW's epsilon (CLIP's).
        batch_size: Pairs per batch, the more the better; an epoch's batches are of equal size, give
            or take one, and no larger.
        epochs: Passes over the pairs.
        warmup: Share of all steps in which the rate rises, before it falls as a half cosine.
        val_share: Share of the pairs kept for validation; the weights of the epoch with the lowest
            loss on them are the result. 0 keeps none, and the last weights are.
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
        for name, value, least, most in (
            ("lr", self.lr, 0.0, math.inf),
            ("weight_decay", self.weight_decay, 0.0, math.inf),
            ("eps", self.eps, 0.0, math.inf),
            ("beta 0", self.betas[0], 0.0, 1.0),
            ("beta 1", self.betas[1], 0.0, 1.0),
            ("warmup", self.warmup, 0.0, 1.0),
            ("val_share", self.val_share, 0.0, 0.9),
            ("max_failures", self.max_failures, 0.0, 1.0),
        ):
            if not (math.isfinite(value) and least <= value <= most):
                raise ValueError(f"'{name}' needs to be in [{least:g}, {most:g}] (got {value!r})")
        for name, number, least in (
            ("batch_size", self.batch_size, 2),
            ("epochs", self.epochs, 1),
            ("seed", self.seed, 0),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(
                    f"'{name}' needs to be an integer of at least {least} (got {number!r})"
                )

    def lr_at(self, step: int, num_steps: int) -> float:
        """Learning rate of a step, from 0."""
        warm = math.ceil(self.warmup * num_steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * (1 + math.cos(math.pi * (step - warm) / (num_steps - warm))) / 2
