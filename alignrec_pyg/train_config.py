"""How a recommender is trained: learning rate, batches, early stopping.

Models import this module, because a model class names the settings that it is trained with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from alignrec_pyg.checks import check_choice, check_cut_offs, check_integer, check_number

_INTERVALS = ("eval_every", "eval_steps")
_PATIENCES = ("patience", "patience_steps", "min_steps")
_ONE_OF = (("eval_every", "eval_steps"), ("patience", "patience_steps"))
_BY_RULE = ("lr", "batch_size", *_INTERVALS, *_PATIENCES)
_COUNTS_FROM_1 = (
    *("lr_decay_epochs", "batch_size", "num_negatives", "max_epochs"),
    *("eval_every", "eval_steps", "eval_users"),
)
_COUNTS_FROM_0 = ("patience", "patience_steps", "min_steps", "seed")
_OPTIONAL_COUNTS = (*_BY_RULE, "eval_users")

# The rule of `TrainConfig.for_links`.
_EPOCH_STEPS = 32
_FEW_LINKS = 50_000
_HIGHEST_LR, _LOWEST_LR = 3e-3, 1e-3

METRICS = ("recall", "ndcg", "hit", "precision", "map", "mrr")
"""Names of the metrics of :func:`~alignrec_pyg.evaluate`, without their cut-offs."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    r"""How to train.

    Where the learning rate, the batch size, the interval between evaluations or the patience is
    ``None``, it follows from the model and the data: :func:`~alignrec_pyg.fit` takes that of the
    model's ``train_config(data)``, by default :meth:`for_links`.

    Args:
        lr: Learning rate of Adam in the first epoch (``None``: by model and data).
        lr_decay: Factor :math:`\gamma` of the decay :math:`\gamma^{(e-1)/T}` in epoch
            :math:`e` (1 = none; 0.96 in AlignRec, MGCN and LATTICE).
        lr_decay_epochs: Epochs :math:`T` until the factor is reached.
        weight_decay: Weight decay of Adam.
        clip_grad_norm: Largest norm of the gradient of all parameters together; a longer one is
            scaled down to it (``None``: none is).
        autocast: Precision of the losses' forward pass by ``torch.autocast``, ``"bfloat16"`` or
            ``"float16"``, whose loss is scaled so that gradients do not vanish (``None``: that of
            the parameters). Validation is in the precision of the parameters.
        batch_size: Links per batch (``None``: by model and data).
        num_negatives: Negatives drawn for each link. Its user and positive item are repeated for
            each, so a batch holds ``batch_size * num_negatives`` triples.
        known_negatives: How the known pairs of the graph, such as low ratings, are used. ``None``:
            they are never negatives. Otherwise they may be drawn like any item, and this share of
            the negatives of users who have known pairs, in [0, 1], is drawn from these alone.
        fan_out: Neighbours that a step samples of each node, for each hop from the batch on,
            instead of reading all of them (-1 takes all of a hop; ``None``: exact steps). Sampled
            messages are weighted so that linear propagation is unbiased, and the cost of an epoch
            grows with the number of links instead of its square. Adam then updates the rows that a
            step reads, see :class:`~alignrec_pyg.training.RowAdam`. It takes a model with
            ``supports_neighbor_sampling``, and an entry for each of its layers.
        max_epochs: Most epochs to run; one epoch is one pass over all links.
        patience: Training stops when more evaluations than this in a row bring no improvement
            (``None``: ``patience_steps`` counts).
        eval_every: Epochs between evaluations (``None``: ``eval_steps`` counts).
        eval_steps: Steps between evaluations, where ``eval_every`` is ``None``: as many epochs as
            have at least these. A step is a batch; small data have few steps an epoch, so that
            steps say more about how far training has come. Where both are ``None``, by model and
            data.
        patience_steps: Training stops when no evaluation of more than these steps in a row brings
            an improvement, where ``patience`` is ``None``. Where both are, by model and data.
        min_steps: Patience does not stop training before these steps (``None``: by model and data
            where ``patience`` is ``None`` too, otherwise 0).
        eval_users: Users that validation takes, drawn once by ``seed``; ``num_users`` in the
            history says how many they are (``None``: all that have links to predict).
        monitor: Validation metric that selects the best epoch; strictly greater wins.
        ks: Cut-offs of the validation metrics.
        seed: Seed of the order of links, the negatives and the models' draws.

    Raises:
        ValueError: If a value is out of range.
    """

    lr: float | None = None
    lr_decay: float = 1.0
    lr_decay_epochs: int = 50
    weight_decay: float = 0.0
    clip_grad_norm: float | None = None
    autocast: Literal["bfloat16", "float16"] | None = None
    batch_size: int | None = None
    num_negatives: int = 1
    known_negatives: float | None = None
    fan_out: tuple[int, ...] | None = None
    max_epochs: int = 1000
    patience: int | None = None
    eval_every: int | None = None
    eval_steps: int | None = None
    patience_steps: int | None = None
    min_steps: int | None = None
    eval_users: int | None = None
    monitor: str = "recall@20"
    ks: tuple[int, ...] = (10, 20)
    seed: int = 0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "lr_decay": check_number("lr_decay", self.lr_decay, above=0),
            "weight_decay": check_number("weight_decay", self.weight_decay, least=0),
            "ks": check_cut_offs(self.ks),
        }
        for name in ("lr", "clip_grad_norm"):
            if (value := getattr(self, name)) is not None:
                checked[name] = check_number(name, value, above=0)
        if self.known_negatives is not None:
            checked["known_negatives"] = check_number(
                "known_negatives", self.known_negatives, least=0, most=1
            )
        check_choice("autocast", self.autocast, ("bfloat16", "float16", None))
        counts = *((1, name) for name in _COUNTS_FROM_1), *((0, name) for name in _COUNTS_FROM_0)
        for least, name in counts:
            if (value := getattr(self, name)) is not None or name not in _OPTIONAL_COUNTS:
                checked[name] = check_integer(name, value, least)
        if self.fan_out is not None:
            checked["fan_out"] = _check_fan_out(self.fan_out)
        for epochs, steps in _ONE_OF:
            if getattr(self, epochs) is not None and getattr(self, steps) is not None:
                raise ValueError(
                    f"'{epochs}' and '{steps}' exclude each other (got {getattr(self, epochs)} and "
                    f"{getattr(self, steps)}): give one of them"
                )
        for name, value in checked.items():  # plain numbers, also for NumPy's
            object.__setattr__(self, name, value)
        names = [f"{metric}@{k}" for metric in METRICS for k in self.ks]
        if self.monitor not in names:
            raise ValueError(f"'monitor' needs to be one of {names} (got {self.monitor!r})")

    def with_changes(self, **changes: Any) -> TrainConfig:
        """The configuration with other values of some fields.

        A patience (interval) that is counted in evaluations (epochs) takes the place of one that is
        counted in steps, and the other way round.
        """
        if not changes.keys().isdisjoint(_INTERVALS):
            changes = dict.fromkeys(_INTERVALS) | changes
        if not changes.keys().isdisjoint(("patience", "patience_steps")):
            changes = dict.fromkeys(_PATIENCES) | changes
        return replace(self, **changes)

    def completed(self, defaults: TrainConfig, num_links: int) -> CompleteTrainConfig:
        """The configuration, with values for the fields that are ``None``.

        Args:
            defaults: The source of these values, usually a model's ``train_config(data)``.
            num_links: Number of training links, for :meth:`for_links`, which has the values that
                ``defaults`` lacks.
        """
        found = self._filled(defaults)
        found = found._filled(TrainConfig.for_links(num_links, found.lr, found.batch_size))
        values = {field.name: getattr(found, field.name) for field in fields(found)}
        return CompleteTrainConfig(**{**values, "min_steps": found.min_steps or 0})

    def _filled(self, other: TrainConfig) -> TrainConfig:
        given = {name: getattr(self, name) for name in _BY_RULE}
        both = other.with_changes(**{n: v for n, v in given.items() if v is not None})
        return replace(self, **{name: getattr(both, name) for name in _BY_RULE})

    @classmethod
    def for_links(
        cls, num_links: int, lr: float | None = None, batch_size: int | None = None
    ) -> TrainConfig:
        r"""The default way to train on this number of links.

        - ``batch_size``: the power of two from 256 to 2,048 that gives an epoch about 32 steps;
        - ``lr``: :math:`3 \cdot 10^{-3} \sqrt{50{,}000 / L}` for :math:`L` links, but at most
          :math:`3 \cdot 10^{-3}` and at least :math:`10^{-3}`;
        - ``eval_steps``: 50, so at least every epoch of 50 steps or more is evaluated;
        - ``patience_steps``: 2 / ``lr``, and five epochs at least; ``min_steps``: 3 / ``lr``. Adam
          moves a weight by about ``lr`` a step at most, so a smaller learning rate takes more steps
          for the same distance.

        ``benchmarks/README.md`` says on which data the rule was made, and how it performs on
        others.

        Args:
            num_links: Training links.
            lr: A given learning rate, which then determines the patience.
            batch_size: A given batch size, likewise.
        """
        exponent = round(math.log2(max(num_links, 1) / _EPOCH_STEPS))
        few = math.sqrt(_FEW_LINKS / max(num_links, 1))
        lr = lr or float(f"{min(_HIGHEST_LR, max(_LOWEST_LR, _HIGHEST_LR * few)):.2g}")
        batch_size = batch_size or min(2048, max(256, 2**exponent))
        return cls(
            lr=lr,
            batch_size=batch_size,
            eval_steps=50,
            patience_steps=max(round(2 / lr), 5 * -(-num_links // batch_size)),
            min_steps=round(3 / lr),
        )


@dataclass(frozen=True, kw_only=True)
class CompleteTrainConfig(TrainConfig):
    """A :class:`~alignrec_pyg.TrainConfig` that leaves nothing to model and data.

    Raises:
        ValueError: If a value is out of range, or the interval between evaluations or the patience
            is given neither in epochs (evaluations) nor in steps.

    Example:
        >>> from alignrec_pyg import TrainConfig
        >>> config = TrainConfig(lr=3e-4, lr_decay=0.96).completed(TrainConfig(), num_links=1000)
        >>> round(config.lr_at(51), 6)
        0.000288
    """

    lr: float
    batch_size: int
    min_steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for epochs, steps in _ONE_OF:
            if getattr(self, epochs) is None and getattr(self, steps) is None:
                raise ValueError(
                    f"'{epochs}' or '{steps}' needs a value (both are None): give one, or complete "
                    "a TrainConfig with TrainConfig.completed"
                )

    def lr_at(self, epoch: int) -> float:
        """Learning rate in an epoch; the first one is 1."""
        return float(self.lr * self.lr_decay ** ((epoch - 1) / self.lr_decay_epochs))

    def evaluation_epochs(self, epoch_steps: int) -> int:
        """Epochs between evaluations, of a run whose epochs have ``epoch_steps`` steps."""
        if self.eval_every is not None:
            return self.eval_every
        assert self.eval_steps is not None  # one of the two is given
        return -(-self.eval_steps // epoch_steps)

    def patience_evaluations(self, epoch_steps: int) -> int:
        """Evaluations in a row without an improvement that do not stop such a run yet."""
        if self.patience is not None:
            return self.patience
        assert self.patience_steps is not None
        return self.patience_steps // (self.evaluation_epochs(epoch_steps) * epoch_steps)


def _check_fan_out(value: Any) -> tuple[int, ...]:
    entries = tuple(value) if isinstance(value, list | tuple) else ()
    if not entries or any(type(entry) is not int or entry < -1 or not entry for entry in entries):
        raise ValueError(
            "'fan_out' needs to be a list of positive integers, one for each layer, or -1 "
            f"for all neighbours (got {value!r})"
        )
    return entries
