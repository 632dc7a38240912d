"""The state of a training run, and its way to the disk and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignrec_pyg.checkpoint import (
    CheckpointError,
    read_manifest,
    read_tensors,
    write_manifest,
    write_tensors,
)
from alignrec_pyg.models import Recommender

_MANIFEST = "state.json"
_KEYS = ("run", "state", "files")
_SCALARS = (
    "epoch",
    "step",
    "loss_sums",
    "best_epoch",
    "best_metrics",
    "num_stale",
    "finished",
    "seconds",
    "history",
)


@dataclass
class TrainState:
    """Where training stands, beside the weights and the optimiser.

    Args:
        epoch: Epochs done.
        step: Batches done in the current epoch.
        loss_sums: Sums of the loss terms over these batches.
        best_epoch: Best epoch so far.
        best_metrics: Its validation metrics.
        best_weights: The model's state after it.
        num_stale: Evaluations since then.
        finished: Whether training has ended.
        seconds: Time spent.
        history: One entry per epoch.
    """

    epoch: int = 0
    step: int = 0
    loss_sums: dict[str, float] = field(default_factory=dict)
    best_epoch: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    num_stale: int = 0
    finished: bool = False
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save(
    folder: Path,
    run: dict[str, Any],
    state: TrainState,
    model: Recommender,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Writes the state; until the last step the previous one stays whole."""
    kept: dict[str, str] = {}
    if (folder / _MANIFEST).exists():
        kept = read_manifest(folder / _MANIFEST, _KEYS)["files"]
    last = f"last-{state.epoch:06d}-{state.step:06d}.safetensors"
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= optimizer_tensors(optimizer)
    files = {last: write_tensors(folder / last, tensors)}
    if state.best_weights:
        best = f"best-{state.best_epoch:06d}.safetensors"
        files[best] = kept.get(best) or write_tensors(folder / best, state.best_weights)
    scalars = {name: getattr(state, name) for name in _SCALARS}
    write_manifest(folder / _MANIFEST, {"run": run, "state": scalars, "files": files})
    remove_strays(folder, files)


def restore(
    folder: Path,
    run: dict[str, Any],
    state: TrainState,
    model: Recommender,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Reads a saved state into ``state``, ``model`` and ``optimizer``, if there is one.

    Raises:
        CheckpointError: If files are missing or damaged, or belong to another run.
    """
    if not (folder / _MANIFEST).exists():
        return
    manifest = read_manifest(folder / _MANIFEST, _KEYS)
    check_same_run(folder, manifest["run"], run)
    remove_strays(folder, manifest["files"])
    stored: dict[str, Tensor] = {}
    for name, sha256 in manifest["files"].items():
        tensors = read_tensors(folder / name, sha256)
        if name.startswith("best-"):
            device = next(model.parameters()).device
            state.best_weights = {key: value.to(device) for key, value in tensors.items()}
        else:
            stored = tensors
    model.load_state_dict(
        {
            name.removeprefix("model."): value
            for name, value in stored.items()
            if name.startswith("model.")
        }
    )
    load_optimizer_tensors(optimizer, stored)
    for name in _SCALARS:
        setattr(state, name, manifest["state"][name])


def check_same_run(folder: Path, stored: dict[str, Any], run: dict[str, Any]) -> None:
    """Makes sure that the run in ``folder`` is the one asked for.

    Raises:
        CheckpointError: If not; the message names the differences.
    """
    differing = {
        name: (stored.get(name), run.get(name))
        for name in sorted(stored.keys() | run.keys())
        if stored.get(name) != run.get(name)
    }
    if differing:
        raise CheckpointError(
            f"{folder} holds another run (stored, asked for): {differing}; choose another "
            "'checkpoint_dir' or delete this one"
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``optimizer.<parameter>.<name>``."""
    return {
        f"optimizer.{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, stored: dict[str, Tensor]) -> None:
    """Puts back what :func:`optimizer_tensors` gave; other names in ``stored`` are passed over."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in stored.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def remove_strays(folder: Path, files: dict[str, str]) -> None:
    """Deletes tensors that are not among ``files``, and whatever is half written."""
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.part")):
        if path.name not in files:
            path.unlink(missing_ok=True)  # several workers start at once
