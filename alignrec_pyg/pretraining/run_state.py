"""Where the training of an encoder stands, and its way to the disk and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignrec_pyg.checkpoint import (
    CheckpointError,
    read_manifest,
    read_tensors,
    write_manifest,
    write_tensors,
)

_MANIFEST = "state.json"
_KEYS = ("run", "state", "files")
_SCALARS = ("epoch", "step", "loss_sum", "best_epoch", "best_loss", "history")


@dataclass
class RunState:
    """Where training stands, beside the weights and the optimiser.

    Args:
        epoch: Epochs done.
        step: Batches done in the current epoch.
        loss_sum: Sum of their losses.
        best_epoch: Epoch with the lowest validation loss; -1 before the first.
        best_loss: That loss.
        best_weights: The model's state after it.
        history: One entry per epoch.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best_epoch: int = -1
    best_loss: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def save(
    folder: Path,
    run: Mapping[str, Any],
    state: RunState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Writes the state; until the last step the previous one stays whole."""
    kept: dict[str, str] = {}
    if (folder / _MANIFEST).exists():
        kept = read_manifest(folder / _MANIFEST, _KEYS)["files"]
    last = f"last-{state.epoch:06d}-{state.step:06d}.safetensors"
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    files = {last: write_tensors(folder / last, tensors)}
    if state.best_weights:
        best = f"best-{state.best_epoch:06d}.safetensors"
        files[best] = kept.get(best) or write_tensors(folder / best, state.best_weights)
    scalars = {name: getattr(state, name) for name in _SCALARS}
    write_manifest(folder / _MANIFEST, {"run": dict(run), "state": scalars, "files": files})
    _remove_strays(folder, files)


def restore(
    folder: Path,
    run: Mapping[str, Any],
    state: RunState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Reads a saved state into ``state``, ``model`` and ``optimizer``, if there is one.

    Raises:
        CheckpointError: If files are missing or damaged, or belong to another run.
    """
    if not (folder / _MANIFEST).exists():
        return
    manifest = read_manifest(folder / _MANIFEST, _KEYS)
    differing = {
        name: (manifest["run"].get(name), run.get(name))
        for name in sorted(manifest["run"].keys() | run.keys())
        if manifest["run"].get(name) != run.get(name)
    }
    if differing:
        raise CheckpointError(
            f"{folder} holds another run (stored, asked for): {differing}; choose another "
            "'checkpoint_dir' or delete this one"
        )
    _remove_strays(folder, manifest["files"])
    weights: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, sha256 in manifest["files"].items():
        tensors = read_tensors(folder / name, sha256)
        if name.startswith("best-"):
            state.best_weights = tensors
            continue
        for key, value in tensors.items():
            owner, rest = key.split(".", 1)
            if owner == "model":
                weights[rest] = value
            else:
                index, moment = rest.split(".")
                moments.setdefault(int(index), {})[moment] = value
    model.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for name in _SCALARS:
        setattr(state, name, manifest["state"][name])


def _remove_strays(folder: Path, files: Mapping[str, str]) -> None:
    for path in folder.glob("*.safetensors*"):
        if path.name not in files:
            path.unlink()
