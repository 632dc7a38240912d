"""A trained model on disk, and the data it was trained on, prepared again in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from alignrec_pyg.cli.options import OptionError, errors_about
from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.experiments.prepared_data import PreparedData, Scale
from alignrec_pyg.experiments.settings import load_model
from alignrec_pyg.graph import on_device
from alignrec_pyg.models import Aligned, Recommender, model_names
from alignrec_pyg.models.loading import load, saved_backbone
from alignrec_pyg.models.saving import CONFIG
from alignrec_pyg.storage import (
    CheckpointError,
    file_sha256,
    read_body,
    read_manifest,
    write_manifest,
)
from alignrec_pyg.transforms.split_interactions import SplitRule

_MANIFEST = "run.json"
_MODEL = "model"
# Raised with each change after which older runs cannot be read.
_VERSION = 3
_KEYS = {"settings": dict, "data": str, "split": str, "model_sha256": str}

ITEM_GRAPHS = "item_graphs"
"""Folder of a run that caches its item graphs."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the data of a folder are prepared; a random split has seed 0."""

    model: str
    features: tuple[str, ...]
    feature_scale: Scale
    neighbors: int  # of an item in item graphs, itself included
    split: SplitRule
    val_from_train: float | None = None
    neighbor_recall: float | None = None

    def prepare(self, folder: Path, run: Path) -> PreparedData:
        """Prepares the data of a folder; item graphs are cached in the run's folder."""
        return prepare(
            str(folder),
            features=self.features,
            split=self.split,
            scale=self.feature_scale,
            item_neighbors=self.neighbors,
            neighbor_recall=self.neighbor_recall,
            cache=run / ITEM_GRAPHS,
            val_from_train=self.val_from_train,
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model in evaluation mode, and its data; the graphs are on the model's device."""

    data_folder: Path
    settings: Settings
    data: PreparedData  # on the CPU
    train: HeteroData
    test: HeteroData  # its links to predict are scored once
    known: HeteroData  # all links, to recommend from
    model: Recommender


def check_replaceable(folder: Path) -> None:
    """Checks, before a run is trained, that what it will replace in its folder is a run's.

    Raises:
        CheckpointError: If ``run.json`` or the model's manifest is damaged or somebody else's.
    """
    for path in (folder / _MANIFEST, folder / _MODEL / CONFIG):
        if path.exists():
            read_body(path)


def save_run(
    folder: Path,
    data_folder: Path,
    settings: Settings,
    data: PreparedData,
    model: Recommender,
    training: Mapping[str, Any],
) -> None:
    """Writes the model, then ``run.json``, which says what it was trained on, and how.

    The model itself has fingerprints of the tables and item graphs that it reads.
    """
    model.save_pretrained(folder / _MODEL)
    write_manifest(
        folder / _MANIFEST,
        {
            "settings": {**asdict(settings), "features": list(settings.features)},
            "data": str(data_folder.resolve()),
            "split": data.split.fingerprint,
            "model_sha256": file_sha256(folder / _MODEL / CONFIG),
            **training,
        },
        version=_VERSION,
    )


def load_run(folder: Path, data_folder: Path | None, device: str) -> Run:
    """A trained model, and its data made again from ``data_folder`` (default: where they were).

    Features that differ by rounding, as on another machine, give a warning.

    Raises:
        CheckpointError: If the run is missing, damaged or of another version, or its data have
            changed.
    """
    path = folder / _MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no trained model: alignrec train --out writes one")
    manifest = read_manifest(path, _KEYS, version=_VERSION)
    stored = manifest["settings"]
    known = {field.name: field.default is not MISSING for field in fields(Settings)}
    needed = {name for name, has_default in known.items() if not has_default}
    if not needed <= stored.keys() <= known.keys():
        raise CheckpointError(f"{path} holds something else (settings {sorted(stored)})")
    settings = Settings(**{**stored, "features": tuple(stored["features"])})
    try:
        model_class = load_model(settings.model)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    config = folder / _MODEL / CONFIG
    read_manifest(config)  # which sees damage
    if file_sha256(config) != manifest["model_sha256"]:
        raise CheckpointError(
            f"{folder / _MODEL} does not hold the model that {path} belongs to, as when alignrec "
            "train is killed while it writes: the same command again writes both"
        )
    source = Path(manifest["data"]) if data_folder is None else data_folder
    if not source.is_dir():
        raise CheckpointError(f"{source}, the data of {folder}, is not there: name it with --data")
    data = settings.prepare(source, folder)
    if data.split.fingerprint != manifest["split"]:
        raise CheckpointError(
            f"{source} is not what {folder} was trained on (split {data.split.fingerprint}, then "
            f"{manifest['split']}): name the right folder with --data, or train anew"
        )
    data.inputs(model_class)  # makes the item graphs
    train, test, known = (on_device(part, device) for part in (data.train, data.test, data.known))
    try:
        model = model_class.from_pretrained(folder / _MODEL, train)
    except CheckpointError as error:
        message = (
            str(error)
            .replace("'data'", str(source))
            .replace(
                "pass the data it was trained on",
                "name the right folder with --data, or train anew",
            )
        )
        raise CheckpointError(message) from error
    return Run(
        data_folder=source,
        settings=settings,
        data=data,
        train=train,
        test=test,
        known=known,
        model=model,
    )


def load_served(
    folder: Path, data_folder: Path | None, model: str | None, device: str
) -> tuple[Recommender, HeteroData]:
    """A trained model and the graph to serve: those of a run, or of ``save_pretrained``.

    Args:
        folder: What ``alignrec train`` wrote, or a model that was saved with its graph.
        data_folder: Where the data of a run are now (``None``: where they were).
        model: The class of a saved model, if it is none of the package: ``"module:Class"``.
        device: Where model and graph are to be.

    Raises:
        CheckpointError: If there is neither, or files are damaged.
        OptionError: If an option is for the other kind, or the class is not known.
    """
    if (folder / _MANIFEST).is_file() or not (folder / CONFIG).is_file():
        if model is not None:
            raise OptionError("--model", f"is for a saved model ({folder} knows its class)")
        run = load_run(folder, data_folder, device)
        return run.model, run.known
    if data_folder is not None:
        raise OptionError("--data", f"is for runs of alignrec train ({folder} has its own graph)")
    config = read_manifest(folder / CONFIG, {"model": str})
    name = config["model"]
    if name == Aligned.__name__:  # what is around a backbone is of the package
        name = saved_backbone(folder, config)[0]
    if model is None and name not in model_names():
        raise OptionError(
            "--model", f"is needed, module:{name}: {folder} holds a {name}, a class of your own"
        )
    with errors_about("--model"):
        model_class = None if model is None else load_model(model)
    return load(folder, model_class, device=device)
