"""A manifest and the files that it lists, which are written and removed together."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alignrec_pyg.atomic import private_folder, publish, remove_empty
from alignrec_pyg.storage.manifest import read_body, read_manifest, write_manifest
from alignrec_pyg.storage.single_files import (
    CheckpointError,
    Content,
    check_sha256,
    file_sha256,
    read_tensors,
    write_content,
)

_LISTED = re.compile(r"(?P<stem>[\w.-]+)-(?P<digits>[0-9a-f]{16})(?P<suffix>\.[a-z]+)")
_FILES = "files"


def write_with_files(
    path: Path,
    manifest: Mapping[str, Any],
    contents: Mapping[str, Content],
    *,
    unchanged: Sequence[str] = (),
    over_damage: bool = False,
) -> None:
    """Writes files, then the manifest ``path`` that lists them, and removes the previous files.

    The content ``"model.safetensors"`` becomes the file ``model-<16 digits of its
    SHA-256>.safetensors``. For names in ``unchanged`` the file that the present manifest lists is
    kept, if it is intact. Only one process at a time may write
    (:func:`~alignrec_pyg.atomic.folder_lock`).

    Raises:
        CheckpointError: If ``path`` exists and is not an intact manifest, except with
            ``over_damage``.
        OSError: If something cannot be written; the previous files stay complete.
    """
    folder = path.parent
    clear_replaced(path)
    try:
        before = files_of(path)
    except CheckpointError:
        if not over_damage:
            raise
        before = {}
    files = {
        name: sha256
        for name, sha256 in before.items()
        if _call(name) in unchanged and _is_whole(folder / name, sha256)
    }
    kept = {_call(name) for name in files}
    try:
        with ExitStack() as stack:
            made: dict[str, Path] = {}
            for call in contents.keys() - kept:
                file = stack.enter_context(private_folder(folder / call)) / call
                sha256 = write_content(file, contents[call])
                name = f"{file.stem}-{sha256[:16]}{file.suffix}"
                files[name], made[name] = sha256, file
            # Until the manifest lists the new files, this note says that they are ours.
            new = {name: files[name] for name in made if name not in before}
            write_manifest(pending(path), {"old": {**_noted(path), **before}, "new": new})
            for name, file in made.items():
                publish(file, folder / name)
        write_manifest(path, {**manifest, _FILES: files})
    finally:
        clear_replaced(path)


def read_with_files(
    path: Path, keys: Mapping[str, type], needed: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what :func:`write_with_files` wrote: the manifest, and the contents by their names.

    The content of a safetensors file is its tensors, that of another file its path.

    Raises:
        CheckpointError: If a file is missing or damaged, or something else is stored.
    """
    while True:
        manifest = read_manifest(path, {**keys, _FILES: dict})
        try:
            return manifest, _read_files(path, manifest[_FILES], needed)
        except (CheckpointError, FileNotFoundError):
            # Another process may have replaced all files meanwhile.
            if read_manifest(path) == manifest:
                raise


def files_of(path: Path) -> dict[str, Any]:
    """The files that a manifest of any version lists, with their SHA-256; empty without a manifest.

    Raises:
        CheckpointError: If it is damaged, or holds something else.
    """
    if not path.exists():
        return {}
    files = read_body(path).get(_FILES)
    if not isinstance(files, dict):
        raise CheckpointError(f"{path} holds something else (it lists no files)")
    return files


def clear_replaced(path: Path) -> None:
    """Removes what :func:`write_with_files` wrote or replaced, except what ``path`` lists.

    They are known from a note that is written first, also if the process is killed later. If the
    manifest is damaged, nothing is removed.
    """
    note = pending(path)
    if not note.exists():
        return
    try:
        listed = read_manifest(note, {"old": dict, "new": dict})
        # Without a manifest it is not known why the files that it listed are there.
        ours = listed["new"] | (listed["old"] if path.exists() else {})
        valid = files_of(path)
    except CheckpointError as error:
        warnings.warn(f"files beside {path} are left: {error}", stacklevel=2)
        return
    try:
        remove_listed(path.parent, {n: sha256 for n, sha256 in ours.items() if n not in valid})
    except PermissionError:  # on Windows a file is being read: the next call removes it
        return
    note.unlink(missing_ok=True)


def remove_listed(
    folder: Path, listed: Mapping[str, Any], names: re.Pattern[str] = _LISTED
) -> None:
    """Removes files of ``folder`` that an intact manifest listed, by name with their SHA-256.

    Only regular files directly in the folder are removed, if their name matches ``names`` (default:
    those of :func:`write_with_files`) and their content is as listed. Other files with such a name
    stay, with a warning.
    """
    for name, sha256 in listed.items():
        path = folder / name
        ours = _is_listable(name, sha256) if names is _LISTED else names.fullmatch(name)
        if ours and not os.path.lexists(path):
            continue
        if ours and _is_whole(path, sha256):
            path.unlink(missing_ok=True)
        else:
            warnings.warn(f"{path} is left: it is not, or no longer, what was saved", stacklevel=2)


def remove_with_files(path: Path) -> None:
    """Removes a manifest and the files that it lists, and its folder if nothing else is in it.

    Other files, and those of a damaged manifest, stay, with a warning.
    """
    remove_manifest(path)
    remove_empty(path.parent)


def remove_manifest(path: Path) -> None:
    """Removes a manifest and the files that it lists, as :func:`remove_with_files`."""
    try:
        clear_replaced(path)
        remove_listed(path.parent, files_of(path))
    except CheckpointError as error:
        warnings.warn(f"files beside {path} are left: {error}", stacklevel=3)
    else:
        path.unlink(missing_ok=True)


def pending(path: Path) -> Path:
    """The note of the files that are about to be written, before the manifest lists them."""
    return path.with_name(f".alignrec-{path.name}.pending")


def _noted(path: Path) -> dict[str, Any]:
    """The files that :func:`clear_replaced` could not remove yet."""
    try:
        listed = read_manifest(pending(path), {"old": dict, "new": dict})
    except CheckpointError:  # as a rule there is no note
        return {}
    return {**listed["old"], **listed["new"]}


def _read_files(path: Path, listed: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
    contents: dict[str, Any] = {}
    for name, sha256 in listed.items():
        if not _is_listable(name, sha256):
            raise CheckpointError(f"{path} holds something else (it lists the file {name!r:.80})")
        file = path.parent / name
        if file.suffix == ".safetensors":
            contents[_call(name)] = read_tensors(file, sha256)
        else:
            check_sha256(file, sha256)
            contents[_call(name)] = file
    missing = [call for call in needed if call not in contents]
    if missing:
        raise CheckpointError(f"{path} holds something else (it lists no {missing[0]})")
    return contents


def _is_whole(path: Path, sha256: Any) -> bool:
    """Whether it is a regular file with this content."""
    return path.is_file() and not path.is_symlink() and file_sha256(path) == sha256


def _is_listable(name: str, sha256: Any) -> bool:
    """Whether :func:`write_with_files` would give this name."""
    named = _LISTED.fullmatch(name)
    return named is not None and isinstance(sha256, str) and sha256[:16] == named["digits"]


def _call(name: str) -> str:
    """The name of a listed file in the ``contents`` that it was written from."""
    named = _LISTED.fullmatch(name)
    return name if named is None else named["stem"] + named["suffix"]
