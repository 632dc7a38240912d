"""From presets and the command line to the settings of a run, with all mistakes told at once."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from alignrec_pyg.train import TrainConfig
from benchmarks.presets import TRAIN_ARGUMENTS, Preset

_FROM_DATA = {
    "features": "chosen with --features",
    "item_graph": "built from the features or from --neighbors",
    "seed": "counted by --seeds",
}

_NEAR = 0.5  # share of letters that a name has in common with the one that is suggested


class SettingsError(ValueError):
    """One or more mistakes in what was asked for, each a line of its own.

    Args:
        problems: The mistakes.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


def unknown_names(what: str, asked: Iterable[str], valid: Sequence[str]) -> list[str]:
    """One problem for each asked name that is not valid, with a valid one that is near."""
    return [
        f"{what} {name!r} is unknown: "
        + ("separate names by spaces" if "," in name else _nearest(name, valid))
        for name in asked
        if name not in valid
    ]


def resolve(
    models: Sequence[str],
    presets: Mapping[str, Preset],
    overrides: Sequence[str] = (),
    **train: Any,
) -> dict[str, Preset]:
    """The settings of ``models``.

    Args:
        models: Names of models.
        presets: Settings to start from, by model name.
        overrides: ``"MODEL.argument=value"``, for a constructor argument or one of
            :data:`~benchmarks.presets.TRAIN_ARGUMENTS`; win over ``train``.
        **train: Fields of :class:`TrainConfig` for all models; ``None`` leaves the preset's.

    Raises:
        SettingsError: If names or values do not fit; it lists all of them.
    """
    problems = unknown_names("model", models, list(presets))
    known = [name for name in models if name in presets]
    given = {name: value for name, value in train.items() if value is not None}
    changes: dict[str, dict[str, Any]] = {name: dict(given) for name in known}
    for override in overrides:
        problem = _read_override(override, presets, changes)
        if problem is not None:
            problems.append(f"--set {override}: {problem}")
    resolved = {}
    for name in known:
        try:
            resolved[name] = _changed(presets[name], changes[name])
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    return resolved


def _read_override(
    override: str, presets: Mapping[str, Preset], changes: dict[str, dict[str, Any]]
) -> str | None:
    """Notes the change; the problem where there is one."""
    target, equals, text = override.partition("=")
    model, dot, argument = target.partition(".")
    if not (equals and dot and model and argument and text):
        return "needs the form MODEL.argument=value"
    if model not in presets:
        return f"model {model!r} is unknown: {_nearest(model, list(presets))}"
    if model not in changes:
        return f"{model} is not among the models to run: {', '.join(changes) or 'none'}"
    if argument in _FROM_DATA:
        return f"{argument!r} is {_FROM_DATA[argument]}"
    types = _argument_types(presets[model])
    if argument not in types:
        return f"argument {argument!r} is unknown: {_nearest(argument, list(types))}"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    value, problem = _fitted(value, types[argument])
    if problem is None:
        changes[model][argument] = value
    return problem


def _argument_types(preset: Preset) -> dict[str, Any]:
    hints = get_type_hints(type(preset))
    train = get_type_hints(TrainConfig)
    return {name: hints[name] for name in preset.hparams()} | {
        name: train[name] for name in TRAIN_ARGUMENTS
    }


def _fitted(value: Any, kind: Any) -> tuple[Any, str | None]:
    """The value as ``kind``, or what is wrong with it."""
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return value, None if value in choices else f"needs to be one of {choices} (got {value!r})"
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is kind:
        return value, None
    names = {float: "a number", int: "an integer", bool: "True or False"}
    return value, f"needs to be {names[kind]} (got {value!r})"


def _changed(preset: Preset, changes: Mapping[str, Any]) -> Preset:
    train = {name: value for name, value in changes.items() if name in TRAIN_ARGUMENTS}
    model = {name: value for name, value in changes.items() if name not in TRAIN_ARGUMENTS}
    changed = preset.with_train(**train) if train else preset
    return replace(changed, **model)


def _nearest(name: str, valid: Sequence[str]) -> str:
    folded = {other.lower(): other for other in valid}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=_NEAR)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"{hint}(there are {', '.join(valid) or 'none'})"
