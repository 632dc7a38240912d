"""Manifests: JSON files with the version of their format and a hash of their own content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignrec_pyg.storage.single_files import CheckpointError, write_text

FORMAT = 2
_VERSION = "format_version"
_HASH = "manifest_sha256"


def write_manifest(path: Path, manifest: Mapping[str, Any], *, version: int = FORMAT) -> None:
    """Writes ``manifest`` as JSON, with the version of its format and a hash of all of it.

    Floats are read back exactly. The version is raised with each change after which older files
    cannot be read.
    """
    body = json.loads(json.dumps({_VERSION: version, **manifest}))  # keys and tuples as read
    write_text(path, json.dumps({**body, _HASH: _json_sha256(body)}, indent=2) + "\n")


def read_manifest(
    path: Path, keys: Mapping[str, type] | None = None, *, version: int = FORMAT
) -> dict[str, Any]:
    """Reads what :func:`write_manifest` wrote, in that version and with ``keys`` of these types.

    Raises:
        CheckpointError: If the file is missing, damaged, of another version or something else.
    """
    body = read_body(path)
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


def read_body(path: Path) -> dict[str, Any]:
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


def _json_sha256(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
