"""Tensors that are kept on the disk from one run to the next, found by a key."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from alignrec_pyg.graph import content_hash
from alignrec_pyg.storage import (
    CheckpointError,
    read_manifest,
    read_tensors,
    write_manifest,
    write_tensors,
)

_KEYS = ("content", "sha256", "facts", "facts_hash")
_STRAY_SECONDS = 3600
_writing = threading.Lock()  # files in the making carry the number of the process, not the thread's


def store_tensors(
    folder: Path, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Keeps ``tensors`` and ``facts`` (anything JSON can hold) under ``key``.

    Readers and other writers of the same key never meet half of it: the tensors' file is named by
    its content, and the manifest that names the file is written last.
    """
    content = content_hash(*(tensors[name] for name in sorted(tensors)))[:12]
    facts = dict(facts or {})
    with _writing:
        sha256 = write_tensors(
            _path(folder, key, content), {name: tensor.cpu() for name, tensor in tensors.items()}
        )
        manifest: dict[str, Any] = {"facts": facts, "facts_hash": _facts_hash(facts)}
        manifest |= {"content": content, "sha256": sha256}
        write_manifest(folder / f"{key}.json", manifest)


def load_tensors(
    folder: Path, key: str, what: str
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What is kept under ``key``.

    Args:
        folder: Where to look.
        key: Name it was stored under.
        what: What it is, for the warning.

    Returns:
        Tensors and facts; ``None`` if there is nothing yet, or it is damaged (with a warning).
    """
    path = folder / f"{key}.json"
    if not path.exists():
        return None
    try:
        manifest = read_manifest(path, _KEYS)
        facts = manifest["facts"]
        if manifest["facts_hash"] != _facts_hash(facts):
            raise CheckpointError(f"{path} does not hold what was written to it")
        return read_tensors(_path(folder, key, str(manifest["content"])), manifest["sha256"]), facts
    except (CheckpointError, OSError) as error:
        warnings.warn(f"rebuilding {what}: {error}", stacklevel=2)
        return None


def remove_strays(folder: Path) -> None:
    """Removes what killed processes left half written, if it is an hour old: nobody writes it."""
    for path in folder.glob("*.part"):
        try:
            if time.time() - path.stat().st_mtime > _STRAY_SECONDS:
                path.unlink()
        except FileNotFoundError:  # another process was quicker
            continue


def _path(folder: Path, key: str, content: str) -> Path:
    return folder / f"{key}-{content}.safetensors"


def _facts_hash(facts: object) -> str:
    return content_hash(json.dumps(facts, sort_keys=True))
