"""Single files: tensors, texts, records and arrays, and the SHA-256 by which they are checked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignrec_pyg.atomic import atomic_path

_OS_ERROR = re.compile(r"os error (\d+)")

Content = Mapping[str, Tensor] | Callable[[Path], object]
"""Tensors by name, or a function that writes a file."""


class CheckpointError(RuntimeError):
    """A stored file is missing, damaged or belongs to something else."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes ``tensors`` to ``path`` and returns the SHA-256 of the file."""
    with atomic_path(path) as partial:
        return write_content(partial, tensors)


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
    """Checks that the bytes of ``path`` are those of ``sha256``.

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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text file, such as a table for people."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``records`` as JSON, one a line."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes ``array`` as ``.npy``, for NumPy and others to read."""
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def write_content(path: Path, content: Content) -> str:
    """Writes a file, not atomically, and returns its SHA-256.

    Raises:
        OSError: If the file cannot be written, instead of an error of safetensors.
    """
    if not isinstance(content, Mapping):
        content(path)
        return file_sha256(path)
    path.touch()
    mode = path.stat().st_mode  # follows the umask; safetensors lets nobody else read its files
    stored: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in content.items():
        value = tensor.detach().contiguous()
        if value.untyped_storage().data_ptr() in memory:  # tied weights, which it refuses
            value = value.clone()
        memory.add(value.untyped_storage().data_ptr())
        stored[name] = value
    try:
        save_file(stored, path)
    except SafetensorError as error:
        found = _OS_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found.group(1))
        raise OSError(number, os.strerror(number), str(path)) from error
    path.chmod(mode)
    return file_sha256(path)
