"""Search spaces: the values of each setting, for every model."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from alignrec_pyg import models
from alignrec_pyg.experiments.settings import PAPER_GRIDS, ModelSettings

if TYPE_CHECKING:
    import optuna

Value = int | float
Point = dict[str, Value]
"""One configuration: values by name of a constructor's argument or field of training."""

ITEM_NEIGHBORS = "item_neighbors"
"""Neighbours of an item in the item graph: a setting of the data, not of a constructor."""

TRIAL = "trial"
"""Key of a trial's ``number``, ``point`` and ``seed`` in the configuration of Ray."""

DEFAULT = 0
"""Number of the configuration that has the default settings."""

Kind = Literal["wide", "paper"]

_DIGITS = 3
"""Digits of a drawn number, so that a configuration can be typed."""
_ATTEMPTS = 100
"""Draws for each distinct configuration that is wanted."""


@dataclass(frozen=True)
class Choice:
    """One of some values, which ascend."""

    values: tuple[Value, ...]

    def holding(self, value: Value) -> Choice:
        """The same with one more value."""
        return Choice(tuple(sorted({*self.values, value})))

    def draw(self, generator: random.Random) -> Value:
        """A value at random, all equally likely."""
        return generator.choice(self.values)

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """The value that Optuna proposes under ``name``."""
        value: Value = trial.suggest_categorical(name, self.values)
        return value

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """What Optuna calls it."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


@dataclass(frozen=True)
class Interval:
    """A number in an interval, drawn uniformly, with ``log`` on a logarithmic scale."""

    low: float
    high: float
    log: bool = field(default=True, kw_only=True)

    def holding(self, value: Value) -> Interval:
        """The interval, extended to contain ``value`` if needed."""
        return replace(self, low=min(self.low, value), high=max(self.high, value))

    def draw(self, generator: random.Random) -> Value:
        """A value at random."""
        if self.log:
            return _short(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
        return _short(generator.uniform(self.low, self.high))

    def suggest(self, trial: optuna.Trial, name: str) -> Value:
        """The value that Optuna proposes under ``name``, to a few digits unless it is given."""
        value: float = trial.suggest_float(name, self.low, self.high, log=self.log)
        return value if trial.number == DEFAULT else _short(value)

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """What Optuna calls it."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)


Axis = Choice | Interval
Space = Mapping[str, Axis]

_FACTOR = 30
_LR = Interval(1e-4, 3e-2)
_BATCH = Choice((128, 256, 512, 1024, 2048, 4096))
_STEPS: Space = {"lr": _LR, "batch_size": _BATCH}
_LAYERS = Choice((1, 2, 3, 4))
_ITEM_LAYERS = Choice((1, 2))
_TEMPERATURE = Interval(0.05, 1.0)
_ALIGNMENT = Interval(1e-4, 1.0)
_L2 = Interval(1e-6, 1e-2)
_NORMS = Interval(1e-5, 5.0)
_NEIGHBORS = Choice((5, 10, 20))
_ITEMS_NEAR = Choice((5, 10, 20, 50, 100, 200, 500, 1000))
_LAYERED: Space = {**_STEPS, "num_layers": _LAYERS}
_ITEM_LAYERED: Space = {**_LAYERED, "num_item_layers": _ITEM_LAYERS}

_ALIGNREC: Space = {
    **_STEPS,
    "cca_weight": _ALIGNMENT,
    "uia_weight": _ALIGNMENT,
    "reg_weight": _ALIGNMENT,
    "l2_weight": _L2,
    "temperature": _TEMPERATURE,
    "num_layers": _LAYERS,
    "num_item_layers": _ITEM_LAYERS,
    ITEM_NEIGHBORS: _NEIGHBORS,
}

WIDE: dict[type[models.Recommender], Space] = {
    models.AlignRec: _ALIGNREC,
    models.WeightedAlignRec: _ALIGNREC,
    models.BPR: {**_STEPS, "reg_weight": _NORMS},
    models.LightGCN: {**_LAYERED, "reg_weight": Interval(1e-6, 1e-2)},
    models.VBPR: {**_STEPS, "reg_weight": _NORMS},
    models.MMGCN: {**_LAYERED, "reg_weight": Interval(1e-5, 0.1)},
    models.GRCN: {
        **_LAYERED,
        "num_routings": Choice((1, 2, 3, 4)),
        "reg_weight": Interval(1e-5, 0.1),
    },
    models.DualGNN: {
        **_LAYERED,
        "num_neighbors": Choice((10, 20, 40, 80)),
        "reg_weight": Interval(1e-5, 1.0),
    },
    models.BM3: {
        **_LAYERED,
        "dropout": Interval(0.1, 0.7, log=False),
        "cl_weight": Interval(0.1, 10.0),
        "reg_weight": Interval(1e-3, 1.0),
    },
    models.MGCN: {
        **_ITEM_LAYERED,
        "cl_weight": _ALIGNMENT,
        "l2_weight": _L2,
        "temperature": _TEMPERATURE,
        ITEM_NEIGHBORS: _NEIGHBORS,
    },
    models.FREEDOM: {
        **_ITEM_LAYERED,
        "dropout": Interval(0.5, 0.95, log=False),
        "reg_weight": Interval(1e-5, 0.1),
        ITEM_NEIGHBORS: _NEIGHBORS,
    },
    models.LATTICE: {
        **_ITEM_LAYERED,
        "num_neighbors": _NEIGHBORS,
        "frozen_share": Interval(0.5, 1.0, log=False),
        "l2_weight": _L2,
        ITEM_NEIGHBORS: _NEIGHBORS,
    },
    models.SLMRec: {
        **_LAYERED,
        "temperature": _TEMPERATURE,
        "ssl_temperature": _TEMPERATURE,
        "ssl_weight": Interval(0.01, 1.0),
    },
    models.PGL: {
        **_ITEM_LAYERED,
        "link_share": Interval(0.1, 0.9, log=False),
        "dropout": Interval(0.01, 0.7),
        "cl_weight": _ALIGNMENT,
        "temperature": _TEMPERATURE,
        ITEM_NEIGHBORS: _NEIGHBORS,
    },
    models.SMORE: {
        **_ITEM_LAYERED,
        "num_layers": Choice((1, 2, 3, 4, 5)),
        "dropout": Choice((0.0, 0.1, 0.2, 0.3)),
        "cl_weight": _ALIGNMENT,
        "l2_weight": _L2,
        "temperature": _TEMPERATURE,
        ITEM_NEIGHBORS: _NEIGHBORS,
    },
    models.LGMRec: {
        **_LAYERED,
        "num_content_layers": Choice((0, 1, 2, 3, 4)),
        "num_hyper_layers": Choice((1, 2, 3, 4, 5)),
        "num_hyperedges": Choice((2, 4, 8, 16, 32, 64, 128)),
        "dropout": Interval(0.1, 0.9, log=False),
        "global_scale": Interval(0.05, 2.0),
        "hcl_weight": Interval(1e-6, 1e-2),
        "reg_weight": Interval(1e-8, 1e-3),
        "temperature": _TEMPERATURE,
    },
    models.MENTOR: {
        **_STEPS,
        "lr": Interval(3e-5, 3e-2),
        "dropout": Interval(0.1, 0.9, log=False),
        "reg_weight": Interval(1e-5, 0.1),
        "align_weight": _ALIGNMENT,
        "mask_weight": Interval(1e-2, 10.0),
        "graph_weight": Interval(1e-5, 0.1),
        "temperature": _TEMPERATURE,
        ITEM_NEIGHBORS: _NEIGHBORS,
    },
    models.ContentLightGCN: {**_LAYERED, "reg_weight": Interval(1e-6, 1e-2)},
    models.Popularity: {},
    models.ItemKNN: {"num_neighbors": _ITEMS_NEAR, "shrinkage": Interval(0.1, 1000.0)},
    models.ContentKNN: {"num_neighbors": _ITEMS_NEAR},
    models.EASE: {"reg_weight": Interval(1.0, 1e4)},
    models.ALS: {
        "alpha": Interval(0.1, 100.0),
        "reg_weight": Interval(0.1, 1000.0),
        "num_iterations": Choice((5, 10, 20)),
    },
}
"""Ranges around the published settings: learning rate, batch size, weights, temperatures, depth."""


def search_space(settings: ModelSettings, kind: Kind) -> Space | None:
    """The space of a model.

    The papers' spaces are their own grids (AlignRec: the six points of its Table 7), of models that
    have one. The wide space of a model that :data:`WIDE` does not list is: learning rate and batch
    size, but for models in closed form; every positive float hyper-parameter whose name ends in
    ``_weight``, within a factor of 30 either way on a logarithmic scale; one to four layers, if
    there is an integer ``num_layers``; and the neighbours in the item graph, if the model reads
    one. ``None`` means no published grid.
    """
    if kind == "paper":
        if settings.model not in PAPER_GRIDS:
            return None
        grid = PAPER_GRIDS[settings.model]
        return {name: Choice(tuple(sorted(values))) for name, values in grid.items()}
    if settings.model in WIDE:
        return WIDE[settings.model]
    closed_form = issubclass(settings.model, models.ClosedFormRecommender)
    space: dict[str, Axis] = {} if closed_form else dict(_STEPS)
    for name, value in settings.hparams.items():
        if name.endswith("_weight") and isinstance(value, float) and value > 0:
            space[name] = Interval(value / _FACTOR, value * _FACTOR)
    if type(settings.hparams.get("num_layers")) is int:
        space["num_layers"] = _LAYERS
    if settings.model.inputs.item_graph != "none":
        space[ITEM_NEIGHBORS] = _NEIGHBORS
    return space


def grid_points(space: Space) -> list[Point]:
    """Every combination of the values.

    Raises:
        ValueError: If a setting has an interval, which has no list of values.
    """
    intervals = [name for name, axis in space.items() if isinstance(axis, Interval)]
    if intervals:
        raise ValueError(f"a grid needs lists of values, and {', '.join(intervals)} have intervals")
    lists = [axis.values for axis in space.values() if isinstance(axis, Choice)]
    return [dict(zip(space, values, strict=True)) for values in product(*lists)]


def random_points(space: Space, number: int, seed: int) -> list[Point]:
    """Distinct configurations drawn at random, fewer than ``number`` if there are no more.

    The first ones do not depend on ``number``.
    """
    generator = random.Random(seed)
    drawn: list[Point] = []
    for _ in range(_ATTEMPTS * number):
        point = {name: axis.draw(generator) for name, axis in space.items()}
        if point not in drawn:
            drawn.append(point)
        if len(drawn) == number:
            break
    return drawn


def default_point(space: Space, settings: ModelSettings, item_neighbors: int) -> Point:
    """The configuration of the default settings."""
    known = {**vars(settings.config), **settings.hparams, ITEM_NEIGHBORS: item_neighbors}
    return {name: known[name] for name in space}


def holding(space: Space, point: Point) -> Space:
    """The space, extended to contain a configuration if needed."""
    return {name: axis.holding(point[name]) for name, axis in space.items()}


def with_point(settings: ModelSettings, point: Point) -> ModelSettings:
    """The settings with a configuration's values, but for the item graph's."""
    changes = {name: value for name, value in point.items() if name != ITEM_NEIGHBORS}
    return settings.with_changes(**changes)


def unfolded(point: Point) -> Point:
    """A configuration under the names by which Ray's ``OptunaSearch`` unfolds it."""
    return {f"{TRIAL}/point/{name}": value for name, value in point.items()}


def suggested(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """The configuration that Optuna proposes, in the form that Ray's ``OptunaSearch`` unfolds."""
    named = unfolded({name: 0 for name in space})
    axes = zip(named, space.values(), strict=True)
    point = {name: axis.suggest(trial, name) for name, axis in axes}
    return {**point, f"{TRIAL}/number": trial.number, f"{TRIAL}/seed": 0}


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
