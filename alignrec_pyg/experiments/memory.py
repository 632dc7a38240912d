"""Peak memory of a piece of work."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_SAMPLING_SECONDS = 0.01


class PeakMemory:
    """A context that measures the peak memory above that at its beginning.

    - On CUDA: :func:`torch.cuda.max_memory_allocated`.
    - On Linux: the peak resident size of the process, as the kernel counts it, or, where the
      kernel forbids to reset that count, the largest of samples every 10 ms.
    - Elsewhere it is not measured.

    Freed memory is returned to the system first, so that earlier work does not hide the peak.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak_bytes: int | None = None
        self._device = device
        self._before = 0
        self._sampler: _Sampler | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        elif _STATUS.exists():
            _give_back_freed_memory()
            try:
                _CLEAR_REFS.write_text(_RESET_PEAK)
            except OSError:
                self._sampler = _Sampler()
                self._sampler.start()
            self._before = _resident("VmRSS")
        return self

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        elif self._sampler is not None:
            peak = self._sampler.stop()
        elif _STATUS.exists():
            peak = _resident("VmHWM")
        else:
            return
        self.peak_bytes = max(0, peak - self._before)


def memory_description(device: torch.device) -> str:
    """What :class:`PeakMemory` measures here."""
    if device.type == "cuda":
        return "peak of allocated GPU memory above that before the cell"
    if _STATUS.exists():
        return "peak of the process's resident memory above that before the cell"
    return f"peak memory is not measured on {sys.platform}"


class _Sampler(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self._peak = _resident("VmRSS")

    def run(self) -> None:
        while not self._done.wait(_SAMPLING_SECONDS):
            self._peak = max(self._peak, _resident("VmRSS"))

    def stop(self) -> int:
        self._done.set()
        self.join()
        return max(self._peak, _resident("VmRSS"))


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{_STATUS} has no {field}")


def _give_back_freed_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
