"""How a recommender is trained: learning rate, batches, early stopping.

It stands below the models, because a model class names the settings that it is trained with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from alignrec_pyg.checks import check_choice, check_cut_offs, check_integer, check_number

METRICS = ("recall", "ndcg", "hit", "precision", "map", "mrr")
"""Names of the metrics of :func:`~alignrec_pyg.evaluate`, without their cut-offs."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    r"""How to train.

    Args:
        lr: Learning rate of Adam in the first epoch.
        lr_decay: Factor :math:`\gamma` of the decay :math:`\gamma^{(e-1)/T}` in epoch
            :math:`e` (1 = none; 0.96 in AlignRec, MGCN and LATTICE).
        lr_decay_epochs: Epochs :math:`T` until the factor is reached.
        weight_decay: Weight decay of Adam.
        clip_grad_norm: Largest norm of the gradient of all parameters together; a longer one is
            scaled down to it (``None``: none is).
        autocast: Precision of the losses' forward pass by ``torch.autocast``, ``"bfloat16"`` or
            ``"float16"``, whose loss is scaled so that gradients do not vanish (``None``: that of
            the parameters). Validation is in the precision of the parameters.
        batch_size: Links per batch.
        num_negatives: Negatives drawn for each link. Its user and positive item are repeated for
            each, so a batch holds ``batch_size * num_negatives`` triples.
        known_negatives: What becomes of the known pairs of the graph, such as low ratings.
            ``None``: they are no negatives. Otherwise they may be drawn like any item, and this
            share of the negatives of users who have known pairs, in [0, 1], is drawn from these
            alone.
        fan_out: Neighbours that a step draws of each node, for each hop from the batch on,
            instead of reading whole neighbourhoods (-1 takes all of a hop; ``None``: exact steps).
            Drawn messages are weighted so that linear propagation is unbiased, and an epoch costs
            as much as its links, not its links times the graph. Adam then updates the rows that a
            step reads, see :class:`~alignrec_pyg.training.RowAdam`. It takes a model with
            ``supports_neighbor_sampling``, and an entry for each of its layers.
        max_epochs: Most epochs to run; one epoch is one pass over all links.
        patience: Training stops when more evaluations than this in a row bring no improvement.
        eval_every: Epochs between evaluations.
        eval_steps: Steps between evaluations, instead of ``eval_every``: as many whole epochs as
            have at least these (``None``: ``eval_every`` counts). A step is a batch; small data
            have few steps an epoch, so that steps say more about how far training has come.
        patience_steps: Training stops when no evaluation of more than these steps in a row brings
            an improvement, instead of ``patience`` (``None``: ``patience`` counts).
        min_steps: Patience does not stop training before these steps.
        eval_users: Users that validation takes, drawn once by ``seed``; ``num_users`` in the
            history says how many they are (``None``: all that have links to predict).
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
    clip_grad_norm: float | None = None
    autocast: Literal["bfloat16", "float16"] | None = None
    batch_size: int = 2048
    num_negatives: int = 1
    known_negatives: float | None = None
    fan_out: tuple[int, ...] | None = None
    max_epochs: int = 1000
    patience: int = 20
    eval_every: int = 1
    eval_steps: int | None = None
    patience_steps: int | None = None
    min_steps: int = 0
    eval_users: int | None = None
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
        if self.clip_grad_norm is not None:
            checked["clip_grad_norm"] = check_number("clip_grad_norm", self.clip_grad_norm, above=0)
        if self.known_negatives is not None:
            checked["known_negatives"] = check_number(
                "known_negatives", self.known_negatives, least=0, most=1
            )
        check_choice("autocast", self.autocast, ("bfloat16", "float16", None))
        counts = ["lr_decay_epochs", "batch_size", "num_negatives", "max_epochs", "eval_every"]
        optional = ("eval_users", "eval_steps")
        for name in [*counts, *(name for name in optional if getattr(self, name) is not None)]:
            checked[name] = check_integer(name, getattr(self, name), 1)
        if self.fan_out is not None:
            checked["fan_out"] = _check_fan_out(self.fan_out)
        least_0 = ["patience", "min_steps", "seed"]
        if self.patience_steps is not None:
            least_0.append("patience_steps")
        for name in least_0:
            checked[name] = check_integer(name, getattr(self, name), 0)
        for name, value in checked.items():  # plain numbers, also for NumPy's
            object.__setattr__(self, name, value)
        names = [f"{metric}@{k}" for metric in METRICS for k in self.ks]
        if self.monitor not in names:
            raise ValueError(f"'monitor' needs to be one of {names} (got {self.monitor!r})")

    def lr_at(self, epoch: int) -> float:
        """Learning rate in an epoch; the first one is 1."""
        return float(self.lr * self.lr_decay ** ((epoch - 1) / self.lr_decay_epochs))

    def evaluation_epochs(self, epoch_steps: int) -> int:
        """Epochs between evaluations, of a run whose epochs have ``epoch_steps`` steps."""
        return self.eval_every if self.eval_steps is None else -(-self.eval_steps // epoch_steps)

    def patience_evaluations(self, epoch_steps: int) -> int:
        """Evaluations in a row without an improvement that do not stop such a run yet."""
        if self.patience_steps is None:
            return self.patience
        return self.patience_steps // (self.evaluation_epochs(epoch_steps) * epoch_steps)


def _check_fan_out(value: Any) -> tuple[int, ...]:
    entries = tuple(value) if isinstance(value, list | tuple) else ()
    if not entries or any(type(entry) is not int or entry < -1 or not entry for entry in entries):
        raise ValueError(
            "'fan_out' needs to be a list of positive integers, one for each layer, or -1 "
            f"for all neighbours (got {value!r})"
        )
    return entries
