"""Atomic writes of files and folders, removal of what killed processes left, and locks.

A file is written to a private folder beside its final path
(``.alignrec-<host>-<process>-<random>.part``), flushed to the disk and then renamed. A killed
process leaves such a folder behind; the next write beside it removes it, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

_HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
_PRIVATE = re.compile(r"\.alignrec-(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.part")
_LOCK = re.compile(r"\.alignrec(-.+)?\.(lock|holder)")
_STRAY_SECONDS = 3600
_CLOCK_SECONDS = 60  # that the clocks of this machine and a file server may differ by
_RENAMES = 50  # tries on Windows, where nobody may have the old file open


class LockedError(RuntimeError):
    """Another process works on the same thing."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a private path to write to; at the end, the file there becomes ``path`` in one step.

    If the block fails, ``path`` stays as it was, and what was written is removed.

    Raises:
        OSError: If the file cannot be written; names ``path``.
    """
    with private_folder(path) as private:
        file = private / path.name
        yield file
        publish(file, path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a private folder to write files to; at the end it becomes ``path`` in one step.

    If ``path`` is an empty folder, the files are moved into it, one after the other. If the block
    fails, ``path`` stays as it was.

    Raises:
        ValueError: If ``path`` is a file, or a folder that is not empty.
        OSError: If something cannot be written; names ``path``.
    """
    there = path.exists()
    if there:
        remove_partial_files(path)
        if not path.is_dir() or any(path.iterdir()):
            raise ValueError(f"'folder' needs to be new or empty (got {path})")
    with private_folder(path / path.name if there else path) as private:
        made = private / path.name
        made.mkdir()
        yield made
        files = sorted(made.iterdir())
        for file in files:
            _flush(file)
        for source, target in [(file, path / file.name) for file in files if there] or [
            (made, path)
        ]:
            source.rename(target)
        _flush_folder(path.parent)


@contextmanager
def private_folder(path: Path) -> Iterator[Path]:
    """Yields a new folder beside ``path``, for what becomes ``path``; it is removed at the end.

    Folders that killed processes left beside ``path`` are removed, too. Errors in writing name
    ``path``.
    """
    folder = path.parent / f".alignrec-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partial_files(path.parent)
        folder.mkdir()
        yield folder
    except OSError as error:
        # libraries name the private file, or none
        if error.filename is None or str(folder) in str(error.filename):
            reason = error.strerror or str(error)
            if error.errno is None:
                raise OSError(f"{path} could not be written ({reason})") from error
            raise OSError(error.errno, reason, str(path)) from error
        raise
    finally:
        if folder.exists():
            _remove_private(folder)


def publish(file: Path, path: Path) -> None:
    """Flushes ``file`` to the disk and renames it to ``path``."""
    _flush(file)
    for left in reversed(range(_RENAMES)):
        try:
            file.replace(path)
            break
        except PermissionError:
            if os.name == "posix" or not left:
                raise
            time.sleep(0.02)
    _flush_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Removes the private folders of processes that have ended from ``folder``, if it exists.

    Whether a process of another host has ended is not known: its folders are removed after an hour.
    """
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        named = _PRIVATE.fullmatch(entry.name)
        if named is None or entry.is_symlink() or not entry.is_dir():
            continue
        try:
            if _is_left(entry, named):
                _remove_private(entry)
        except FileNotFoundError:  # another process was quicker
            continue


def set_aside(path: Path) -> Path:
    """Renames a file or folder that cannot be used, and returns its new path."""
    number = 1
    while os.path.lexists(kept := path.with_name(f"{path.name}.kept-{number}")):
        number += 1
    return path.rename(kept)


@contextmanager
def folder_lock(folder: Path, name: str = "", *, wait: float | None = None) -> Iterator[None]:
    """Locks a folder, or ``name`` within it, for this process while the block runs.

    The operating system releases the lock when the process ends, however it ends. The lock file,
    ``.alignrec-<name>.lock``, stays. A missing folder is created. ``wait`` is how many seconds to
    wait for another process; ``None`` waits for as long as it takes.

    Raises:
        LockedError: If another process still holds the lock after that time; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f".alignrec-{name}" if name else ".alignrec"
    lock_file = folder / f"{stem}.lock"
    lock_file.touch()  # created by filelock, only its owner could write to it, whatever the umask
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
        with suppress(OSError):  # a full disk is reported by whoever writes more than a name
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def remove_empty(folder: Path) -> None:
    """Removes a folder that holds nothing but locks and what killed processes left.

    Where it holds something else it stays, with a warning.
    """
    remove_partial_files(folder)
    others = [entry.name for entry in folder.iterdir() if not _LOCK.fullmatch(entry.name)]
    if others:
        warnings.warn(f"{folder} is left: nobody here wrote {sorted(others)[:3]}", stacklevel=3)
        return
    for entry in folder.iterdir():
        entry.unlink()
    folder.rmdir()


def _read_holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") or "another process"
    except OSError:  # it has just taken the lock, or just left
        return "another process"


def _is_left(entry: Path, named: re.Match[str]) -> bool:
    """Whether the process that made a private folder has ended, as far as can be known."""
    written = max(path.lstat().st_mtime for path in (entry, *entry.rglob("*")))
    if named["host"] == _HOST:
        try:
            maker = psutil.Process(int(named["process"]))
            # The number may be another process's by now; in containers it soon is.
            later = maker.create_time() > written + _CLOCK_SECONDS
            return later or maker.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False
    return time.time() - written >= _STRAY_SECONDS


def _remove_private(folder: Path) -> None:
    """Removes a private folder, and the files and folders of files that were written to it."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    for entry in folder.iterdir():
        _remove_private(entry)
    folder.rmdir()


def _flush(file: Path) -> None:
    with file.open("r+b") as opened:  # Windows flushes only what may be written to
        os.fsync(opened.fileno())


def _flush_folder(folder: Path) -> None:
    """A rename is safe only once its folder is on the disk."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
