"""Results of finished cells, and the folder that stores them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignrec_pyg.atomic import LockedError, folder_lock
from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.storage import CheckpointError, read_with_files, write_with_files
from alignrec_pyg.training.state import discard

if TYPE_CHECKING:
    from alignrec_pyg.experiments.cells import Cell


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """Result of a cell: metrics of the test called ``"test"`` at the epoch best on validation.

    Everything else is computed from ``rankings``, the best items of every user with links to
    predict, by the name of the test, and the ``history`` of training, its learning curves. Epochs
    count from 1; ``seconds`` (of the clock) and ``cpu_seconds`` (of the processor) are of training
    and validation; ``peak_bytes`` does not count memory that was in use before the cell, such as
    the ``content_bytes`` of the feature tables and item graphs that it reads; ``stored`` tells
    whether it was read from the store.
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
    still_rising: bool
    seconds: float
    cpu_seconds: float
    peak_bytes: int | None
    content_bytes: int
    num_parameters: int
    rankings: dict[str, Ranking]
    history: list[dict[str, float]]
    origin: Origin
    stored: bool = False

    def summary(self) -> dict[str, Any]:
        """Everything but the rankings and the history."""
        long = ("rankings", "history")
        everything = {name: value for name, value in vars(self).items() if name not in long}
        return everything | {"origin": asdict(self.origin)}


_KEYS = {"key": str, "result": dict, "history": list, "tests": list}


class CellStore:
    """Finished cells in a folder: one JSON file and one safetensors file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoint_dir(self, cell: Cell, key: str) -> Path:
        """Folder of the state of an unfinished cell."""
        return self._path(cell, key, ".unfinished")

    @contextmanager
    def lock(self, cell: Cell, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Locks a cell for this process; the system releases the lock when the process ends.

        With ``wait`` it waits for another process that holds the lock.

        Yields: Whether this process holds the lock, which is always so with ``wait``.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(
                    folder_lock(self.folder, _stem(cell, key), wait=None if wait else 0)
                )
            except LockedError:
                ours = False
            else:
                ours = True
            yield ours

    def load(self, cell: Cell, key: str) -> CellResult | None:
        """The finished cell; ``None`` if there is none or it is damaged (with a warning)."""
        path = self._path(cell, key, ".json")
        if not path.exists():
            return None
        try:
            rankings_file = f"{path.stem}.safetensors"
            manifest, files = read_with_files(path, _KEYS, [rankings_file])
            if manifest["key"] != key:
                raise CheckpointError(f"{path} holds another cell")
            tensors = files[rankings_file]
            summary = manifest["result"]
            rankings = {
                test: Ranking(*(tensors[f"{test}.{field}"] for field in Ranking._fields))
                for test in manifest["tests"]
            }
            origin = Origin(**summary["origin"])
            read = {"rankings": rankings, "history": manifest["history"], "origin": origin}
            result = CellResult(**{**summary, **read})
        except (CheckpointError, KeyError, TypeError) as error:
            warnings.warn(
                f"{cell.row} seed {cell.seed} runs again: its stored result is damaged ({error})",
                stacklevel=2,
            )
            return None
        if self.checkpoint_dir(cell, key).exists():  # of a process killed after it had stored it
            with self.lock(cell, key, wait=False) as ours:
                if ours:
                    self.discard(cell, key)
        return replace(result, row=cell.row, stored=True)

    def save(self, cell: Cell, result: CellResult) -> None:
        """Writes a finished cell, the JSON file last, and removes its unfinished state."""
        path = self._path(cell, result.key, ".json")
        tensors = {
            f"{test}.{field}": tensor
            for test, ranking in result.rankings.items()
            for field, tensor in ranking._asdict().items()
        }
        manifest = {
            "key": result.key,
            "result": result.summary(),
            "history": result.history,
            "tests": list(result.rankings),
        }
        contents = {f"{path.stem}.safetensors": tensors}
        write_with_files(path, manifest, contents, over_damage=True)
        self.discard(cell, result.key)

    def discard(self, cell: Cell, key: str) -> None:
        """Removes the state of the unfinished cell, if there is one."""
        unfinished = self.checkpoint_dir(cell, key)
        if unfinished.exists():
            discard(unfinished)

    def _path(self, cell: Cell, key: str, suffix: str) -> Path:
        return self.folder / f"{_stem(cell, key)}{suffix}"


def _stem(cell: Cell, key: str) -> str:
    return f"{cell.name}-seed{cell.seed}-{key[:16]}"
