"""Peak memory of a piece of work, and a run beforehand that loads what loads when first used."""

from __future__ import annotations

import ctypes
import gc
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.evaluation.ranking import rank
from alignrec_pyg.graph import ITEM, feature_key
from alignrec_pyg.models import AlignRec
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training.loop import fit
from alignrec_pyg.transforms import KNNItemGraph, SplitInteractions

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_SAMPLING_SECONDS = 0.01


class PeakMemory:
    """While entered, follows the peak memory above that at entry.

    - On CUDA: :func:`torch.cuda.max_memory_allocated`.
    - On Linux: the peak resident size of the process, as the kernel counts it, or, where the
      kernel forbids to reset that count, the largest of samples every 10 ms.
    - Elsewhere it is not measured.

    Freed memory is given back before, so that earlier work does not hide the peak.

    Args:
        device: Where the work runs.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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


_USERS, _ITEMS, _LINKS = 60, 80, 900
_TABLE = "noise"
_GRAPH = "cosine"


def warm_up(device: torch.device) -> None:
    """Trains and scores AlignRec for one epoch on a tiny data set, checkpoint included.

    Args:
        device: Where the cells run.
    """
    train, val, test = (part.to(str(device)) for part in _tiny_data())
    model = AlignRec(train, features=[_TABLE], item_graph=_GRAPH).to(device)
    with tempfile.TemporaryDirectory() as folder:
        fit(model, train, val, TrainConfig(max_epochs=1), checkpoint_dir=folder)
    rank(model, test)


def _tiny_data() -> tuple[HeteroData, HeteroData, HeteroData]:
    data = Synthetic(_USERS, _ITEMS, _LINKS, num_topics=2, image_size=4).data
    del data[ITEM]["text"], data[ITEM]["image"]
    generator = torch.Generator().manual_seed(0)
    data[ITEM][feature_key(_TABLE)] = torch.randn(_ITEMS, 8, generator=generator)
    data = KNNItemGraph(_TABLE, weighting="cosine", name=_GRAPH)(data)
    return SplitInteractions("random")(data)
