"""``alignrec tune``: the settings of a model, searched with Ray Tune."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions, problems_of_folder
from alignrec_pyg.cli.options import (
    EXPERIMENT,
    MODELS,
    OUTPUT,
    RUN,
    OptionError,
    option,
    positive_int,
    weight,
)

if TYPE_CHECKING:
    from alignrec_pyg.experiments.session import Session
    from alignrec_pyg.tuning.spaces import Point

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float:
    """A time such as ``30m``, in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or float(match[1]) == 0:
        raise typer.BadParameter(f"needs a form like 90s, 30m, 2h or 1d (got {text!r})")
    return float(match[1]) * _SECONDS[match[2]]


def resource(text: str) -> float:
    """A number of processors or GPUs: a part of one, or whole ones."""
    value = weight(text)
    if value > 1 and value % 1:
        raise typer.BadParameter(f"needs to be up to 1 or a whole number (got {text!r})")
    return value


@dataclass(frozen=True, kw_only=True)
class TuneOptions(ExperimentOptions):
    """The options of a sweep."""

    models: Annotated[
        tuple[str, ...],
        option(MODELS, "The model, or MODULE:CLASS for your own.", "NAME", name="--model"),
    ] = ("AlignRec",)
    jobs: Annotated[
        int | None,
        option(
            RUN,
            "Trials at a time.",
            "N",
            name="--max-concurrent",
            parser=positive_int,
            show_default="as many as the machines hold",
        ),
    ] = None
    cpus_per_trial: Annotated[
        float | None,
        option(RUN, "Processors.", "F", parser=resource, show_default="as many as --threads"),
    ] = None
    gpus_per_trial: Annotated[
        float | None,
        option(
            RUN, "Part of a GPU.", "F", parser=resource, show_default="0.25 on a machine with a GPU"
        ),
    ] = None
    address: Annotated[
        str | None,
        option(RUN, "Of a Ray cluster, e.g. 'auto'.", "A", show_default="Ray on this machine"),
    ] = None
    search: Annotated[
        Literal["optuna", "random", "grid"],
        option(EXPERIMENT, "How configurations are proposed; optuna is its TPE."),
    ] = "optuna"
    space: Annotated[
        Literal["wide", "paper"] | None,
        option(EXPERIMENT, "Ranges, or the paper's lists.", show_default="wide; of a grid paper"),
    ] = None
    axes: Annotated[
        tuple[str, ...],
        option(EXPERIMENT, "Settings to search.", "NAME ...", show_default="all of the space"),
    ] = ()
    num_samples: Annotated[
        int | None,
        option(
            EXPERIMENT,
            "Configurations to try, the default settings among them.",
            "N",
            parser=positive_int,
            show_default="20",
        ),
    ] = None
    scheduler: Annotated[
        Literal["asha", "none"], option(EXPERIMENT, "What stops unpromising trials.")
    ] = "asha"
    finalists: Annotated[
        int,
        option(
            EXPERIMENT,
            "Best configurations of seed 0, which run with all --seeds as the default one does.",
            "N",
            parser=positive_int,
        ),
    ] = 2
    time_budget: Annotated[
        float | None,
        option(
            EXPERIMENT,
            "Of the search, e.g. 30m or 2h, from every start; finalists and test come after it.",
            "TIME",
            parser=duration,
        ),
    ] = None
    resume: Annotated[bool, option(EXPERIMENT, "Continue the sweep in --out.", name="--resume")] = (
        False
    )
    out: Annotated[
        Path | None,
        option(OUTPUT, "Where to write.", "DIR", show_default="results/<data name>/tuning/<model>"),
    ] = None

    def __post_init__(self) -> None:
        """Takes the path for the data."""
        super().__post_init__()
        if len(self.models) != 1 or self.models == ("all",):
            raise OptionError("--model", f"needs to be one model (got {' '.join(self.models)})")

    def results_folder(self, problems: list[str]) -> Path:
        """The folder to write to, made and tried unless there are problems already."""
        out = self.sweep_folder()
        problems += problems_of_folder(out, made=not problems)
        return out

    def sweep_folder(self) -> Path:
        """The folder to write to; absolute, as workers may run elsewhere."""
        from alignrec_pyg.experiments.reading import data_name

        name = self.models[0].rpartition(":")[2]
        return (self.out or Path("results") / data_name(self.data) / "tuning" / name).resolve()

    def with_those_stored(self, given: set[str]) -> TuneOptions:
        """With ``--resume``, the options that the sweep was started with, except for new ones."""
        from alignrec_pyg.storage import read_manifest
        from alignrec_pyg.tuning.search import DEFINITION

        if not self.resume:
            return self
        file = self.sweep_folder() / DEFINITION
        if not file.exists():
            raise OptionError("--resume", f"{file.parent} holds no sweep ({DEFINITION} is missing)")
        started = read_manifest(file, {"options": dict})["options"]
        stored = {n: tuple(v) if isinstance(v, list) else v for n, v in started.items()}
        names = {"data" if name == "path" else name for name in given}
        return TuneOptions(**{**stored, **{name: getattr(self, name) for name in names}})


def tune(options: TuneOptions) -> int:
    """Search the settings of a model, and score the best ones on the test links.

        alignrec tune
        alignrec tune path/to/folder --model FREEDOM --num-samples 30 --time-budget 2h

    Every configuration is trained with seed 0; ASHA stops those whose validation recall@20 is low.
    The best few run with all seeds; the one of the best mean is scored on the test links beside the
    untuned settings, and the command that gives its figures by hand is printed.

    Without arguments: AlignRec on generated data. OUT/search.csv has every trial, search.md the
    configurations and the importance of each setting, two pictures show them, best.* is the table
    of test metrics. A sweep that was interrupted or killed continues with --resume --out OUT, also
    after its folder was moved.
    """
    from alignrec_pyg.tuning.search import search

    return search(options.session(), by_hand)


def by_hand(session: Session, point: Point) -> str:
    """The command line of ``alignrec compare`` that trains a configuration of a sweep anew."""
    import torch

    from alignrec_pyg.experiments.settings import model_path
    from alignrec_pyg.tuning.spaces import ITEM_NEIGHBORS

    options: TuneOptions = session.options
    (settings,) = session.models.values()
    values = {name: value for name, value in point.items() if name != ITEM_NEIGHBORS}
    given = {field.name: getattr(options, field.name) for field in fields(ExperimentOptions)}
    changes = {
        "path": None,
        "models": (model_path(settings.model),),
        "item_neighbors": point.get(ITEM_NEIGHBORS, options.item_neighbors),
        "set": (
            *options.set,
            *(f"{settings.name}.{name}={value!r}" for name, value in values.items()),
        ),
        "device": session.device.type,
        "threads": torch.get_num_threads(),
        "jobs": None,
        "out": session.out / "by_hand",
    }
    words = ["alignrec", "compare"]
    for name, value in {**given, **changes}.items():
        if value != getattr(ExperimentOptions, name):
            several = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, several)]
    return shlex.join(words)


main = script(TuneOptions, tune, tune.__doc__, TuneOptions.with_those_stored)
