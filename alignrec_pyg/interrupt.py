"""Ctrl-C and SIGTERM, deferred to a point where the state can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets :attr:`requested`.

    The second one acts at once, as does every one when inactive or outside the main thread, where
    Python allows no handlers. A signal that was ignored (by ``nohup``, say) stays ignored. Earlier
    handlers are restored at the end.
    """

    def __init__(self, *, active: bool) -> None:
        self._active = active and threading.current_thread() is threading.main_thread()
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def number(self) -> int:
        """The signal that was received; SIGTERM if none was."""
        return signal.SIGTERM if self._received is None else self._received

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self._received is not None

    def exit_if_requested(self) -> None:
        """Ends as the signal would have: by KeyboardInterrupt, or exit status 143 for SIGTERM."""
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        if self._received is not None:
            raise SystemExit(128 + self._received)

    def __enter__(self) -> StopRequest:
        if self._active:
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
