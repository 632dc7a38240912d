"""Settings of models: how each is built and trained, from its class and from the command line.

What a model class states itself is not repeated here: its constructor has the defaults, and
``train_config``, ``published_train_config`` and ``published_hparams`` say how it is trained.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch_geometric.data import HeteroData

from alignrec_pyg import models
from alignrec_pyg.checks import load_attribute, nearest, unknown_names
from alignrec_pyg.models import (
    ALS,
    BM3,
    BPR,
    EASE,
    FREEDOM,
    GRCN,
    LATTICE,
    MENTOR,
    MGCN,
    MMGCN,
    PGL,
    SMORE,
    VBPR,
    AlignRec,
    ContentKNN,
    ContentLightGCN,
    DualGNN,
    ItemKNN,
    LGMRec,
    LightGCN,
    Popularity,
    Recommender,
    SLMRec,
    WeightedAlignRec,
)
from alignrec_pyg.train_config import CompleteTrainConfig, TrainConfig

Kind = Literal["default", "published"]
"""Settings of the library, or of the papers."""

Grid = Mapping[str, tuple[Any, ...]]
"""Values by argument of the model's constructor or field of its training."""

TRAIN_ARGUMENTS = (
    "lr",
    "lr_decay",
    "lr_decay_epochs",
    "weight_decay",
    "clip_grad_norm",
    "autocast",
    "batch_size",
    "num_negatives",
    "known_negatives",
    "fan_out",
    "max_epochs",
    "patience",
    "patience_steps",
    "min_steps",
    "eval_every",
    "eval_steps",
)
"""Fields of :class:`TrainConfig` that are settings of a model; the others are the same for all."""

FROM_DATA = {
    "features": "chosen with --features",
    "item_graph": "built from the features or from --neighbors",
    "item_graphs": "built from the features or from --neighbors",
    "seed": "counted by --seeds",
}
"""Arguments that are no settings, and what they follow from."""

TABLE_2: tuple[type[Recommender], ...] = (
    AlignRec,
    BPR,
    LightGCN,
    VBPR,
    MMGCN,
    GRCN,
    DualGNN,
    BM3,
    MGCN,
    FREEDOM,
)
"""The models of the paper's main table; experiments run these unless others are named."""

BASELINES: tuple[type[Recommender], ...] = (Popularity, ItemKNN, EASE)
"""Models in closed form that others should beat; a comparison runs them beside the paper's."""

_KINDS = {float: "a number", int: "an integer", bool: "True or False"}
_NORMS = (2.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
_DECADES = (0.1, 1e-2, 1e-3, 1e-4, 1e-5)

PAPER_GRIDS: dict[type[Recommender], Grid] = {
    AlignRec: {"lr": (3e-4, 1e-4), "reg_weight": (0.1, 0.2, 0.3)},
    BPR: {"reg_weight": _NORMS},
    LightGCN: {"num_layers": (1, 2, 3, 4), "reg_weight": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)},
    VBPR: {"reg_weight": _NORMS},
    MMGCN: {"lr": (1e-4, 5e-4, 1e-3, 5e-3, 1e-2)},
    GRCN: {"lr": (1.0, 0.1, 1e-2, 1e-3, 1e-4), "reg_weight": _DECADES},
    DualGNN: {"lr": _DECADES, "reg_weight": _DECADES},
    BM3: {"num_layers": (1, 2), "reg_weight": (0.1, 0.01), "dropout": (0.3, 0.5)},
    MGCN: {"cl_weight": (1e-3, 1e-2, 1e-1)},
    FREEDOM: {"dropout": (0.8, 0.9), "reg_weight": (0.0, 1e-5, 1e-4, 1e-3)},
    LATTICE: {"lr": (1e-4, 5e-4, 1e-3, 5e-3), "l2_weight": (0.0, 1e-5, 1e-4, 1e-3)},
    SLMRec: {
        "lr": (1e-4, 1e-3, 1e-2, 0.1),
        "ssl_temperature": (0.1, 0.2, 0.5, 1.0),
        "ssl_weight": (0.01, 0.05, 0.1, 0.5, 1.0),
    },
    SMORE: {"num_layers": (3, 4), "dropout": (0.0, 0.1), "l2_weight": (1e-5, 1e-4)},
    MENTOR: {"graph_weight": (1e-4, 1e-3), "temperature": (0.2, 0.4, 0.6)},
}
"""The grids behind the published figures (AlignRec: the paper's Table 7; the others: those of the
multimodal toolbox that most figures come from). They were searched on test links there; here they
serve validation. That of PGL is not published, that of LGMRec has millions of points;
ContentLightGCN is our own and has none, nor have the models in closed form.
"""

SEARCH_GRIDS: dict[type[Recommender], Grid] = {
    AlignRec: {"lr": (1e-3, 3e-3), "reg_weight": (0.1, 0.3)},
    WeightedAlignRec: {"lr": (1e-3, 3e-3), "reg_weight": (0.1, 0.3)},
    BPR: {"lr": (1e-3, 3e-3), "reg_weight": (0.1, 0.01)},
    LightGCN: {"lr": (1e-3, 3e-3), "num_layers": (2, 3)},
    VBPR: {"lr": (1e-3, 3e-3), "reg_weight": (0.1, 0.01)},
    MMGCN: {"lr": (1e-3, 3e-3), "reg_weight": (0.1, 0.01)},
    GRCN: {"lr": (1e-3, 3e-3), "reg_weight": (1e-2, 1e-4)},
    DualGNN: {"lr": (1e-3, 3e-3), "reg_weight": (1e-2, 1e-4)},
    BM3: {"lr": (1e-3, 3e-3), "dropout": (0.3, 0.5)},
    MGCN: {"lr": (1e-3, 3e-3), "cl_weight": (0.01, 0.1)},
    FREEDOM: {"lr": (1e-3, 3e-3), "dropout": (0.8, 0.9)},
    LATTICE: {"lr": (1e-3, 3e-3), "l2_weight": (0.0, 1e-4)},
    SLMRec: {"lr": (1e-3, 3e-3), "ssl_weight": (0.01, 0.1)},
    PGL: {"lr": (1e-3, 3e-3), "cl_weight": (0.05, 0.5)},
    SMORE: {"lr": (1e-3, 3e-3), "cl_weight": (0.01, 0.03)},
    LGMRec: {"lr": (1e-3, 3e-3), "num_hyperedges": (4, 64)},
    MENTOR: {"lr": (1e-3, 3e-3), "align_weight": (0.1, 0.3)},
    ContentLightGCN: {"lr": (1e-3, 3e-3), "num_layers": (2, 3)},
    Popularity: {},
    ItemKNN: {"num_neighbors": (20, 100), "shrinkage": (0.0, 10.0)},
    ContentKNN: {"num_neighbors": (5, 20, 100, 500)},
    EASE: {"reg_weight": (10.0, 30.0, 100.0, 300.0)},
    ALS: {"alpha": (1.0, 10.0), "reg_weight": (1.0, 10.0)},
}
"""Four points for every model: two learning rates and two values of what its paper searched, or
four settings of a model in closed form (Popularity has none).
"""


class SettingsError(ValueError):
    """One or more mistakes in what was asked for, each a line of its own."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@contextmanager
def errors_about(option: str) -> Iterator[None]:
    """Puts the option in front of messages that name arguments of Python.

    Raises:
        SettingsError: Instead of a ``ValueError`` of the block.
    """
    try:
        yield
    except ValueError as error:
        raise SettingsError([f"{option}: {error}"]) from error


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How a model is built and trained.

    Args:
        model: The model's class.
        hparams: Every argument of its constructor that does not follow from the data.
        config: How to train; an experiment replaces its seed.
    """

    model: type[Recommender]
    hparams: Mapping[str, Any]
    config: TrainConfig

    @property
    def name(self) -> str:
        """Name of the model's class."""
        return self.model.__name__

    def with_changes(self, **values: Any) -> ModelSettings:
        """The settings with other values of hyper-parameters or of fields of ``config``.

        :meth:`alignrec_pyg.TrainConfig.with_changes` says what a patience or an interval takes the
        place of.

        Raises:
            ValueError: If one is no setting of the model, or a value is out of range.
        """
        train = {name: value for name, value in values.items() if name not in self.hparams}
        unknown = [name for name in train if name not in TrainConfig.__dataclass_fields__]
        if unknown:
            raise ValueError(f"{self.name} has no setting {', '.join(unknown)}")
        given = {name: value for name, value in values.items() if name in self.hparams}
        return replace(
            self,
            hparams={**self.hparams, **given},
            config=self.config.with_changes(**train) if train else self.config,
        )

    def complete_config(self, data: HeteroData) -> CompleteTrainConfig:
        """How to train on ``data``; what is not given is the model's default for ``data``."""
        return self.model.complete_config(data, self.config)

    def completed(self, data: HeteroData) -> ModelSettings:
        """The settings with their :meth:`complete_config`."""
        return replace(self, config=self.complete_config(data))

    def differences(self, other: ModelSettings) -> list[str]:
        """What differs from ``other``, as ``"lr 0.01 (0.001)"``."""
        ours = {**self.hparams, **asdict(self.config)}
        theirs = {**other.hparams, **asdict(other.config)}
        return [
            f"{name} {ours[name]} ({theirs[name]})" for name in ours if ours[name] != theirs[name]
        ]

    def points(self, grid: Grid) -> list[ModelSettings]:
        """The settings with every combination of the grid's values.

        Raises:
            ValueError: If the grid names what is no setting of the model.
        """
        return [
            self.with_changes(**dict(zip(grid, values, strict=True)))
            for values in product(*grid.values())
        ]


def package_models() -> dict[str, type[Recommender]]:
    """The package's models that are built from data and keyword arguments, by name."""
    return {name: getattr(models, name) for name in models.model_names()}


def models_of_links() -> list[str]:
    """Names of the package's models that need interactions alone."""
    return [
        name
        for name, model in package_models().items()
        if model.inputs.tables in ("none", "optional") and model.inputs.item_graph == "none"
    ]


def load_model(name: str) -> type[Recommender]:
    """The class of a model.

    Args:
        name: Name of a model of the package, or ``"module:Class"`` for one of your own, whose
            module is found as Python finds it from the current folder.

    Raises:
        ValueError: If there is no such model; the message says what there is.
    """
    if ":" not in name:
        known = package_models()
        if name not in known:
            raise ValueError(f"model {name!r} is unknown: {nearest(name, list(known))}")
        return known[name]
    try:
        model = load_attribute(name)
    except ValueError as error:
        raise ValueError(f"model {error}") from error
    if not (isinstance(model, type) and issubclass(model, Recommender) and _is_buildable(model)):
        raise ValueError(
            f"model {name!r} needs to be a subclass of alignrec_pyg.models.Recommender without "
            "abstract methods, built from data and keyword arguments with defaults"
        )
    return model


def model_path(model: type[Recommender]) -> str:
    """The name by which :func:`load_model` finds a class."""
    if package_models().get(model.__name__) is model:
        return model.__name__
    return f"{model.__module__}:{model.__name__}"


def default_settings(model: type[Recommender], data: HeteroData) -> ModelSettings:
    """The library's own settings for ``data``."""
    hparams = {**_defaults(model), **model.default_hparams(data)}
    return ModelSettings(model=model, hparams=hparams, config=model.train_config(data))


def published_settings(model: type[Recommender], data_name: str) -> ModelSettings:
    """The settings of the published figures.

    On the papers' data sets known defects of published code are included (``faithful=True``;
    ``--set MMGCN.faithful=False`` is what its paper intends). AlignRec's choice of learning rate
    and similarity weight from its grid is unknown, as is that of the other models but BM3.
    """
    hparams = {**_defaults(model), **model.published_hparams(data_name)}
    return ModelSettings(model=model, hparams=hparams, config=model.published_train_config())


def resolve(
    names: Sequence[str],
    kind: Kind,
    data_name: str,
    overrides: Sequence[str] = (),
    *,
    data: HeteroData | None = None,
    **train: Any,
) -> dict[str, ModelSettings]:
    """The settings of some models; all mistakes are reported together.

    Args:
        names: Names of models, as :func:`load_model` takes them.
        kind: Which settings to start from.
        data_name: Name of the data set, for published settings.
        overrides: ``"MODEL.argument=value"`` (of a single model also ``"argument=value"``), for an
            argument of the constructor or one of
            :data:`TRAIN_ARGUMENTS`; they win over ``train``.
        data: Training graph, for default settings; without it mistakes are found all the same.
        **train: Fields of :class:`TrainConfig` for all models; ``None`` leaves the model's.

    Returns:
        Settings by name of the class, in the order asked for.

    Raises:
        SettingsError: If names or values do not fit.
    """
    problems: list[str] = []
    given = {name: value for name, value in train.items() if value is not None}
    base: dict[str, ModelSettings] = {}
    for name in names:
        try:
            model = load_model(name)
        except ValueError as error:
            problems.append(str(error))
            continue
        if kind == "default" and data is not None:
            base[model.__name__] = default_settings(model, data)
        else:
            base[model.__name__] = published_settings(model, data_name)
    changes: dict[str, dict[str, Any]] = {name: {} for name in base}
    for override in overrides:
        problem = _read_override(override, base, changes)
        if problem is not None:
            problems.append(f"--set {override}: {problem}")
    resolved = {}
    for name, settings in base.items():
        try:
            # One after the other: an own patience in steps takes the place of one in evaluations.
            resolved[name] = settings.with_changes(**given).with_changes(**changes[name])
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    return resolved


def setting_types(settings: ModelSettings) -> dict[str, Any]:
    """The types of a model's settings: of its hyper-parameters and of :data:`TRAIN_ARGUMENTS`."""
    parameters = settings.model.hparam_parameters()
    train = get_type_hints(TrainConfig)
    return {name: parameters[name].annotation for name in settings.hparams} | {
        name: train[name] for name in TRAIN_ARGUMENTS
    }


def parse_value(text: str, kind: Any) -> tuple[Any, str | None]:
    """The value that ``text`` is as ``kind``, and what is wrong with it, if anything.

    Strings may lack their quotes.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if get_origin(kind) in (Union, UnionType):  # a kind or None
        if value is None:
            return None, None
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return value, None if value in choices else f"needs to be one of {choices} (got {value!r})"
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind not in _KINDS or type(value) is kind:
        return value, None
    return value, f"needs to be {_KINDS[kind]} (got {value!r})"


def _read_override(
    override: str, base: Mapping[str, ModelSettings], changes: dict[str, dict[str, Any]]
) -> str | None:
    """Notes the change; the problem where there is one."""
    target, equals, text = override.partition("=")
    model, _, argument = target.rpartition(".")
    model = model.rpartition(":")[2]  # of "module:Class" the class
    if not model and len(base) == 1:
        (model,) = base
    if not (equals and model and argument and text):
        return "needs the form MODEL.argument=value"
    if model not in base:
        if model in package_models():
            return f"{model} is not among the models to run: {', '.join(base) or 'none'}"
        return f"model {model!r} is unknown: {nearest(model, list(base))}"
    if argument in FROM_DATA:
        return f"{argument!r} is {FROM_DATA[argument]}"
    types = setting_types(base[model])
    problems = unknown_names("argument", [argument], list(types))
    if problems:
        return problems[0]
    value, problem = parse_value(text, types[argument])
    if problem is None:
        changes[model][argument] = value
    return problem


def _defaults(model: type[Recommender]) -> dict[str, Any]:
    """Defaults of the constructor's arguments that do not follow from the data."""
    return {
        name: parameter.default
        for name, parameter in model.hparam_parameters().items()
        if name not in FROM_DATA
    }


def _is_buildable(model: type[Recommender]) -> bool:
    """Whether data and keyword arguments with defaults build the class."""
    return not inspect.isabstract(model) and all(
        parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
        for parameter in model.hparam_parameters().values()
    )
