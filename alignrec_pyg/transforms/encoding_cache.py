"""A cache of encoded items on disk: a row for each item that an encoder has seen."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from alignrec_pyg.graph import content_hash
from alignrec_pyg.storage import (
    CheckpointError,
    load_tensors,
    read_manifest,
    remove_cache,
    store_tensors,
)
from alignrec_pyg.transforms.encoding_report import EncodingReport

_PREFIX = "encoded_"
_OPEN_SHARDS = 64  # whose rows are in memory at a time: about 50 MB at width 768


class CachedRow(NamedTuple):
    """The position of an item's row, and the reason if its image could not be read."""

    shard: str
    position: int
    failure: str | None


class EncodingCache:
    """Cached rows of items, by the encoder's key and the item's content.

    Every batch that is encoded adds a shard: a safetensors file with its rows and a manifest with a
    digest of each item. Shards are never changed, so catalogues that overlap share rows, whatever
    the order of their items and the sizes of batches.

    Args:
        folder: Folder of the shards, of one or more encoders.
        key: Key of everything but the content that determines a row.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._stem = f"{_PREFIX}{key}_"
        self._rows: dict[str, CachedRow] = {}
        self._read = lru_cache(_OPEN_SHARDS)(self._load)
        self.used: set[str] = set()
        for path in sorted(folder.glob(f"{self._stem}*.json")):
            try:
                facts = read_manifest(path, {"facts": dict})["facts"]
            except (CheckpointError, OSError) as error:
                warnings.warn(f"rebuilding encoded items: {error}", stacklevel=2)
                continue
            self._add(path.stem, facts["items"], facts["failures"])

    def find(self, digests: Sequence[str]) -> list[CachedRow | None]:
        """The cached rows of items, by digest; ``None`` for items that were never encoded."""
        return [self._rows.get(digest) for digest in digests]

    def row(self, place: CachedRow) -> Tensor | None:
        """A cached row; ``None`` if its file is damaged (with a warning)."""
        rows = self._read(place.shard)
        if rows is None:
            return None
        self.used.add(place.shard)
        return rows[place.position]

    def store(self, digests: Sequence[str], rows: Tensor, failures: dict[int, str]) -> None:
        """Adds a shard; ``failures`` are reasons why images could not be read, by position."""
        name = self._name(digests)
        told = [[position, reason] for position, reason in sorted(failures.items())]
        store_tensors(
            self._folder, name, {"rows": rows}, {"items": list(digests), "failures": told}
        )
        self._read.cache_clear()
        self._add(name, digests, told)
        self.used.add(name)

    def _add(self, shard: str, digests: Iterable[str], failures: Iterable[list[Any]]) -> None:
        reasons = {position: str(reason) for position, reason in failures}
        for position, digest in enumerate(digests):
            self._rows[digest] = CachedRow(shard, position, reasons.get(position))

    def _name(self, digests: Sequence[str]) -> str:
        return self._stem + content_hash(digests)

    def _load(self, shard: str) -> Tensor | None:
        found = load_tensors(self._folder, shard, "encoded items")
        return None if found is None else found[0]["rows"]


class UnusedRows(NamedTuple):
    """Parts of a cache that no run of interest has read or written.

    Args:
        shards: Names of the parts.
        num_bytes: Their size on the disk.
    """

    shards: tuple[str, ...]
    num_bytes: int


def unused_rows(cache_dir: str | Path, reports: Iterable[EncodingReport]) -> UnusedRows:
    """The rows in a cache of :class:`EncodeItems` that the runs with these reports did not use.

    These are rows of other encoders, of items that have changed or left, or of earlier versions.
    """
    used = {shard for report in reports for shard in report.shards}
    paths = [path for path in Path(cache_dir).glob(f"{_PREFIX}*.json") if path.stem not in used]
    files = [file for path in paths for file in path.parent.glob(f"{path.stem}*")]
    return UnusedRows(
        tuple(sorted(path.stem for path in paths)), sum(file.stat().st_size for file in files)
    )


def remove_rows(cache_dir: str | Path, unused: UnusedRows) -> None:
    """Removes what :func:`unused_rows` found; files that somebody has changed stay, with a warning.

    A run that reads the cache at the time encodes the items again.
    """
    remove_cache(Path(cache_dir), unused.shards)
