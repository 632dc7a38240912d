"""From presets and the command line to the settings of a run, with all mistakes told at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_type_hints

from alignrec_pyg.cli.options import nearest, unknown_names
from alignrec_pyg.cli.settings import fitted
from alignrec_pyg.experiments.presets import TRAIN_ARGUMENTS, Preset
from alignrec_pyg.training.loop import TrainConfig

_FROM_DATA = {
    "features": "chosen with --features",
    "item_graph": "built from the features or from --neighbors",
    "seed": "counted by --seeds",
}


class SettingsError(ValueError):
    """One or more mistakes in what was asked for, each a line of its own.

    Args:
        problems: The mistakes.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


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
            :data:`~alignrec_pyg.experiments.presets.TRAIN_ARGUMENTS`; win over ``train``.
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
        return f"model {model!r} is unknown: {nearest(model, list(presets))}"
    if model not in changes:
        return f"{model} is not among the models to run: {', '.join(changes) or 'none'}"
    if argument in _FROM_DATA:
        return f"{argument!r} is {_FROM_DATA[argument]}"
    types = _argument_types(presets[model])
    if argument not in types:
        return f"argument {argument!r} is unknown: {nearest(argument, list(types))}"
    value, problem = fitted(text, types[argument])
    if problem is None:
        changes[model][argument] = value
    return problem


def _argument_types(preset: Preset) -> dict[str, Any]:
    hints = get_type_hints(type(preset))
    train = get_type_hints(TrainConfig)
    return {name: hints[name] for name in preset.hparams()} | {
        name: train[name] for name in TRAIN_ARGUMENTS
    }


def _changed(preset: Preset, changes: Mapping[str, Any]) -> Preset:
    train = {name: value for name, value in changes.items() if name in TRAIN_ARGUMENTS}
    model = {name: value for name, value in changes.items() if name not in TRAIN_ARGUMENTS}
    changed = preset.with_train(**train) if train else preset
    return replace(changed, **model)
