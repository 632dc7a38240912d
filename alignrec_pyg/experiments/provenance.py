"""Where a result comes from: code, commit, hardware, versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch_geometric

import alignrec_pyg
from alignrec_pyg.graph import content_hash

_PACKAGE = Path(alignrec_pyg.__file__).parent
_BENCHMARKS = Path(__file__).parent
# A cell's key holds the content of its data: code that only makes the data is no part of it, nor is
# what is computed from stored rankings.
_NOT_IN_CELLS = (
    "beyond_accuracy.py",
    "datasets",
    "encoders",
    "feature_eval",
    "feature_tables.py",
    "groups.py",
    "pretraining",
    "report.py",
    "transforms",
)
_RUNS_CELLS = ("cells.py", "memory.py", "runner.py", "warm_up.py")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where and with what a cell ran.

    Args:
        commit: As :func:`commit` gives it.
        hardware: As :func:`hardware` gives it.
        versions: As :func:`versions` gives them.
    """

    commit: str | None
    hardware: str
    versions: dict[str, str]


def origin(device: torch.device) -> Origin:
    """That of a cell that runs here and now."""
    return Origin(commit=commit(), hardware=hardware(device), versions=versions())


def code_version() -> str:
    """Hash of torch's and PyG's versions and all sources that decide what a cell gives."""
    sources = [
        path
        for path in sorted(_PACKAGE.rglob("*.py"))
        if path.relative_to(_PACKAGE).parts[0] not in _NOT_IN_CELLS
    ]
    sources += [_BENCHMARKS / name for name in _RUNS_CELLS]
    parts = [str(torch.__version__), torch_geometric.__version__]
    for source in sources:
        parts += [source.name, source.read_text(encoding="utf-8")]
    return content_hash(*parts)


def commit() -> str | None:
    """The git commit of the checkout, ``+ changes`` where files differ; ``None`` outside of one."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [git, "-C", str(_BENCHMARKS), *arguments], capture_output=True, text=True, check=False
        )

    head = ask("rev-parse", "--verify", "HEAD")
    if head.returncode:
        return None
    changed = ask("status", "--porcelain", "--untracked-files=no").stdout.strip()
    return head.stdout.strip() + (" + changes" if changed else "")


def versions() -> dict[str, str]:
    """Versions of what computes."""
    return {
        "alignrec_pyg": alignrec_pyg.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torch_geometric": torch_geometric.__version__,
        "numpy": np.__version__,
    }


def hardware(device: torch.device) -> str:
    """Processor, cores, threads and, on CUDA, the GPU."""
    text = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        text = f"{torch.cuda.get_device_name(device)}; {text}"
    return text


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
