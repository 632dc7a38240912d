"""How what belongs together is written, checked, found again and cleared away.

- **Checked:** tensors are safetensors files (no pickle). A manifest, in JSON, holds the SHA-256 of
  its files, its own, and the version of its format. It is written last, so an interruption leaves
  what was there whole.
- **Cleared away, when what is new is whole:** regular files that an intact manifest lists, if
  their names and content are still those that it lists. Everything else is somebody's own and
  stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignrec_pyg.atomic import atomic_path, folder_lock, private_folder, publish, remove_empty

_LISTED = re.compile(r"(?P<stem>[\w.-]+)-(?P<digits>[0-9a-f]{16})(?P<suffix>\.[a-z]+)")
_OS_ERROR = re.compile(r"os error (\d+)")
_FORMAT = 2
_VERSION = "format_version"
_HASH = "manifest_sha256"
_FILES = "files"

Content = Mapping[str, Tensor] | Callable[[Path], object]
"""Tensors by name, or a function that writes a file."""


class CheckpointError(RuntimeError):
    """A stored file is missing, damaged or belongs to something else."""


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


def write_manifest(path: Path, manifest: Mapping[str, Any], *, version: int = _FORMAT) -> None:
    """Writes ``manifest`` as JSON, with the version of its format and a hash of all of it.

    Its floats come back bit for bit. The version is raised with each change after which older files
    cannot be read.
    """
    body = json.loads(json.dumps({_VERSION: version, **manifest}))  # keys and tuples as read
    write_text(path, json.dumps({**body, _HASH: _json_sha256(body)}, indent=2) + "\n")


def read_manifest(
    path: Path, keys: Mapping[str, type] | None = None, *, version: int = _FORMAT
) -> dict[str, Any]:
    """Reads what :func:`write_manifest` wrote, in that version and with ``keys`` of these types.

    Raises:
        CheckpointError: If the file is missing, damaged, of another version or something else.
    """
    body = _read_body(path)
    found = body.pop(_VERSION, None)
    if found != version:
        raise CheckpointError(
            f"{path} is of format {found!r}, this version of alignrec_pyg reads format {version}: "
            "use the version that wrote it, or make it anew"
        )
    for key, kind in (keys or {}).items():
        if key not in body:
            raise CheckpointError(f"{path} holds something else ({key!r} is missing)")
        if not isinstance(body[key], kind):
            raise CheckpointError(
                f"{path} holds something else ({key!r} needs to be a {kind.__name__}, got "
                f"{type(body[key]).__name__})"
            )
    return body


def write_with_files(
    path: Path,
    manifest: Mapping[str, Any],
    contents: Mapping[str, Content],
    *,
    version: int = _FORMAT,
    unchanged: Sequence[str] = (),
    over_damage: bool = False,
) -> None:
    """Writes files, then the manifest ``path`` that lists them, and clears those before away.

    What is called ``"model.safetensors"`` in ``contents`` becomes the file
    ``model-<16 digits of its SHA-256>.safetensors``. Of names in ``unchanged`` the file that the
    present manifest lists is kept, if it is whole. One process at a time may write
    (:func:`~alignrec_pyg.atomic.folder_lock`).

    Raises:
        CheckpointError: If ``path`` is there and no intact manifest, except with ``over_damage``.
        OSError: If something cannot be written; what was there stays whole.
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
                sha256 = _save(file, contents[call])
                name = f"{file.stem}-{sha256[:16]}{file.suffix}"
                files[name], made[name] = sha256, file
            # Until the manifest lists them, this says that they are ours.
            new = {name: files[name] for name in made if name not in before}
            write_manifest(pending(path), {"old": {**_noted(path), **before}, "new": new})
            for name, file in made.items():
                publish(file, folder / name)
        write_manifest(path, {**manifest, _FILES: files}, version=version)
    finally:
        clear_replaced(path)


def read_with_files(
    path: Path, keys: Mapping[str, type], needed: Sequence[str] = (), *, version: int = _FORMAT
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads what :func:`write_with_files` wrote: the manifest, and the contents by their names.

    Of safetensors files these are the tensors, of others the path.

    Raises:
        CheckpointError: If a file is missing or damaged, or something else is stored.
    """
    while True:
        manifest = read_manifest(path, {**keys, _FILES: dict}, version=version)
        try:
            return manifest, _read_files(path, manifest[_FILES], needed)
        except (CheckpointError, FileNotFoundError):
            # Another process may have replaced all of it meanwhile.
            if read_manifest(path, version=version) == manifest:
                raise


def files_of(path: Path) -> dict[str, Any]:
    """What a manifest of any version lists, by name with its SHA-256; nothing if there is none.

    Raises:
        CheckpointError: If it is damaged, or holds something else.
    """
    if not path.exists():
        return {}
    files = _read_body(path).get(_FILES)
    if not isinstance(files, dict):
        raise CheckpointError(f"{path} holds something else (it lists no files)")
    return files


def clear_replaced(path: Path) -> None:
    """Removes what :func:`write_with_files` wrote to or replaced, and ``path`` does not list.

    It is known from a note that is written before, also if the process is killed. Where the
    manifest is damaged, nothing is removed.
    """
    note = pending(path)
    if not note.exists():
        return
    try:
        listed = read_manifest(note, {"old": dict, "new": dict})
        # Without a manifest it is not known why what it listed is there.
        ours = listed["new"] | (listed["old"] if path.exists() else {})
        valid = files_of(path)
    except CheckpointError as error:
        warnings.warn(f"files beside {path} are left: {error}", stacklevel=2)
        return
    try:
        remove_listed(path.parent, {n: sha256 for n, sha256 in ours.items() if n not in valid})
    except PermissionError:  # on Windows somebody reads one: the next call removes it
        return
    note.unlink(missing_ok=True)


def remove_listed(
    folder: Path, listed: Mapping[str, Any], names: re.Pattern[str] = _LISTED
) -> None:
    """Removes files of ``folder`` that an intact manifest listed, by name with their SHA-256.

    Only regular files directly in the folder go, whose name is one of ``names`` (default: those of
    :func:`write_with_files`) and whose content is what was listed. What else has such a name stays,
    with a warning.
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

    What else is there, or belongs to a damaged manifest, stays, with a warning.
    """
    _remove(path)
    remove_empty(path.parent)


def remove_cache(folder: Path, keys: Iterable[str] | None = None) -> None:
    """Removes what :func:`store_tensors` keeps in a folder: all, with an empty folder, or ``keys``.

    What else is there, or is damaged, stays, with a warning.
    """
    paths = folder.glob("*.json") if keys is None else [folder / f"{key}.json" for key in keys]
    with folder_lock(folder):
        for path in sorted(paths):
            _remove(path)
    if keys is None:
        remove_empty(folder)


def pending(path: Path) -> Path:
    """Where it is noted which files are about to be written, before the manifest lists them."""
    return path.with_name(f".alignrec-{path.name}.pending")


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


def store_tensors(
    folder: Path, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Keeps ``tensors`` and ``facts`` (anything JSON can hold) in a cache under ``key``.

    Readers never meet half of it, and other writers wait.
    """
    on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
    contents, manifest = {f"{key}.safetensors": on_cpu}, {"facts": dict(facts or {})}
    with folder_lock(folder):
        write_with_files(folder / f"{key}.json", manifest, contents, over_damage=True)


def load_tensors(
    folder: Path, key: str, what: str
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What a cache holds under ``key``: tensors and facts.

    ``None`` if there is nothing yet, or ``what`` is damaged (with a warning).
    """
    path, tensors = folder / f"{key}.json", f"{key}.safetensors"
    if not path.exists():
        return None
    try:
        manifest, files = read_with_files(path, {"facts": dict}, [tensors])
    except (CheckpointError, OSError) as error:
        warnings.warn(f"rebuilding {what}: {error}", stacklevel=2)
        return None
    return files[tensors], manifest["facts"]


def _save(path: Path, content: Content) -> str:
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


def _noted(path: Path) -> dict[str, Any]:
    """What :func:`clear_replaced` could not remove yet."""
    try:
        listed = read_manifest(pending(path), {"old": dict, "new": dict})
    except CheckpointError:  # as a rule there is no note
        return {}
    return {**listed["old"], **listed["new"]}


def _remove(path: Path) -> None:
    try:
        clear_replaced(path)
        remove_listed(path.parent, files_of(path))
    except CheckpointError as error:
        warnings.warn(f"files beside {path} are left: {error}", stacklevel=3)
    else:
        path.unlink(missing_ok=True)


def _read_body(path: Path) -> dict[str, Any]:
    """An intact manifest of any version, without its hash."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: no checkpoint was saved there")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        sha256 = body.pop(_HASH, None) if isinstance(body, dict) else None
        digest = _json_sha256(body)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged (no valid JSON: {error})") from error
    if not isinstance(body, dict):
        raise CheckpointError(f"{path} is damaged (expected a JSON object)")
    if sha256 is None:
        raise CheckpointError(
            f"{path} is of an earlier format than this version of alignrec_pyg reads, or not its "
            "own: use the version that wrote it, or make it anew"
        )
    if sha256 != digest:
        raise CheckpointError(
            f"{path} is damaged or was edited (its content does not have the hash in it): restore "
            "it from a copy, or delete it and start anew"
        )
    return body


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
    """What a listed file is called."""
    named = _LISTED.fullmatch(name)
    return name if named is None else named["stem"] + named["suffix"]


def _json_sha256(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
