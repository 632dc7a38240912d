"""Options that scripts on a data set have in common, as dataclasses to add one's own to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from alignrec_pyg.checks import require_package
from alignrec_pyg.cli.options import (
    DATA,
    MODELS,
    OUTPUT,
    RUN,
    SYNTHETIC,
    TRAINING,
    VAL_FROM_TRAIN,
    Device,
    OptionError,
    Seeds,
    SplitRule,
    device_named,
    fraction,
    natural,
    number,
    option,
    positive_int,
    share,
)
from alignrec_pyg.models import model_names

if TYPE_CHECKING:
    import torch
    from torch_geometric.data import HeteroData

    from alignrec_pyg.experiments.prepared_data import PreparedData
    from alignrec_pyg.experiments.session import Session
    from alignrec_pyg.experiments.settings import ModelSettings
    from alignrec_pyg.report import DataReport

ALL = "all"
"""What ``--models`` takes for all models."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options of every script on a data set; a subclass adds its own.

    The fields are options of the command line: :func:`~alignrec_pyg.cli.entry_points.script`.
    """

    path: Annotated[
        str | None,
        typer.Argument(metavar="PATH", help="The same as --data.", show_default=False),
    ] = None
    data: Annotated[str, option(DATA, "An MMRec folder, or 'synthetic'.", "PATH")] = SYNTHETIC
    split: Annotated[
        SplitRule | None,
        option(DATA, "Rule of the split.", show_default="the file's labels, else random"),
    ] = None
    val_from_train: Annotated[float | None, option(DATA, VAL_FROM_TRAIN, "X", parser=share)] = None
    tables: Annotated[
        tuple[str, ...],
        option(DATA, "Further feature tables; row r belongs to item r.", "NAME=FILE.npy ..."),
    ] = ()
    device: Device = "auto"
    threads: Annotated[
        int | None,
        option(
            RUN,
            "CPU threads of each process.",
            "N",
            parser=positive_int,
            show_default="1",
        ),
    ] = None
    out: Annotated[
        Path | None, option(OUTPUT, "Where to write.", "DIR", show_default="results/<data name>")
    ] = None

    def __post_init__(self) -> None:
        """Takes the positional path for ``--data``."""
        if self.path is not None:
            if self.data not in (SYNTHETIC, self.path):
                raise OptionError("--data", f"is given by PATH already ({self.path})")
            object.__setattr__(self, "data", self.path)

    def results_folder(self, problems: list[str]) -> Path:
        """The folder to write to, made and tried unless there are problems already."""
        from alignrec_pyg.experiments.reading import data_name

        out = self.out or Path("results") / data_name(self.data)
        problems += problems_of_folder(out, made=not problems)
        return out

    def table_files(self, problems: list[str]) -> dict[str, Path]:
        """The files of ``--tables`` by name; mistakes are appended to ``problems``."""
        return named_files("--tables", "FILE.npy", self.tables, problems)

    def torch_device(self, problems: list[str]) -> torch.device:
        """The device of ``--device``; a missing GPU is appended to ``problems``."""
        import torch

        try:
            return torch.device(device_named(self.device))
        except OptionError as error:
            problems.append(str(error))
            return torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions(DataOptions):
    """Options of every script that trains models."""

    default_models: ClassVar[tuple[str, ...]] = ()
    """Models to run where none is named (default: those of the paper's Table 2)."""

    features: Annotated[
        tuple[str, ...],
        option(DATA, "Feature tables to use.", "NAME ...", show_default="all"),
    ] = ()
    feature_scale: Annotated[
        Literal["rows", "raw"],
        option(DATA, "Scale feature rows to length 1, or leave them as stored."),
    ] = "rows"
    item_neighbors: Annotated[
        int | None,
        option(
            DATA,
            "Neighbours of an item in graphs made of feature tables.",
            "K",
            parser=positive_int,
            show_default="10, or all of fewer items",
        ),
    ] = None
    neighbor_recall: Annotated[
        float | None,
        option(
            DATA,
            "For hundreds of thousands of items: search these graphs with FAISS, which finds at "
            "least this share of the neighbours, measured on 1,000 items.",
            "X",
            parser=share,
            show_default="exact search",
        ),
    ] = None
    neighbors: Annotated[
        tuple[str, ...],
        option(
            DATA,
            "Ready item graphs: arrays 'neighbor' [items, k] and 'cosine' (FREEDOM needs none).",
            "NAME=FILE.npz ...",
        ),
    ] = ()
    models: Annotated[
        tuple[str, ...],
        option(
            MODELS,
            f"Of {', '.join(model_names())}, 'all' of them, or MODULE:CLASS for your own.",
            "NAME ...",
            show_default="the paper's ten",
        ),
    ] = ()
    settings: Annotated[
        Literal["default", "published"],
        option(
            MODELS,
            "Settings to start from: the library's, which depend on the number of links, or those "
            "of the papers.",
        ),
    ] = "default"
    set: Annotated[
        tuple[str, ...],
        option(
            MODELS,
            "Other settings, e.g. LightGCN.num_layers=2 AlignRec.lr=1e-3.",
            "MODEL.argument=value ...",
        ),
    ] = ()
    epochs: Annotated[int | None, option(TRAINING, "Most epochs.", "N", parser=positive_int)] = None
    patience: Annotated[
        int | None, option(TRAINING, "Evaluations to wait for a better one.", "N", parser=natural)
    ] = None
    lr: Annotated[
        float | None, option(TRAINING, "Learning rate of all models.", "X", parser=number)
    ] = None
    batch_size: Annotated[
        int | None, option(TRAINING, "Interactions per batch.", "N", parser=positive_int)
    ] = None
    fan_out: Annotated[
        tuple[int, ...],
        option(
            TRAINING,
            "Neighbours that a step draws of each node, for each hop, instead of reading all.",
            "N ...",
            show_default="all",
        ),
    ] = ()
    eval_users: Annotated[
        int | None,
        option(
            TRAINING, "Users drawn for validation.", "N", parser=positive_int, show_default="all"
        ),
    ] = None
    known_negatives: Annotated[
        float | None,
        option(
            TRAINING,
            "Share of the negatives that are known pairs of the user, such as low ratings; with 0 "
            "these may be drawn like any item.",
            "X",
            parser=fraction,
            show_default="known pairs are no negatives",
        ),
    ] = None
    exclude_known_pairs: Annotated[
        bool,
        option(
            RUN,
            "Leave known pairs, such as low ratings, out of the rankings on the test links; "
            "published figures rank them. The table says so.",
            name="--exclude-known-pairs",
        ),
    ] = False
    seeds: Seeds = 3
    jobs: Annotated[
        int | None,
        option(
            RUN,
            "Models to train at a time, each in a process of its own.",
            "N",
            parser=positive_int,
            show_default="processors / threads; 1 on a GPU",
        ),
    ] = None

    def usual_models(self) -> Sequence[str]:
        """Names of the models to run where none is named."""
        from alignrec_pyg.experiments.settings import TABLE_2

        return self.default_models or [model.__name__ for model in TABLE_2]

    def session(
        self,
        *,
        cache: Path | None = None,
        read: Callable[[Path, str], tuple[HeteroData, DataReport]] | None = None,
    ) -> Session:
        """Checks the options and prepares the data.

        Args:
            cache: Folder that caches item graphs from one run to the next.
            read: Reads and encodes what is no folder in MMRec's form, given the folder of the
                results and the device, after the options were checked.
        """
        import torch

        from alignrec_pyg.experiments.prepare import prepare, prepare_graph
        from alignrec_pyg.experiments.reading import data_name
        from alignrec_pyg.experiments.session import Session
        from alignrec_pyg.experiments.settings import SettingsError

        problems: list[str] = []
        device, tables = self.torch_device(problems), self.table_files(problems)
        neighbors = named_files("--neighbors", "FILE.npz", self.neighbors, problems)
        if neighbors and self.item_neighbors is not None:
            problems.append("--item-neighbors: the lists of --neighbors have their own number")
        if self.neighbor_recall is not None:
            require_package("faiss", "--neighbor-recall", "faiss-cpu", extra="serving")
            if neighbors:
                problems.append("--neighbor-recall: the lists of --neighbors are ready")
        models = self._model_settings(problems, None)
        out = self.results_folder(problems)
        if problems:
            raise SettingsError(problems)
        # Encoders compute with all processors, and before the threads of the training are set.
        source = None if read is None else read(out, device.type)
        threads = self.threads or 1
        torch.set_num_threads(threads)
        how: dict[str, Any] = {
            "split": self.split,
            "scale": self.feature_scale,
            "item_neighbors": self.item_neighbors,
            "neighbor_recall": self.neighbor_recall,
            "cache": cache,
            "val_from_train": self.val_from_train,
            "exclude_known_pairs": self.exclude_known_pairs,
        }
        prepared: Callable[..., PreparedData]
        if source is None:
            how |= {"features": self.features or None, "tables": tables, "neighbors": neighbors}
            prepared = partial(prepare, self.data, **how)
        else:
            prepared = partial(prepare_graph, *source, name=data_name(self.data), **how)
        data = prepared()
        models = self._model_settings(problems, data.train)
        return Session(
            options=self,
            device=device,
            models=models,
            data=data,
            prepare=prepared,
            seeds=range(self.seeds),
            out=out,
            jobs=self.jobs or (1 if device.type == "cuda" else max(1, num_cores() // threads)),
        )

    def _model_settings(
        self, problems: list[str], train: HeteroData | None
    ) -> dict[str, ModelSettings]:
        from alignrec_pyg.experiments.reading import data_name
        from alignrec_pyg.experiments.settings import SettingsError, resolve

        names = self.models or self.usual_models()
        try:
            return resolve(
                list(model_names()) if names == (ALL,) else list(dict.fromkeys(names)),
                self.settings,
                data_name(self.data),
                self.set,
                data=train,
                max_epochs=self.epochs,
                patience=self.patience,
                lr=self.lr,
                batch_size=self.batch_size,
                known_negatives=self.known_negatives,
                fan_out=self.fan_out or None,
                eval_users=self.eval_users,
            )
        except SettingsError as error:
            problems += error.problems
            return {}


def num_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def named_files(
    option: str, form: str, entries: Sequence[str], problems: list[str]
) -> dict[str, Path]:
    """Files by name, from entries ``NAME=FILE``; mistakes are appended to ``problems``."""
    paths: dict[str, Path] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            problems.append(f"{option} {entry}: needs the form NAME={form}")
        elif name in paths:
            problems.append(f"{option} {entry}: {name!r} is given twice")
        else:
            paths[name] = Path(path)
    return paths


def problems_of_folder(out: Path, *, made: bool = True) -> list[str]:
    """Why results cannot be written to ``--out``, which is created for the test if ``made``."""
    there = next((path for path in (out, *out.parents) if path.exists()), out)
    if not there.is_dir():
        return [f"--out {out}: needs to be a folder ({there} is a file)"]
    if not made:
        return []
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        return [f"--out {out}: needs to be a folder that can be written to ({error})"]
    return []
