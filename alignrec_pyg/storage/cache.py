"""A cache of tensors: each key is a manifest with one file of tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from alignrec_pyg.atomic import folder_lock, remove_empty
from alignrec_pyg.storage.listed_files import read_with_files, remove_manifest, write_with_files
from alignrec_pyg.storage.single_files import CheckpointError


def store_tensors(
    folder: Path, key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
) -> None:
    """Stores ``tensors`` and ``facts`` (values for JSON) in a cache under ``key``.

    Readers never see a partial entry, and other writers wait.
    """
    on_cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
    contents, manifest = {f"{key}.safetensors": on_cpu}, {"facts": dict(facts or {})}
    with folder_lock(folder):
        write_with_files(folder / f"{key}.json", manifest, contents, over_damage=True)


def load_tensors(
    folder: Path, key: str, what: str
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and facts that a cache has under ``key``.

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


def remove_cache(folder: Path, keys: Iterable[str] | None = None) -> None:
    """Removes entries of :func:`store_tensors` from a folder: all, with the folder, or ``keys``.

    Other files and damaged entries stay, with a warning.
    """
    paths = folder.glob("*.json") if keys is None else [folder / f"{key}.json" for key in keys]
    with folder_lock(folder):
        for path in sorted(paths):
            remove_manifest(path)
    if keys is None:
        remove_empty(folder)
