"""Tensors and manifests on disk: written atomically, read with their hashes checked.

Tensors are safetensors files (no pickle), manifests JSON. A file appears under its name only when
it is complete: it is written beside, flushed to the disk and then renamed. A store writes its
tensors first and the manifest that names them last, so an interruption leaves the old one intact.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


class CheckpointError(RuntimeError):
    """A stored file is missing, damaged or belongs to something else."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes ``tensors`` to ``path`` and returns the SHA-256 of the file."""
    with atomic_path(path) as partial:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, partial)
        return file_sha256(partial)


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Reads the tensors of ``path``.

    Raises:
        CheckpointError: If the file is missing, or its bytes are not those of ``sha256``.
    """
    check_sha256(path, sha256)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file ({error})") from error


def check_sha256(path: Path, sha256: str) -> None:
    """Makes sure that the bytes of ``path`` are those of ``sha256``.

    Raises:
        CheckpointError: If they are not, or the file is missing.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: restore it or start without the checkpoint")
    digest = file_sha256(path)
    if digest != sha256:
        raise CheckpointError(
            f"{path} is damaged or was replaced (SHA-256 {digest[:12]}..., expected "
            f"{sha256[:12]}...): restore it from a copy, or delete the folder and start anew"
        )


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; what is there at the end appears under ``path``.

    If the block fails nothing appears, and the file written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield partial
        _publish(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Writes ``manifest`` as JSON; its floats come back bit for bit."""
    _write_text(path, json.dumps(manifest, indent=2) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes ``array`` as ``.npy``, for NumPy and others to read."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``records`` as JSON, one a line."""
    _write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def read_manifest(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a manifest.

    Raises:
        CheckpointError: If the file is missing, holds no JSON object or lacks one of ``keys``.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: no checkpoint was saved there")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged (no valid JSON: {error})") from error
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{path} is damaged (expected a JSON object)")
    missing = [key for key in keys if key not in manifest]
    if missing:
        raise CheckpointError(f"{path} is damaged or of another version ({missing} are missing)")
    return manifest


def _write_text(path: Path, text: str) -> None:
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _publish(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    if os.name == "posix":  # the rename itself is safe only once the folder is on the disk
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
