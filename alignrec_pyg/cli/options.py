"""Options of several commands and scripts, and the parsers of their values."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


class OptionError(typer.TyperException):
    """Options that do not fit; each of ``problems`` is printed as a line of its own."""

    exit_code = 2

    def __init__(self, option: str, problems: str) -> None:
        super().__init__("\n".join(f"{option}: {line}" for line in problems.splitlines()))


def positive_int(text: str) -> int:
    """A whole number of 1 or more."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number of 0 or more."""
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
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"needs to be a finite number (got {text!r})")
    return value


def weight(text: str) -> float:
    """A finite number of 0 or more."""
    value = number(text)
    if value < 0:
        raise typer.BadParameter(f"needs to be 0 or more (got {text!r})")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"needs to be from 0 to 1 (got {text!r})")
    return value


def share(text: str) -> float:
    """A number between 0 and 1."""
    value = number(text)
    if not 0 < value < 1:
        raise typer.BadParameter(f"needs to be between 0 and 1 (got {text!r})")
    return value


DATA = "Data"
FILES = "Files"
ENCODING = "Encoding"
SPLIT = "Split"
MODELS = "Models and settings"
TRAINING = "Training"
RUN = "Run"
OUTPUT = "Output"
EXPERIMENT = "This experiment"
# the groups of options in --help

SYNTHETIC = "synthetic"
"""What ``--data`` takes for data that is made here."""

SplitRule = Literal["random", "leave_last_out", "global_time", "labels"]


VAL_FROM_TRAIN = (
    "Share of the training links that becomes the validation part, for labels without one."
)


def option(panel: str, text: str, metavar: str | None = None, **more: Any) -> Any:
    """An option in a group of ``--help``; ``name`` in ``more`` if it is not the parameter's."""
    names = [more.pop("name")] if "name" in more else []
    return typer.Option(*names, help=text, metavar=metavar, rich_help_panel=panel, **more)


Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    option(RUN, "Where to compute; auto takes a GPU where there is one."),
]
Seeds = Annotated[int, option(RUN, "Run seeds 0 to N - 1.", "N", parser=positive_int)]


ServedFolder = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="What train wrote, or a model saved with its graph (save_pretrained)."
    ),
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="The data the model was trained on, if they moved.",
    ),
]
OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:CLASS",
        help="The class of a model saved with its graph, or of the backbone of an Aligned one, if "
        "it is one of your own.",
    ),
]
ItemsId = Annotated[
    str | None,
    option(
        FILES,
        "The item column of --items, if its name is neither that of the interactions nor a usual "
        "one.",
        "COLUMN",
    ),
]
ImageColumn = Annotated[
    str | None,
    option(DATA, "Image column of --items: paths, or bytes (parquet).", "COLUMN"),
]
ImageFiles = Annotated[
    Path | None,
    option(
        DATA,
        "Folder or zip file of images; without --image named by item id: 1.jpg, 7.png.",
        "PATH",
    ),
]


def device_named(name: str) -> str:
    """The device of ``--device``; a GPU that is asked for has to be there."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device cuda", "torch finds no GPU (--device cpu runs anywhere)")
    return name


@contextmanager
def errors_about(option: str) -> Iterator[None]:
    """Puts the option in front of messages that name arguments of Python."""
    try:
        yield
    except ValueError as error:
        raise OptionError(option, str(error)) from error


def log(line: str) -> None:
    """A line about the progress, on stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)
