"""How files are written, checked, found again, locked and cleared away.

- **Whole or not at all:** a file is written under a private name beside its own
  (``.alignrec-<process>-<random>.part``), flushed to the disk and then renamed. What a killed
  process leaves has such a name, and nothing else is ever cleared away by it.
- **Checked:** tensors are safetensors files (no pickle). A manifest, in JSON, holds their SHA-256,
  its own, and the version of its format. Tensors are written first and the manifest that names
  them last, so an interruption leaves the old ones intact.
- **Locked:** :func:`folder_lock` keeps a folder, or something in it, to one process.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_PARTIAL = ".alignrec-{}-{}.part"
_STRAY_SECONDS = 3600
_VERSION = "format_version"
_HASH = "manifest_sha256"


class CheckpointError(RuntimeError):
    """A stored file is missing, damaged or belongs to something else."""


class LockedError(RuntimeError):
    """Another process works on the same thing."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes ``tensors`` to ``path`` and returns the SHA-256 of the file."""
    with atomic_path(path) as partial:
        return _save(partial, tensors)


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


def write_manifest(path: Path, manifest: Mapping[str, Any], *, version: int = 1) -> None:
    """Writes ``manifest`` as JSON, with the version of its format and a hash of all of it.

    Its floats come back bit for bit. The version is raised with each change after which older files
    cannot be read.
    """
    body = json.loads(json.dumps({_VERSION: version, **manifest}))  # keys and tuples as read
    write_text(path, json.dumps({**body, _HASH: _json_sha256(body)}, indent=2) + "\n")


def read_manifest(path: Path, keys: Sequence[str] = (), *, version: int = 1) -> dict[str, Any]:
    """Reads what :func:`write_manifest` wrote, in that version and with these keys.

    Raises:
        CheckpointError: If the file is missing, damaged or of another version, or lacks a key.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: no checkpoint was saved there")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged (no valid JSON: {error})") from error
    if not isinstance(body, dict):
        raise CheckpointError(f"{path} is damaged (expected a JSON object)")
    found, sha256 = body.get(_VERSION), body.pop(_HASH, None)
    if sha256 is not None and sha256 != _json_sha256(body):
        raise CheckpointError(
            f"{path} is damaged or was edited (its content does not have the hash in it): restore "
            "it from a copy, or delete it and start anew"
        )
    if found != version or sha256 is None:
        earlier = "an earlier format" if sha256 is None else f"format {found!r}"
        raise CheckpointError(
            f"{path} is of {earlier}, this version of alignrec_pyg reads format {version}: use the "
            "version that wrote it, or make it anew"
        )
    del body[_VERSION]
    missing = [key for key in keys if key not in body]
    if missing:
        raise CheckpointError(f"{path} holds something else ({missing} are missing)")
    return body


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


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; what is there at the end appears under ``path``.

    If the block fails nothing appears, and the file written is removed.
    """
    with _private_path(path.parent) as partial:
        yield partial
        _publish(partial, path)


def store_tensors(
    folder: Path, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Keeps ``tensors`` and ``facts`` (anything JSON can hold) in a cache under ``key``.

    Readers and other writers of the same key never meet half of it: the tensors' file is named by
    its content, and the manifest that names the file is written last.
    """
    with _private_path(folder) as partial:
        sha256 = _save(partial, {name: tensor.cpu() for name, tensor in tensors.items()})
        _publish(partial, _cached_tensors(folder, key, sha256))
    write_manifest(folder / f"{key}.json", {"sha256": sha256, "facts": dict(facts or {})})


def load_tensors(
    folder: Path, key: str, what: str
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What a cache holds under ``key``: tensors and facts.

    ``None`` if there is nothing yet, or ``what`` is damaged (with a warning).
    """
    path = folder / f"{key}.json"
    if not path.exists():
        return None
    try:
        manifest = read_manifest(path, ("sha256", "facts"))
        sha256 = manifest["sha256"]
        return read_tensors(_cached_tensors(folder, key, sha256), sha256), manifest["facts"]
    except (CheckpointError, OSError) as error:
        warnings.warn(f"rebuilding {what}: {error}", stacklevel=2)
        return None


def remove_partial_files(folder: Path, *, older_than: float = _STRAY_SECONDS) -> None:
    """Removes the half-written files that killed processes left in ``folder``, if it is there.

    Another process may still write a file that was changed less than ``older_than`` seconds ago; in
    a folder that is locked none does, so there it may be 0.
    """
    for path in folder.glob(_PARTIAL.format("*", "*")):
        try:
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink()
        except FileNotFoundError:  # another process was quicker
            continue


@contextmanager
def folder_lock(folder: Path, name: str = "", *, wait: float | None = None) -> Iterator[None]:
    """Keeps a folder, or what goes by a name in it, to one process while the block runs.

    The lock is the operating system's: it is free as soon as its process ends, however it ends.
    Its file, ``.<name>.lock``, stays. A folder that is not there is made. ``wait`` is how many
    seconds to wait for another process; ``None`` means for as long as it takes.

    Raises:
        LockedError: If another process has it after that time; says which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f".{name}" if name else ""
    lock_file = folder / f"{stem}.lock"
    lock_file.touch()  # by filelock it would be its maker's alone to write, whatever the umask
    lock = FileLock(lock_file, timeout=-1 if wait is None else wait)
    holder = folder / f"{stem}.holder"  # a locked file itself cannot be read on Windows
    try:
        lock.acquire()
    except Timeout:
        raise LockedError(
            f"{folder / name} is in use by {_read_holder(holder)}: wait for it, end it, or choose "
            "another folder"
        ) from None
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:  # it has just taken the lock, or just left
        return "another process"


def _save(path: Path, tensors: Mapping[str, Tensor]) -> str:
    path.touch()
    mode = path.stat().st_mode  # follows the umask; safetensors lets nobody else read its files
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(mode)
    return file_sha256(path)


def _cached_tensors(folder: Path, key: str, sha256: str) -> Path:
    return folder / f"{key}-{sha256[:12]}.safetensors"


def _json_sha256(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@contextmanager
def _private_path(folder: Path) -> Iterator[Path]:
    """A new name to write to; the file is removed at the end if it is still there."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / _PARTIAL.format(os.getpid(), secrets.token_hex(4))
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _publish(partial: Path, path: Path) -> None:
    with partial.open("r+b") as file:  # Windows flushes only what may be written to
        os.fsync(file.fileno())
    partial.replace(path)
    if os.name == "posix":  # the rename itself is safe only once the folder is on the disk
        parent = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
