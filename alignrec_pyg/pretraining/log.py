"""Curves for TensorBoard."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any


class RunLog:
    """Writes entries as curves, where TensorBoard is installed; nothing elsewhere.

    Args:
        folder: Where the run is saved; its events go to ``tensorboard`` in it. ``None`` writes
            nothing.
        step: Steps done; later points, of steps that were lost to an interruption, are dropped.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._writer: Any = None
        if folder is not None and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, entry: dict[str, float]) -> None:
        """Adds a point to the curve of each value of ``entry`` at its ``step``."""
        if self._writer is None:
            return
        for name, value in entry.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(entry["step"]))

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
