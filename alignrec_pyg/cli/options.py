"""Options that several commands and scripts have, and what their words mean."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from alignrec_pyg.models import model_names

if TYPE_CHECKING:
    pass


class OptionError(typer.TyperException):
    """Options that do not fit.

    Args:
        option: The option, with its value where that helps.
        problems: What is wrong with it, and the way out; each line is told for itself.
    """

    exit_code = 2

    def __init__(self, option: str, problems: str) -> None:
        super().__init__("\n".join(f"{option}: {line}" for line in problems.splitlines()))


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


def weight(text: str) -> float:
    """A finite number of 0 or more.

    Raises:
        BadParameter: If it is none.
    """
    value = number(text)
    if value < 0:
        raise typer.BadParameter(f"needs to be 0 or more (got {text!r})")
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


DATA = "Data"
MODELS = "Models and settings"
TRAINING = "Training"
RUN = "Run"
OUTPUT = "Output"
EXPERIMENT = "This experiment"
# the groups of options in --help

SplitRule = Literal["random", "leave_last_out", "global_time", "labels"]

Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(
        help="Where to compute; auto takes a GPU where there is one.", rich_help_panel=RUN
    ),
]

Seeds = Annotated[
    int,
    typer.Option(
        parser=positive_int, metavar="N", help="Run seeds 0 to N - 1.", rich_help_panel=RUN
    ),
]


def _column(role: str) -> typer.models.OptionInfo:
    return typer.Option(metavar="COLUMN", help=f"The {role} column, if its name is no usual one.")


User = Annotated[str | None, _column("user")]
Item = Annotated[str | None, _column("item")]
Rating = Annotated[str | None, _column("rating")]
Time = Annotated[str | None, _column("time")]
Items = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A table of items, with the same item column."),
]
Text = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN ...", help="Text columns of --items, joined in this order."),
]


def named_columns(**given: str | None) -> dict[str, str]:
    """The columns that were named, by role."""
    return {role: column for role, column in given.items() if column is not None}


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


def log(line: str) -> None:
    """A line about the progress, on stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """What every experiment can be told; a subclass adds options of its own.

    The fields are options of the command line: :func:`~alignrec_pyg.cli.entry_points.script`.
    """

    default_models: ClassVar[tuple[str, ...]] = ()
    """Models to run where none is named (default: those of the paper's Table 2)."""

    path: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="The same as --data.", show_default=False),
    ] = None
    data: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="Folder in MMRec format, or 'synthetic'.", rich_help_panel=DATA
        ),
    ] = "synthetic"
    split: Annotated[
        SplitRule | None,
        typer.Option(
            help="Rule of the split.",
            show_default="the file's labels, else random",
            rich_help_panel=DATA,
        ),
    ] = None
    features: Annotated[
        tuple[str, ...],
        typer.Option(
            metavar="NAME ...",
            help="Feature tables to use.",
            show_default="all",
            rich_help_panel=DATA,
        ),
    ] = ()
    tables: Annotated[
        tuple[str, ...],
        typer.Option(
            metavar="NAME=FILE.npy ...",
            help="Further feature tables; row r belongs to item r.",
            rich_help_panel=DATA,
        ),
    ] = ()
    feature_scale: Annotated[
        Literal["rows", "raw"],
        typer.Option(help="Feature rows at length 1, or as they are stored.", rich_help_panel=DATA),
    ] = "rows"
    item_neighbors: Annotated[
        int,
        typer.Option(
            parser=positive_int,
            metavar="K",
            help="Neighbours of an item in graphs made of feature tables.",
            rich_help_panel=DATA,
        ),
    ] = 10
    neighbors: Annotated[
        tuple[str, ...],
        typer.Option(
            metavar="NAME=FILE.npz ...",
            help="Ready item graphs: arrays 'neighbor' [items, k] and 'cosine' (FREEDOM needs "
            "none).",
            rich_help_panel=DATA,
        ),
    ] = ()
    models: Annotated[
        tuple[str, ...],
        typer.Option(
            metavar="NAME ...",
            help=f"Of {', '.join(model_names())}, 'all' of them, or MODULE:CLASS for a model of "
            "your own.",
            show_default="those of the paper's table",
            rich_help_panel=MODELS,
        ),
    ] = ()
    settings: Annotated[
        Literal["default", "published"] | None,
        typer.Option(
            help="Settings to start from: the library's, or those of the papers.",
            show_default="published; of synthetic data some that train in seconds",
            rich_help_panel=MODELS,
        ),
    ] = None
    overrides: Annotated[
        tuple[str, ...],
        typer.Option(
            "--set",
            metavar="MODEL.argument=value ...",
            help="Other settings, e.g. LightGCN.num_layers=2 AlignRec.lr=1e-3.",
            rich_help_panel=MODELS,
        ),
    ] = ()
    epochs: Annotated[
        int | None,
        typer.Option(
            parser=positive_int, metavar="N", help="Most epochs.", rich_help_panel=TRAINING
        ),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(
            parser=natural,
            metavar="N",
            help="Evaluations without improvement to bear.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    lr: Annotated[
        float | None,
        typer.Option(
            parser=number,
            metavar="X",
            help="Learning rate of all models.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(
            parser=positive_int,
            metavar="N",
            help="Interactions per batch.",
            rich_help_panel=TRAINING,
        ),
    ] = None
    seeds: Seeds = 3
    device: Device = "auto"
    jobs: Annotated[
        int | None,
        typer.Option(
            parser=positive_int,
            metavar="N",
            help="Models to train at a time, each in a process of its own.",
            show_default="the processors; 1 on a GPU",
            rich_help_panel=RUN,
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            parser=positive_int,
            metavar="N",
            help="CPU threads of each model.",
            show_default="1 where several train at a time or the data is synthetic",
            rich_help_panel=RUN,
        ),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where to write.",
            show_default="results/<data name>",
            rich_help_panel=OUTPUT,
        ),
    ] = None

    def __post_init__(self) -> None:
        """Takes the path for the data.

        Raises:
            OptionError: If both are given.
        """
        if self.path is not None:
            if self.data != "synthetic":
                raise OptionError("--data", f"is given by PATH already ({self.path})")
            object.__setattr__(self, "data", self.path)
