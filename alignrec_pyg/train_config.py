"""How a recommender is trained: learning rate, batches, early stopping.

It stands below the models, because a model class names the settings that it is trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignrec_pyg.checks import check_cut_offs, check_integer, check_number


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    r"""How to train.

    Args:
        lr: Learning rate of Adam in the first epoch.
        lr_decay: Factor :math:`\gamma` of the decay :math:`\gamma^{(e-1)/T}` in epoch
            :math:`e` (1 = none; 0.96 in AlignRec, MGCN and LATTICE).
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

    Example:
        >>> from alignrec_pyg import TrainConfig
        >>> config = TrainConfig(lr=3e-4, lr_decay=0.96)
        >>> round(config.lr_at(51), 6)
        0.000288
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
        checked: dict[str, Any] = {
            "lr": check_number("lr", self.lr, above=0),
            "lr_decay": check_number("lr_decay", self.lr_decay, above=0),
            "weight_decay": check_number("weight_decay", self.weight_decay, least=0),
            "ks": check_cut_offs(self.ks),
        }
        for name in ("lr_decay_epochs", "batch_size", "max_epochs", "eval_every"):
            checked[name] = check_integer(name, getattr(self, name), 1)
        for name in ("patience", "seed"):
            checked[name] = check_integer(name, getattr(self, name), 0)
        for name, value in checked.items():  # plain numbers, also for NumPy's
            object.__setattr__(self, name, value)
        names = [f"{m}@{k}" for m in ("recall", "ndcg", "precision", "map", "mrr") for k in self.ks]
        if self.monitor not in names:
            raise ValueError(f"'monitor' needs to be one of {names} (got {self.monitor!r})")

    def lr_at(self, epoch: int) -> float:
        """Learning rate in an epoch; the first one is 1."""
        return float(self.lr * self.lr_decay ** ((epoch - 1) / self.lr_decay_epochs))
