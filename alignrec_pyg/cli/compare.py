"""``alignrec compare``: models on one data set, in one table; from files to a model to serve."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import (
    ENCODING,
    EXPERIMENT,
    MODELS,
    RUN,
    SYNTHETIC,
    OptionError,
    option,
    positive_int,
)
from alignrec_pyg.cli.raw_data import RawDataOptions
from alignrec_pyg.models import model_names

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from alignrec_pyg.cli.encoder_specs import EncoderSpec
    from alignrec_pyg.experiments.served import Served
    from alignrec_pyg.experiments.session import Session
    from alignrec_pyg.report import DataReport

OF_FILES = ("WeightedAlignRec", "AlignRec", "BPR", "LightGCN", "VBPR", "BM3", "MGCN", "FREEDOM")
"""The models of the paper's Table 2 that run on files where none are named; the other three (MMGCN,
GRCN, DualGNN) take as long as these eight together."""

_TITLES = ("title", "name")


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ExperimentOptions, RawDataOptions):
    """The options of the comparison."""

    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="A table of interactions, or a folder: what encode wrote, or of a known kind. The "
            "same as --data.",
            show_default=False,
        ),
    ] = None
    models: Annotated[
        tuple[str, ...],
        option(
            MODELS,
            f"Of {', '.join(model_names())}, 'all' of them, or MODULE:CLASS for your own.",
            "NAME ...",
            show_default="Popularity, ItemKNN, EASE and the paper's ten; of files the three and "
            f"{', '.join(OF_FILES)}",
        ),
    ] = ()
    seeds: Annotated[
        int,
        option(
            RUN, "Run seeds 0 to N - 1.", "N", parser=positive_int, show_default="3; of files 1"
        ),
    ] = 3
    cache: Annotated[
        Path | None,
        option(
            ENCODING,
            "Cache of encoded items: the next run encodes only new ones.",
            "FOLDER",
            show_default="OUT/encoded",
        ),
    ] = None
    aligned: Annotated[
        tuple[str, ...],
        option(
            EXPERIMENT,
            "Models that also run with AlignRec's alignments, each in a row of its own.",
            "NAME ...",
        ),
    ] = ()

    @property
    def of_files(self) -> bool:
        """Whether the data are yet to be encoded: neither generated nor in MMRec's format."""
        from alignrec_pyg.datasets.recognition import recognize

        if self.data == SYNTHETIC or Path(self.data).is_file():
            return self.data != SYNTHETIC
        try:
            return recognize(self.data).kind != "MMRec folder"
        except ValueError:  # reported where it is read
            return False

    def completed(self, given: set[str]) -> CompareOptions:
        """Takes one seed for files, unless ``--seeds`` is among the options that were ``given``."""
        return replace(self, seeds=1) if self.of_files and "seeds" not in given else self

    def usual_models(self) -> Sequence[str]:
        """The paper's models, or the quick ones of them, and what they should beat."""
        from alignrec_pyg.experiments.settings import BASELINES

        usual = OF_FILES if self.of_files else super().usual_models()
        return [*usual, *(model.__name__ for model in BASELINES)]


def compare(options: CompareOptions) -> int:
    """Train and compare models on one data set.

        alignrec compare
        alignrec compare ratings.csv --items items.csv --text title --images posters/
        alignrec compare films --models BPR LightGCN --seeds 3

    Without arguments: the models of the AlignRec paper's Table 2 and three baselines without
    training (Popularity, ItemKNN, EASE) on generated data, in five minutes on two cores.

    With a table of interactions it does everything from the start: reads and checks, encodes texts
    and images, splits, says how long it will take and how much memory, trains and compares, and
    trains the model that is best on validation anew on all links. OUT/model is ready for alignrec
    recommend. Without texts and images, models that need them are left out.

    PATH may also be a folder that encode wrote, or any in MMRec's format (NAME.inter and .npy
    feature tables); no model is kept then.

    OUT/compare.md, .csv, .json, .tex and, with matplotlib, .png hold the results: test metrics of
    the best epoch on validation, mean and deviation over seeds, and tests of significance. Finished
    models stay in OUT/cells and are not trained again; an interrupted one continues.
    """
    if options.jobs != 1 and options.device != "cuda" and sys.platform != "win32":
        # The server of processes imports torch while this process reads the data.
        forkserver.set_forkserver_preload(["alignrec_pyg.experiments.runner"])
        forkserver.ensure_running()
    read = partial(_read, options, options.specs()) if options.of_files else None
    _check_source(options, of_files=read is not None)
    session = options.session(read=read)
    models, not_run = session.runnable()
    cells = session.cells_of(models)
    for name, settings in session.alignable(options.aligned).items():
        cells += session.cells(f"{name} + alignment", settings, alignment=session.alignment())
    outcome = session.run(cells, estimated=True)
    status = session.conclude(
        "compare",
        f"{len({cell.row for cell in cells})} models, test links",
        outcome,
        not_run=not_run,
        paper=session.papers(experiments.table_2),
    )
    if read is not None and outcome.results:
        from alignrec_pyg.experiments.served import keep_best

        served = keep_best(session, cells, outcome.results)
        print(f"\n{served}\n\nnext:")
        for command in _next_commands(options, session, served):
            print(f"  {shlex.join(command)}")
    return status


def _check_source(options: CompareOptions, *, of_files: bool) -> None:
    """Refuses options of the other kind of source."""
    if of_files:
        kind = "for a folder in MMRec's format: what alignrec encode writes"
        names = ["features", "tables", "neighbors"]
    else:
        kind = f"for files that are yet to be encoded (PATH is {options.data})"
        names = [*(field.name for field in fields(RawDataOptions)), "cache"]
    usual = {field.name: field.default for field in fields(options)}
    given = [name for name in names if getattr(options, name) != usual[name]]
    if given:
        words = ", ".join("--" + name.replace("_", "-") for name in given)
        raise OptionError(words, f"{'is' if len(given) == 1 else 'are'} {kind}")


def _read(
    options: CompareOptions, specs: Sequence[EncoderSpec], out: Path, device: str
) -> tuple[HeteroData, DataReport]:
    """The data with feature tables in place of texts and images, and what they hold."""
    from alignrec_pyg.graph import ITEM
    from alignrec_pyg.report import describe

    cache = options.cache or out / "encoded"
    data, source, _ = options.read(Path(options.data), specs, cache, device)
    for raw in ("text", "image", "image_path"):  # models read the tables only
        data[ITEM].pop(raw, None)
    return data, describe(data, duplicates=source.duplicates, notes=source.notes)


def _next_commands(
    options: CompareOptions, session: Session, served: Served
) -> tuple[list[str], list[str]]:
    """How to get recommendations, with titles where the items have some, and a service."""
    from alignrec_pyg.datasets.tables import open_table
    from alignrec_pyg.graph import USER

    user = str(session.data.known[USER].id[0])
    model = [] if served.class_path is None else ["--model", served.class_path]
    recommend = ["alignrec", "recommend", str(served.folder), "--users", user, *model]
    if options.items is not None:
        there = open_table(options.items, [], [], optional=()).columns
        title = next((name for name in _TITLES if name in there), None)
        if title is not None:
            recommend += ["--items", str(options.items), "--show", title]
            column = options.items_id or options.item
            if column is not None and column in there:
                recommend += ["--items-id", column]
    return recommend, ["alignrec", "serve", str(served.folder), *model]


main = script(CompareOptions, compare, compare.__doc__, CompareOptions.completed)
