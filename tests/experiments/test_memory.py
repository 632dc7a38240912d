import sys
import time
from pathlib import Path

import pytest
import torch

from alignrec_pyg.experiments import memory
from alignrec_pyg.experiments.memory import PeakMemory, memory_description

CPU = torch.device("cpu")
MIB = 2**20

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


@linux
@pytest.mark.parametrize("resettable", [True, False])
def test_peak_is_what_was_held_for_a_while(monkeypatch, resettable):
    if not resettable:
        monkeypatch.setattr(memory, "_CLEAR_REFS", Path("/proc/self/no_such_file"))
    kept = torch.ones(16 * MIB // 4)  # held before: not counted
    with PeakMemory(CPU) as measured:
        large = torch.ones(64 * MIB // 4)
        time.sleep(0.3)  # long enough for many samples
        del large
    assert 60 * MIB < measured.peak_bytes < 80 * MIB
    with PeakMemory(CPU) as measured:
        torch.ones(8)
    assert measured.peak_bytes < 8 * MIB  # the earlier peak is forgotten
    assert kept.numel()


def test_unmeasurable_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "missing")
    with PeakMemory(CPU) as measured:
        torch.ones(8)
    assert measured.peak_bytes is None
    assert "not measured" in memory_description(CPU)
