"""Time spent on a run."""

from __future__ import annotations

import time


class RunClock:
    """Seconds spent on a run, those before an interruption included, and since its last save.

    Args:
        before: Seconds spent before.
        save_every: Seconds between saves.
    """

    def __init__(self, before: float, save_every: float) -> None:
        self._before = before
        self._save_every = save_every
        self._start = self._saved = time.monotonic()

    def elapsed(self) -> float:
        """Seconds spent in all."""
        return self._before + time.monotonic() - self._start

    def save_is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved >= self._save_every

    def saved(self) -> None:
        """Notes a save."""
        self._saved = time.monotonic()
