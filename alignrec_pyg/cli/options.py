"""What the options of several commands have in common."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

_NEAR = 0.5  # share of letters that a name has in common with the one that is suggested


class OptionError(typer.TyperException):
    """Options that do not fit.

    Args:
        option: The option, with its value where that helps.
        problems: What is wrong with it, and the way out; each line is told for itself.
    """

    exit_code = 2

    def __init__(self, option: str, problems: str) -> None:
        super().__init__("\n".join(f"{option}: {line}" for line in problems.splitlines()))


class SeveralValues(TyperCommand):
    """A command whose options of several values take them in one go: ``--k 10 20``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the option for each of its values, which typer would have the user do."""
        several = {
            name for option in self.params if getattr(option, "multiple", False)
            for name in option.opts
        }  # fmt: skip
        return super().parse_args(ctx, list(_repeated(args, several)))


def _repeated(args: Iterable[str], several: set[str]) -> Iterator[str]:
    option, num_values = None, 0
    for argument in args:
        if argument.startswith("--"):
            _check_values(option, num_values)
            option, num_values = (argument if argument in several else None), 0
            if option is None:
                yield argument
        elif option is None:
            yield argument
        else:
            num_values += 1
            yield from (option, argument)
    _check_values(option, num_values)


def _check_values(option: str | None, num_values: int) -> None:
    if option is not None and num_values == 0:
        raise OptionError(option, "needs at least one value (got none)")


def positive_int(text: str) -> int:
    """A whole number of 1 or more.

    Raises:
        BadParameter: If it is none.
    """
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of 0 or more.

    Raises:
        BadParameter: If it is none.
    """
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise typer.BadParameter(f"needs to be a whole number of {least} or more (got {text!r})")
    return value


def number(text: str) -> float:
    """A finite number.

    Raises:
        BadParameter: If it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"needs to be a finite number (got {text!r})")
    return value


def share(text: str) -> float:
    """A number from 0 to 1.

    Raises:
        BadParameter: If it is none.
    """
    value = number(text)
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"needs to be from 0 to 1 (got {text!r})")
    return value


Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="Where to compute; auto takes a GPU where there is one."),
]


def device_named(name: str) -> str:
    """The device of ``--device``.

    Raises:
        OptionError: If a GPU is asked for and there is none.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda", "torch finds no GPU (--device cpu runs anywhere)")
    return name


@contextmanager
def errors_about(option: str) -> Iterator[None]:
    """Puts the command line's word in front of messages that name arguments of Python.

    Raises:
        OptionError: Instead of a ``ValueError`` of the block.
    """
    try:
        yield
    except ValueError as error:
        raise OptionError(option, str(error)) from error


def unknown_names(what: str, asked: Iterable[str], valid: Sequence[str]) -> list[str]:
    """One problem for each asked name that is not valid, with a valid one that is near."""
    return [
        f"{what} {name!r} is unknown: "
        + ("separate names by spaces" if "," in name else nearest(name, valid))
        for name in asked
        if name not in valid
    ]


def nearest(name: str, valid: Sequence[str]) -> str:
    """What may have been meant, and what there is."""
    folded = {other.lower(): other for other in valid}
    close = get_close_matches(name.lower(), folded, n=1, cutoff=_NEAR)
    hint = f"did you mean {folded[close[0]]!r}? " if close else ""
    return f"{hint}(there are {', '.join(valid) or 'none'})"


def log(line: str) -> None:
    """A line about the progress, on stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)
