"""The state of a training run, saved to and restored from a folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignrec_pyg.atomic import folder_lock, remove_partial_files
from alignrec_pyg.fingerprint import check_fingerprints
from alignrec_pyg.storage import (
    CheckpointError,
    clear_replaced,
    read_manifest,
    read_with_files,
    remove_with_files,
    write_with_files,
)

_MANIFEST = "state.json"
_KEYS = {"run": dict, "state": dict}
_LAST, _BEST = "last.safetensors", "best.safetensors"
_FINGERPRINTS = "fingerprints.safetensors"
_LATER = ("cpu_seconds", "stopped_early")  # fields that states of earlier versions lack
_LOCK_SECONDS = 30.0
_PAUSE = 20  # times the duration of a save until the next one: saving takes 5 % of the time at most


@dataclass
class RunState:
    """The progress of training, beside the weights and the optimiser.

    Subclasses add the fields that their kind of training needs, with values for JSON.
    """

    epoch: int = 0  # epochs done
    step: int = 0  # batches done in the present epoch
    finished: bool = False
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of this process, all its threads together
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0  # from 1; 0 before the first
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # if they are kept


@dataclass
class TrainState(RunState):
    """The progress of training a recommender."""

    loss_sums: dict[str, float] = field(default_factory=dict)  # over the present epoch's batches
    best_metrics: dict[str, float] = field(default_factory=dict)
    num_stale: int = 0  # evaluations in turn since the best one
    total_steps: int = 0  # batches done in all
    stopped_early: bool = False  # whether patience ended it
    loss_scale: dict[str, float] = field(default_factory=dict)  # state of the gradient scaler


class RunClock:
    """Time spent on a run, including before interruptions, and since its last save.

    Args:
        state: State of the run, with the seconds spent before.
        save_every: Seconds from one save to the next; longer where a save takes more than a
            twentieth of them. With 0 a save is always due.
    """

    def __init__(self, state: RunState, save_every: float) -> None:
        self._state = state
        self._save_every = self._pause = save_every
        self._saved = time.monotonic()
        self._start = self._saved - state.seconds
        self._cpu_start = time.process_time() - state.cpu_seconds

    def stamp(self) -> None:
        """Stores the total seconds, of the clock and of the processor, in the state."""
        self._state.seconds = time.monotonic() - self._start
        self._state.cpu_seconds = time.process_time() - self._cpu_start

    def save_is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved >= self._pause

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A context in which the state is saved."""
        begun = time.monotonic()
        yield
        self._saved = time.monotonic()
        if self._save_every > 0:
            self._pause = max(self._save_every, _PAUSE * (self._saved - begun))


@contextmanager
def run_lock(folder: Path | None) -> Iterator[None]:
    """Locks the folder of a run for this process; does nothing without a folder.

    Files that a killed process left there are removed.

    Raises:
        LockedError: If another process works there; one that was killed may do so for some seconds.
    """
    if folder is None:
        yield
        return
    with folder_lock(folder, wait=_LOCK_SECONDS):
        remove_partial_files(folder)
        clear_replaced(folder / _MANIFEST)
        yield


def save(
    folder: Path,
    run: dict[str, Any],
    state: RunState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fingerprints: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the state; the previous one stays complete until the last step.

    ``fingerprints`` identify the tables and graphs that are trained on.
    """
    path = folder / _MANIFEST
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    contents: dict[str, Mapping[str, Tensor]] = {_LAST: tensors | _optimizer_tensors(optimizer)}
    unchanged: list[str] = []
    if fingerprints is not None:
        contents[_FINGERPRINTS] = fingerprints
        unchanged.append(_FINGERPRINTS)
    if state.best_weights:
        contents[_BEST] = state.best_weights
        if path.exists() and read_manifest(path, _KEYS)["state"]["best_epoch"] == state.best_epoch:
            unchanged.append(_BEST)
    told = {name: getattr(state, name) for name in _told(state)}
    write_with_files(path, {"run": run, "state": told}, contents, unchanged=unchanged)


def restore(
    folder: Path,
    run: dict[str, Any] | None,
    state: RunState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    fingerprints: Mapping[str, Tensor] | None = None,
) -> None:
    """Reads a saved state into ``state``, ``model`` and ``optimizer``, if there is one.

    Without ``run`` the state of any run is accepted; without ``optimizer`` its state is ignored.
    Tables and graphs may differ from the ``fingerprints`` by rounding only, with a warning.

    Raises:
        CheckpointError: If files are missing or damaged, or belong to another run.
    """
    path = folder / _MANIFEST
    if not path.exists():
        return
    if run is not None:
        _check_same_run(folder, read_manifest(path, _KEYS)["run"], run)
    manifest, files = read_with_files(path, _KEYS, [_LAST])
    stored = files[_LAST]
    if fingerprints is not None:
        check_fingerprints(folder, files.get(_FINGERPRINTS, {}), fingerprints)
    try:
        for name in _told(state):
            if name in _LATER and name not in manifest["state"]:
                continue
            value, kind = manifest["state"][name], type(getattr(state, name))
            if kind is not type(None) and not isinstance(value, kind):
                raise TypeError(f"{name} needs to be a {kind.__name__}")
            setattr(state, name, value)
        if _BEST in files:
            device = next(iter(model.state_dict().values())).device
            state.best_weights = {n: value.to(device) for n, value in files[_BEST].items()}
        prefix = "model."
        weights = {n.removeprefix(prefix): v for n, v in stored.items() if n.startswith(prefix)}
        model.load_state_dict(weights)
        if optimizer is not None:
            _load_optimizer_tensors(optimizer, stored)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder} does not fit the model ({error})") from error


def saved_history(folder: Path) -> list[dict[str, float]]:
    """The history of a saved run; empty if there is none.

    Raises:
        CheckpointError: If its state is damaged.
    """
    path = folder / _MANIFEST
    if not path.exists():
        return []
    entries: list[dict[str, float]] = read_manifest(path, _KEYS)["state"]["history"]
    return entries


def discard(folder: Path) -> None:
    """Removes a saved state, and its folder if nothing else is in it (else there is a warning)."""
    remove_with_files(folder / _MANIFEST)


def _told(state: RunState) -> list[str]:
    """Fields that the manifest holds."""
    return [part.name for part in fields(state) if part.name != "best_weights"]


def _check_same_run(folder: Path, stored: dict[str, Any], run: dict[str, Any]) -> None:
    formats = stored.get("format"), run.get("format")
    # Of each of two versions there may be settings that the other does not have.
    was, now = stored.get("config"), run.get("config")
    names = sorted(was.keys() ^ now.keys()) if was and now else []
    if formats[0] != formats[1] or names:
        only = f", of only one of them are the settings {', '.join(names)}" if names else ""
        raise CheckpointError(
            f"{folder} holds a run of another version of alignrec_pyg (it is of format "
            f"{formats[0]}, this one of format {formats[1]}{only}): go on with the version that "
            "wrote it, choose another 'checkpoint_dir' or delete this one"
        )
    saved, asked = _flat(stored), _flat(run)
    differing = [
        f"  {name} {asked.get(name)} (saved {saved.get(name)})"
        for name in sorted(saved.keys() | asked.keys())
        if saved.get(name) != asked.get(name)
    ]
    if differing:
        raise CheckpointError(
            "\n".join(
                [
                    f"{folder} holds another run: choose another folder or delete this one",
                    *differing,
                ]
            )
        )


def _flat(values: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Values by name, those of dictionaries as ``config.lr``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, dict) and value
        found |= _flat(value, f"{within}{name}.") if inner else {f"{within}{name}": value}
    return found


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as ``optimizer.<parameter>.<name>``."""
    tensors = {
        f"optimizer.{index}.{name}": value
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
    }
    other = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if other:
        raise ValueError(
            f"'optimizer' needs a state of tensors to be saved ({type(optimizer).__name__} has "
            f"{other[0]} = {tensors[other[0]]!r}): take another, or leave out 'checkpoint_dir'"
        )
    return tensors


def _load_optimizer_tensors(optimizer: torch.optim.Optimizer, stored: dict[str, Tensor]) -> None:
    """Restores the tensors of :func:`_optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in stored.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
