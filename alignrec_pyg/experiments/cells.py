"""Cells of an experiment, one model with one seed each, and the store of finished ones."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.graph import content_hash
from alignrec_pyg.models import Aligned, ContentRecommender, Recommender
from alignrec_pyg.storage import (
    CheckpointError,
    read_manifest,
    read_tensors,
    write_manifest,
    write_tensors,
)
from alignrec_pyg.training.loop import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of an experiment.

    Args:
        row: The row of the table it belongs to, such as the model's name.
        model: The model.
        hparams: Keyword arguments of its constructor.
        config: How to train; its seed is the cell's, for the initial weights too.
        alignment: Keyword arguments of :class:`~alignrec_pyg.models.Aligned`, if the model wears
            it.
    """

    row: str
    model: type[Recommender]
    hparams: Mapping[str, Any]
    config: TrainConfig
    alignment: Mapping[str, Any] | None = None

    @property
    def seed(self) -> int:
        """Seed of the initial weights and of training."""
        return self.config.seed

    @property
    def name(self) -> str:
        """The model's name, also as part of file names."""
        return self.model.__name__ if self.alignment is None else f"Aligned{self.model.__name__}"

    def build(self, train: HeteroData) -> Recommender:
        """The untrained model, with weights drawn from the cell's seed.

        Raises:
            ValueError: If the settings do not fit the model or ``train``.
        """
        torch.manual_seed(self.seed)
        model = self.model(train, **self.hparams)
        if self.alignment is None:
            return model
        if not isinstance(model, ContentRecommender):
            raise ValueError(f"'alignment' needs a model that tells content from ID (got {model})")
        return Aligned(train, model, **self.alignment)

    def settings(self) -> dict[str, Any]:
        """What the cell runs, as JSON knows it."""
        settings = {
            "model": self.model.__name__,
            "hparams": dict(self.hparams),
            "config": {**asdict(self.config), "ks": list(self.config.ks)},
        }
        if self.alignment is not None:
            settings["alignment"] = dict(self.alignment)
        return settings

    def key(self, *context: str) -> str:
        """Hash of what the cell runs, and of ``context``: data, code, device, threads."""
        return content_hash(repr(_sorted(self.settings())), *context)


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What a cell gave.

    Args:
        row: Row of the table.
        model: Name of the model.
        seed: Seed.
        key: The cell's key.
        settings: The cell's settings.
        metrics: Metrics of the links called ``"test"`` at the best epoch.
        val_metrics: Validation metrics of that epoch.
        best_epoch: Epoch (from 1) that was best on validation.
        num_epochs: Epochs trained.
        stopped_early: Whether training ended by itself, not at the limit of epochs.
        seconds: Time of training and validation.
        peak_bytes: Peak memory, where measured, without what was there before the cell, such as
            ``content_bytes``.
        content_bytes: Size of the feature tables and item graphs it reads.
        num_parameters: Trainable parameters.
        rankings: The best items of every user with links to predict, by the name of the test;
            everything else is computed from them.
        origin: Where and with what it ran.
        stored: Whether it was read from the store.
    """

    row: str
    model: str
    seed: int
    key: str
    settings: dict[str, Any]
    metrics: dict[str, float]
    val_metrics: dict[str, float]
    best_epoch: int
    num_epochs: int
    stopped_early: bool
    seconds: float
    peak_bytes: int | None
    content_bytes: int
    num_parameters: int
    rankings: dict[str, Ranking]
    origin: Origin
    stored: bool = False

    def summary(self) -> dict[str, Any]:
        """Everything but the rankings."""
        everything = {name: value for name, value in vars(self).items() if name != "rankings"}
        return everything | {"origin": asdict(self.origin)}


class CellStore:
    """Finished cells in a folder: one JSON file and one safetensors file each.

    Args:
        folder: Created when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoint_dir(self, cell: Cell, key: str) -> Path:
        """Where the unfinished cell keeps its state."""
        return self.folder / f"{_stem(cell, key)}.unfinished"

    def load(self, cell: Cell, key: str) -> CellResult | None:
        """The finished cell; ``None`` if there is none or it is damaged (with a warning)."""
        path = self.folder / f"{_stem(cell, key)}.json"
        if not path.exists():
            return None
        try:
            manifest = read_manifest(path)
            if manifest.get("key") != key:
                raise CheckpointError(f"{path} holds another cell")
            tensors = read_tensors(path.with_suffix(".safetensors"), manifest["rankings_sha256"])
            summary = manifest["result"]
            rankings = {
                test: Ranking(*(tensors[f"{test}.{field}"] for field in Ranking._fields))
                for test in manifest["tests"]
            }
            origin = Origin(**summary["origin"])
            result = CellResult(**{**summary, "rankings": rankings, "origin": origin})
        except (CheckpointError, KeyError, TypeError) as error:
            warnings.warn(
                f"{cell.row} seed {cell.seed} runs again: its stored result is damaged ({error})",
                stacklevel=2,
            )
            return None
        return replace(result, row=cell.row, stored=True)

    def save(self, cell: Cell, result: CellResult) -> None:
        """Writes a finished cell, the JSON file last, and drops its unfinished state."""
        path = self.folder / f"{_stem(cell, result.key)}.json"
        tensors = {
            f"{test}.{field}": tensor
            for test, ranking in result.rankings.items()
            for field, tensor in ranking._asdict().items()
        }
        manifest = {
            "key": result.key,
            "result": result.summary(),
            "tests": list(result.rankings),
            "rankings_sha256": write_tensors(path.with_suffix(".safetensors"), tensors),
        }
        write_manifest(path, manifest)
        unfinished = self.checkpoint_dir(cell, result.key)
        if unfinished.exists():
            shutil.rmtree(unfinished)


def _stem(cell: Cell, key: str) -> str:
    return f"{cell.name}-seed{cell.seed}-{key[:16]}"


def _sorted(value: Any) -> Any:
    """Dictionaries in the order of their keys, so that equal settings look the same."""
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return value
