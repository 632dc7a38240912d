"""One line of progress: a bar on a terminal, a line a minute where there is none."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_LINE_SECONDS = 60.0
_REDRAW_SECONDS = 0.1


class Progress:
    """Shows the progress of some work and the time left, on standard error."""

    def __init__(self, name: str, *, shown: bool = True) -> None:
        self._name = name
        self._shown = shown
        self._bar: tqdm[None] | None = None
        self._next = 0.0

    def __enter__(self) -> Progress:
        if self._shown and sys.stderr.isatty():
            form = "{desc} {percentage:3.0f}%|{bar}|{postfix}"
            self._bar = tqdm(total=1.0, desc=self._name, bar_format=form, dynamic_ncols=True)
        self._next = time.monotonic() + (0.0 if self._bar is not None else _LINE_SECONDS)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, share: float, seconds_left: float | None, text: str) -> None:
        """Shows the share done, if the last update is long enough ago."""
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        left = "" if seconds_left is None else f"about {duration(seconds_left)} left, "
        if self._bar is None:
            self._next = now + _LINE_SECONDS
            print(f"{self._name}: {share:.0%} done, {left}{text}", file=sys.stderr, flush=True)  # noqa: T201
            return
        self._next = now + _REDRAW_SECONDS
        self._bar.n = min(share, 1.0)
        self._bar.set_postfix_str(f"{left}{text}", refresh=True)


def duration(seconds: float) -> str:
    """Seconds as minutes and seconds, or as hours and minutes."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600} h {whole % 3600 // 60:02d}"
