"""Arguments of models, by name and text."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from alignrec_pyg.checks import nearest
from alignrec_pyg.cli.options import OptionError

_FROM_DATA = {
    "features": "chosen with --features",
    "item_graph": "built from the features",
    "item_graphs": "built from the features",
}
_KINDS = {float: "a number", int: "an integer", bool: "True or False"}


def model_settings(model: type, entries: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of ``model`` from entries ``NAME=VALUE``, checked against its constructor.

    Args:
        model: A model's class.
        entries: What ``--set`` was given.

    Raises:
        OptionError: If entries do not fit; it lists all of them.
    """
    parameters = list(inspect.signature(model, eval_str=True).parameters.values())[1:]
    kinds = {p.name: p.annotation for p in parameters if p.name not in _FROM_DATA}
    arguments: dict[str, Any] = {}
    problems: list[str] = []
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not (equals and name and text):
            problems.append(f"{entry}: needs the form NAME=VALUE")
        elif name in _FROM_DATA:
            problems.append(f"{entry}: {name!r} is {_FROM_DATA[name]}")
        elif name not in kinds:
            problems.append(f"{entry}: argument {name!r} is unknown: {nearest(name, list(kinds))}")
        elif name in arguments:
            problems.append(f"{entry}: {name!r} is given twice")
        else:
            arguments[name], problem = fitted(text, kinds[name])
            problems += [] if problem is None else [f"{entry}: {problem}"]
    if problems:
        raise OptionError("--set", "\n".join(problems))
    return arguments


def fitted(text: str, kind: Any) -> tuple[Any, str | None]:
    """The value that ``text`` is as ``kind``, and what is wrong with it, if anything.

    Args:
        text: As Python writes it; strings also without quotes.
        kind: ``int``, ``float``, ``bool`` or a ``Literal``.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return value, None if value in choices else f"needs to be one of {choices} (got {value!r})"
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is kind:
        return value, None
    return value, f"needs to be {_KINDS[kind]} (got {value!r})"
