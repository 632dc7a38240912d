"""A trained model on disk, and the data it was trained on, made again in the same way."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import models
from alignrec_pyg.cli.options import errors_about
from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    USER,
    content_hash,
    feature_key,
    feature_table,
    on_device,
)
from alignrec_pyg.models import Recommender
from alignrec_pyg.storage import CheckpointError, read_manifest, write_manifest
from alignrec_pyg.transforms import ConcatFeatures, KNNItemGraph, SplitInteractions
from alignrec_pyg.transforms.knn_item_graph import Weighting
from alignrec_pyg.transforms.split_interactions import SplitRule

_MANIFEST = "run.json"
_MODEL = "model"

ITEM_GRAPHS = "item_graphs"
"""Folder of a run that keeps its item graphs."""

_BINARY = ("FREEDOM",)  # models whose paper weighs all neighbours alike; the others by cosine
_FREEDOM_WEIGHTS = {"image": 0.1, "text": 0.9}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What data are made of a folder.

    Args:
        model: Name of the model's class.
        features: Feature tables that it reads.
        feature_scale: ``"rows"`` brings feature rows to length 1, ``"raw"`` leaves them.
        neighbors: Neighbours of an item in item graphs, itself included.
        split: Rule of the split; ``"random"`` has seed 0.
    """

    model: str
    features: tuple[str, ...]
    feature_scale: str
    neighbors: int
    split: SplitRule

    @property
    def model_class(self) -> type[Recommender]:
        """The model's class."""
        found: type[Recommender] = getattr(models, self.model)
        return found


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The graphs of a run.

    Args:
        train: Graph to train on.
        val: Graph with the links to select by.
        test: Graph with the links to score once.
        known: All links known: what recommendations are made from.
        inputs: ``features`` and item graph arguments of the model.
        fingerprint: Hash of the ids, links, labels and feature tables.
    """

    train: HeteroData
    val: HeteroData
    test: HeteroData
    known: HeteroData
    inputs: dict[str, Any]
    fingerprint: str

    def to(self, device: str) -> RunData:
        """The same on a device."""
        graphs = {name: getattr(self, name) for name in ("train", "val", "test", "known")}
        moved = {name: on_device(graph, device) for name, graph in graphs.items()}
        return RunData(**moved, inputs=self.inputs, fingerprint=self.fingerprint)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model and its data.

    Args:
        folder: The run's folder.
        data_folder: Where its data are.
        settings: How the data were made.
        data: The data.
        model: The model, in evaluation mode.
    """

    folder: Path
    data_folder: Path
    settings: Settings
    data: RunData
    model: Recommender


def parameters_of(model: type[Recommender]) -> list[str]:
    """Keyword arguments of a model's constructor."""
    return list(inspect.signature(model).parameters)[1:]


def freedom_weights(names: Sequence[str]) -> dict[str, float]:
    """What each table weighs in FREEDOM's item graph: as in its paper, others equally."""
    if set(names) == set(_FREEDOM_WEIGHTS):
        return _FREEDOM_WEIGHTS
    return dict.fromkeys(names, 1 / len(names))


def make_data(data: HeteroData, settings: Settings, cache: Path) -> RunData:
    """Splits the data and makes what the model reads.

    A model of one item graph by cosines (AlignRec) reads one table, the feature sets side by side,
    and its neighbours; FREEDOM's graph is the weighted sum of those of the tables, as in its paper
    (:func:`freedom_weights`); models of several graphs have one for each table.

    Args:
        data: Data of the folder, with the tables of ``settings.features``.
        settings: What to make.
        cache: Folder that keeps item graphs.

    Raises:
        OptionError: If the data lack what the split needs, or have too few items for a graph.
    """
    fingerprint = _fingerprint(data, settings.features)
    parameters = parameters_of(settings.model_class)
    names = list(settings.features)
    if settings.feature_scale == "rows":
        for name in names:
            table = feature_table(data, name)
            data[ITEM][feature_key(name)] = torch.nn.functional.normalize(table)
    weighting: Weighting = "binary" if settings.model in _BINARY else "cosine"
    inputs: dict[str, Any] = {}
    if "item_graph" in parameters and weighting == "cosine" and len(names) > 1:
        fused = "+".join(names)  # a sign that no table's own name holds
        data = ConcatFeatures(names, fused, normalize=False)(data)
        names = [fused]
    if "features" in parameters:
        inputs["features"] = names
    k = settings.neighbors
    with errors_about("--neighbors"):
        if "item_graph" in parameters:
            name = "+".join([weighting, *names])
            weights = freedom_weights(names)
            data = KNNItemGraph(weights, k, weighting=weighting, name=name, cache_dir=cache)(data)
            inputs["item_graph"] = name
        if "item_graphs" in parameters:
            for name in names:
                data = KNNItemGraph(name, k, cache_dir=cache)(data)
            inputs["item_graphs"] = names
    with errors_about("--split"):
        train, val, test = SplitInteractions(settings.split)(data)
    return RunData(
        train=train, val=val, test=test, known=data, inputs=inputs, fingerprint=fingerprint
    )


def save_run(
    folder: Path,
    data_folder: Path,
    settings: Settings,
    data: RunData,
    model: Recommender,
    told: Mapping[str, Any],
) -> None:
    """Writes the model, then ``run.json``, which says what it was trained on, and how.

    Args:
        folder: Where.
        data_folder: Folder of the data.
        settings: How they were made.
        data: What was made.
        model: The trained model.
        told: More for the manifest, such as how the model was trained.
    """
    model.save_pretrained(folder / _MODEL)
    write_manifest(
        folder / _MANIFEST,
        {
            "settings": {**asdict(settings), "features": list(settings.features)},
            "data": str(data_folder.resolve()),
            "fingerprint": data.fingerprint,
            **told,
        },
    )


def load_run(folder: Path, data_folder: Path | None, device: str) -> Run:
    """A trained model with its data, made again.

    Args:
        folder: What :func:`save_run` wrote.
        data_folder: Where the data are now (default: where they were).
        device: Where to compute.

    Raises:
        CheckpointError: If the run is missing or damaged, or the data are not those it was trained
            on.
        ValueError: If the data cannot be read.
    """
    if not (folder / _MANIFEST).is_file():
        raise CheckpointError(f"{folder} holds no trained model: alignrec train --out writes one")
    manifest = read_manifest(folder / _MANIFEST, ("settings", "data", "fingerprint"))
    stored = manifest["settings"]
    expected = {field.name for field in fields(Settings)}
    if stored.keys() != expected or stored["model"] not in models.model_names():
        raise CheckpointError(f"{folder / _MANIFEST} is damaged or of another version: train anew")
    settings = Settings(**{**stored, "features": tuple(stored["features"])})
    source = Path(manifest["data"]) if data_folder is None else data_folder
    if not source.is_dir():
        raise CheckpointError(f"{source}, the data of {folder}, is not there: name it with --data")
    data = MMRecFolder(source, features=settings.features).data
    made = make_data(data, settings, folder / ITEM_GRAPHS)
    if made.fingerprint != manifest["fingerprint"]:
        raise CheckpointError(
            f"{source} is not what {folder} was trained on (fingerprint {made.fingerprint}, then "
            f"{manifest['fingerprint']}): name the right folder with --data, or train anew"
        )
    made = made.to(device)
    model = settings.model_class.from_pretrained(folder / _MODEL, made.train)
    return Run(folder=folder, data_folder=source, settings=settings, data=made, model=model)


def _fingerprint(data: HeteroData, features: Sequence[str]) -> str:
    links = data[INTERACTS]
    return content_hash(
        np.asarray(data[USER].id).astype(str),
        np.asarray(data[ITEM].id).astype(str),
        links.edge_index,
        *([links.split] if "split" in links else []),
        *(part for name in features for part in (name, feature_table(data, name))),
    )
