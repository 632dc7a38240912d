"""The state of a pre-training run, and its way to the disk and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignrec_pyg.checkpoint import (
    read_manifest,
    read_tensors,
    write_manifest,
    write_records,
    write_tensors,
)
from alignrec_pyg.train_state import (
    check_same_run,
    load_optimizer_tensors,
    optimizer_tensors,
    remove_strays,
)

_MANIFEST = "state.json"
_HISTORY = "history.jsonl"
_KEYS = ("run", "state", "files")


@dataclass
class PretrainState:
    """Where pre-training stands, beside weights and optimiser.

    Args:
        epoch: Epochs done.
        step: Steps done in the current epoch.
        sums: Sums of terms, counts and the rest since the last entry of the history.
        finished: Whether training has ended.
        seconds: Time spent.
        history: One entry every few steps and one at the end of an epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    finished: bool = False
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def save(
    folder: Path,
    run: dict[str, Any],
    state: PretrainState,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Writes the state; until the last step the previous one stays whole."""
    name = f"last-{state.epoch:06d}-{state.step:06d}.safetensors"
    tensors = {f"objective.{key}": value for key, value in objective.state_dict().items()}
    files = {name: write_tensors(folder / name, tensors | optimizer_tensors(optimizer))}
    write_manifest(folder / _MANIFEST, {"run": run, "state": asdict(state), "files": files})
    write_records(folder / _HISTORY, state.history)
    remove_strays(folder, files)


def restore(
    folder: Path,
    run: dict[str, Any],
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> PretrainState:
    """Reads a saved state into ``objective`` and ``optimizer``; a fresh one if there is none.

    Raises:
        CheckpointError: If files are missing or damaged, or belong to another run.
    """
    if not (folder / _MANIFEST).exists():
        return PretrainState()
    manifest = read_manifest(folder / _MANIFEST, _KEYS)
    check_same_run(folder, manifest["run"], run)
    remove_strays(folder, manifest["files"])
    for name, sha256 in manifest["files"].items():
        stored = read_tensors(folder / name, sha256)
        objective.load_state_dict(
            {
                key.removeprefix("objective."): value
                for key, value in stored.items()
                if key.startswith("objective.")
            }
        )
        load_optimizer_tensors(optimizer, stored)
    return PretrainState(**manifest["state"])
