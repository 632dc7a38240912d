"""The checks of arguments and of optional packages.

A message names the argument, the rule and the value got, and ends with a way out where there is
one: ``'k' needs to be in [1, 99] (got 120): rank with a larger k``. What passes is returned as a
plain Python number, so that NumPy's numbers may be given and what is stored can go into JSON.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line imports this module and loads no torch for --help
    from torch import Tensor

_NEAR = 0.5  # share of letters that a name has in common with the one that is suggested

_BROKEN = "; torch and compiled packages beside it, such as torchvision, need builds that match"
_IN_WORDS = {
    "(-inf, inf)": "finite",
    "[0, inf)": "finite and 0 or more",
    "(0, inf)": "finite and positive",
}


def check_integer(
    argument: str, value: Any, least: int, most: int | None = None, *, hint: str = ""
) -> int:
    """Checks that an argument is an integer in a range; booleans are refused.

    Raises:
        ValueError: If it is not an integer, or out of range.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"'{argument}' needs to be an integer (got {value!r})")
    if value < least or (most is not None and value > most):
        rule = f"{least} or more" if most is None else f"in [{least}, {most}]"
        raise ValueError(f"'{argument}' needs to be {rule} (got {value}){hint}")
    return int(value)


def check_number(
    argument: str,
    value: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> float:
    """Checks that an argument is a finite number in an interval; booleans are refused.

    The bounds ``least`` and ``most`` are inclusive, ``above`` and ``below`` are exclusive.

    Raises:
        ValueError: If it is not a number, not finite or outside of the interval.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"'{argument}' needs to be a number (got {value!r})")
    inside = (
        math.isfinite(value)
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not inside:
        raise ValueError(
            f"'{argument}' needs to be {_interval(least, above, most, below)} (got {value})"
        )
    return float(value)


def check_choice(argument: str, value: object, choices: Collection[object]) -> None:
    """Checks that an argument is one of some values."""
    if value not in choices:
        raise ValueError(f"'{argument}' needs to be one of {choices} (got {value!r})")


def check_cut_offs(ks: Any) -> tuple[int, ...]:
    """Checks one cut-off of metrics or several, the argument ``ks``.

    Raises:
        ValueError: If there is none, or one is no positive integer.
    """
    listed = list(ks) if isinstance(ks, Iterable) else [ks]
    whole = all(isinstance(k, Integral) and not isinstance(k, bool) for k in listed)
    if not listed or not whole or min(listed) < 1:
        raise ValueError(f"'ks' needs to hold positive integers (got {ks!r})")
    return tuple(int(k) for k in listed)


def check_indices(argument: str, index: Any, count: int) -> Tensor:
    """Checks that an argument holds indices of ``count`` users or items.

    Raises:
        ValueError: If it is no 1-D tensor of integers in [0, ``count``).
    """
    import torch

    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if not isinstance(index, torch.Tensor) or index.dim() != 1 or index.dtype not in integers:
        raise ValueError(f"'{argument}' needs to be a 1-D tensor of integers (got {index!r})")
    outside = index[(index < 0) | (index >= count)]
    if outside.numel():
        raise ValueError(f"'{argument}' needs to be in [0, {count - 1}] (got {int(outside[0])})")
    return index


def require_package(
    module: str, needed_by: str, install: str, extra: str | None = None
) -> ModuleType:
    """Imports an optional package.

    The error message says what needs the package and how to install it, by the argument of ``pip
    install`` or the extra that installs it in a checkout of the repository.

    Raises:
        ImportError: If it is missing or fails while it is imported.

    Example:
        >>> from alignrec_pyg.checks import require_package
        >>> require_package("json", "this example", "json").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except Exception as error:  # a broken package raises anything
        checkout = f", or in a checkout `uv sync --extra {extra}`" if extra else ""
        broken = "" if isinstance(error, ModuleNotFoundError) else _BROKEN
        raise ImportError(
            f"{needed_by} needs '{module}', which cannot be imported ({error}): run "
            f"`pip install {install}`{checkout}{broken}"
        ) from error


def load_attribute(path: str) -> Any:
    """Loads the object that ``module:Name`` names; modules of the current folder are found, too.

    Raises:
        ValueError: If the path is of another form, or cannot be imported.
    """
    module, _, name = path.partition(":")
    if str(Path.cwd()) not in sys.path:  # an installed command does not look there by itself
        sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path!r} cannot be imported ({error}): it needs the form module:Class, and the "
            "module needs to be in the current folder or on PYTHONPATH"
        ) from error


def _interval(
    least: float | None, above: float | None, most: float | None, below: float | None
) -> str:
    """The rule in words."""
    opening = f"[{least:g}" if least is not None else f"({-math.inf if above is None else above:g}"
    closing = f"{most:g}]" if most is not None else f"{math.inf if below is None else below:g})"
    interval = f"{opening}, {closing}"
    return _IN_WORDS.get(interval, f"in {interval}")


def unknown_names(what: str, asked: Iterable[str], valid: Sequence[str]) -> list[str]:
    """A message for each name in ``asked`` that is not valid, with the nearest valid one."""
    return [
        f"{what} {name!r} is unknown: "
        + ("separate names by spaces" if "," in name else nearest(name, valid))
        for name in asked
        if name not in valid
    ]


def nearest(name: str, valid: Sequence[str]) -> str:
    """The valid name that may have been meant, and all that are valid."""
    folded = {other.lower(): other for other in valid}
    close = get_close_matches(name.lower(), folded, n=1, cutoff=_NEAR)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"{hint}(there are {', '.join(valid) or 'none'})"
