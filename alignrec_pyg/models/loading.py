"""Saved models that hold their own graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import models
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.saving import CONFIG, stored_graph
from alignrec_pyg.storage import CheckpointError, read_manifest


def load(
    folder: str | Path,
    model_class: type[Recommender] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> tuple[Recommender, HeteroData]:
    """Reads a model that was saved with its graph, by ``model.save_pretrained(folder, data)``.

    Nothing else is needed: the graph has the ids, the tables and item graphs that the model reads
    and all that users were known to have had, so ``recommend(model, data, user_ids)`` follows.

    Args:
        folder: Where it was saved.
        model_class: Its class, if it is not one of this package, or, of an ``Aligned``, the class
            of its backbone; code that a folder names is not imported.
        device: Where model and graph are to be.

    Returns:
        The model in evaluation mode, and its graph.

    Raises:
        CheckpointError: If files are missing or damaged, the folder holds no graph, or its class is
            unknown.
    """
    folder = Path(folder)
    config = read_manifest(folder / CONFIG, {"model": str})
    data = stored_graph(folder, device)
    if config["model"] == models.Aligned.__name__:
        name, hparams = saved_backbone(folder, config)
        own = None if model_class is models.Aligned else model_class
        backbone_class = own or _class_named(folder, name)
        if backbone_class.__name__ != name:
            raise CheckpointError(
                f"{folder} holds an Aligned around a {name} (got {backbone_class.__name__}): pass "
                "the class of its backbone"
            )
        try:
            backbone = backbone_class(data, **hparams)
        except (MemoryError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder} does not fit its graph: {error}") from error
        if not isinstance(backbone, models.ContentRecommender):
            raise CheckpointError(f"{folder} is damaged (its backbone is a {name})")
        return models.Aligned.from_pretrained(folder, data, backbone.to(device)), data
    model_class = model_class or _class_named(folder, config["model"])
    return model_class.from_pretrained(folder, data), data


def saved_backbone(folder: Path, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class and the hyper-parameters of the backbone of a saved ``Aligned``.

    Raises:
        CheckpointError: If the manifest has none.
    """
    match config.get("backbone"):
        case {"model": str(name), "hparams": dict(hparams)}:
            return name, hparams
    raise CheckpointError(f"{folder / CONFIG} holds something else ('backbone' is missing)")


def _class_named(folder: Path, name: str) -> type[Recommender]:
    if name not in models.model_names():
        raise CheckpointError(
            f"{folder} holds a {name}, which is no model of alignrec_pyg: pass its class, "
            f"load({str(folder)!r}, {name})"
        )
    found: type[Recommender] = getattr(models, name)
    return found
