"""Where a result comes from: code, commit, hardware, versions."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch_geometric

import alignrec_pyg
from alignrec_pyg.graph import content_hash

_HERE = Path(__file__).parent
_PACKAGE = "alignrec_pyg"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where and with what a cell ran; ``commit`` is ``None`` outside of a checkout."""

    commit: str | None
    hardware: str
    versions: dict[str, str]


def origin(device: torch.device) -> Origin:
    """The origin of a cell that runs in this process."""
    return Origin(commit=commit(), hardware=hardware(device), versions=versions())


def code_version(*modules: str) -> str:
    """Hash of the :func:`code_hash` of some modules and the versions of torch and PyG."""
    versions = (str(torch.__version__), torch_geometric.__version__)
    return content_hash(*versions, code_hash(*modules))


def code_hash(*modules: str) -> str:
    """Hash of the code of some modules and of all that they import, on any version of Python.

    Imports are followed within this package and, from a module of somebody's own, into modules of
    its folder. A name that a package only passes on counts as an import of the module that defines
    it. Comments and docstrings do not count.
    """
    folders = {Path(file).parent for name in modules if (file := _file_of(name.split(".")[0]))}
    digests: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        top = _file_of(name.split(".")[0])
        if name in digests or file is None or top is None:
            continue
        if name.split(".")[0] != _PACKAGE and Path(top).parent not in folders:
            continue
        digests[name], imported = _read_source(file, name)
        waiting += imported
    return content_hash(*sorted(digests.values()))


@cache
def _file_of(name: str) -> str | None:
    """The source file of a module; ``None`` if there is none."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return None if spec is None or not spec.has_location else spec.origin


@cache
def _read_source(file: str, name: str) -> tuple[str, list[str]]:
    """Hash of a file's code without comments and docstrings, and the modules that it imports."""
    if not file.endswith(".py"):
        return content_hash(Path(file).name), []
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    for node in list(ast.walk(tree)):
        for block in ("body", "orelse", "finalbody"):
            if isinstance(statements := getattr(node, block, None), list):
                setattr(node, block, [one for one in statements if not _is_no_code(one)])
    package = name if Path(file).stem == "__init__" else name.rpartition(".")[0]
    imported: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            source = importlib.util.resolve_name(source, package) if node.level else source
            imported += [_defining_module(source, alias.name) for alias in node.names]
    return content_hash(_dump(tree)), imported


def _dump(node: object) -> str:
    """The tree without empty fields, of which versions of Python know more or fewer."""
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [
        f"{name}={_dump(value)}"
        for name, value in ast.iter_fields(node)
        if value is not None and value != []
    ]
    return f"{type(node).__name__}({', '.join(fields)})"


def _is_no_code(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or a block of imports for type checkers only."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return isinstance(node.value.value, str)
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _defining_module(source: str, name: str) -> str:
    """The module that ``from source import name`` comes from."""
    if source.split(".")[0] != _PACKAGE or not (_file_of(source) or "").endswith("__init__.py"):
        return source
    found = getattr(importlib.import_module(source), name, None)
    if isinstance(found, ModuleType):
        return found.__name__
    return getattr(found, "__module__", None) or source


def commit() -> str | None:
    """The git commit of the checkout, ``+ changes`` where files differ; ``None`` outside of one."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [git, "-C", str(_HERE), *arguments], capture_output=True, text=True, check=False
        )

    head = ask("rev-parse", "--verify", "HEAD")
    if head.returncode:
        return None
    changed = ask("status", "--porcelain", "--untracked-files=no").stdout.strip()
    return head.stdout.strip() + (" + changes" if changed else "")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that compute."""
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
