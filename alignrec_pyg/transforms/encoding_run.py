"""A run of an encoder over all items, batch by batch, with a cache of encoded items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from alignrec_pyg.encoders.base import ItemEncoder, needs_fit
from alignrec_pyg.graph import content_hash
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.transforms.content_reader import ContentReader, LoadedImage
from alignrec_pyg.transforms.encoding_cache import EncodingCache
from alignrec_pyg.transforms.encoding_report import ContentFailure, failure_lines

# Part of every cache key: increase it with each change of the input of encoders.
_VERSION = "encode_items 1"


class EncodingRun:
    """Encodes the items of a reader once, with the arguments of :class:`EncodeItems`.

    ``stop`` is checked after each batch.
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        reader: ContentReader,
        *,
        batch_size: int,
        cache_dir: Path | None,
        max_failures: float,
        stop: StopRequest,
        fit: bool,
    ) -> None:
        self._encoder = encoder
        self._reader = reader
        self._batch_size = batch_size
        self._cache_dir = cache_dir
        self._max_failures = max_failures
        self.stop = stop
        self._fits = fit and needs_fit(encoder)
        self._ready = not self._fits
        self._cache: EncodingCache | None = None
        self.actors_shards: set[str] = set()
        self.present = reader.present()
        self.rows = sorted(set(chain.from_iterable(self.present.values())))
        self.failures: dict[int, str] = {}
        self.cached_rows: list[int] = []

    def batches(self) -> Iterator[tuple[list[int], Tensor]]:
        """Yields the items of each batch and their rows, float32 ``[len(items), out_dim]``."""
        self.begin()
        for items in self.parts():
            yield items, self.encode(items)
            self.stop.exit_if_requested()

    def begin(self) -> None:
        """Prepares the cache, if any."""
        if self._cache_dir is not None:
            self._cache = EncodingCache(self._cache_dir, self._run_key())

    @property
    def shards(self) -> set[str]:
        """Names of the parts of the cache whose rows were read or written."""
        return self.actors_shards | (set() if self._cache is None else self._cache.used)

    def parts(self) -> Iterator[list[int]]:
        """The items of every batch."""
        for start in range(0, len(self.rows), self._batch_size):
            yield self.rows[start : start + self._batch_size]

    def encode(self, items: list[int]) -> Tensor:
        """The rows of one batch, from the cache or computed and added to it."""
        blocks = self._reader.blocks(items)
        return torch.cat([self._block(block, images) for block, images in blocks])

    def _block(self, items: list[int], images: list[LoadedImage]) -> Tensor:
        if self._cache is None:
            return self._encoded(items, images)
        cache, digests = self._cache, self._reader.digests(items, images)
        rows: dict[int, Tensor] = {}
        for position, place in enumerate(cache.find(digests)):
            row = None if place is None else cache.row(place)
            if place is not None and row is not None:
                rows[position] = row
                self.cached_rows.append(items[position])
                if place.failure is not None:
                    self.note({items[position]: place.failure})
        missing = [position for position in range(len(items)) if position not in rows]
        if missing:
            own = [items[position] for position in missing]
            made = self._encoded(own, [images[position] for position in missing])
            failures = {
                number: self.failures[item]
                for number, item in enumerate(own)
                if item in self.failures
            }
            cache.store([digests[position] for position in missing], made, failures)
            rows |= zip(missing, made, strict=True)
        return torch.stack([rows[position] for position in range(len(items))])

    def note(self, failures: dict[int, str]) -> None:
        """Records images that cannot be read, by item."""
        self.failures |= failures
        num_images = len(self.present.get("image", ()))
        if len(self.failures) > self._max_failures * num_images:
            reasons = "; ".join(failure_lines(self.failed()))
            raise ValueError(
                f"'max_failures' needs to be larger than {self._max_failures:.2%} for these "
                f"{num_images:,} images: {len(self.failures):,} or more of them cannot be read "
                f"({reasons}): repair them, set them to None, or increase 'max_failures'"
            )

    def failed(self) -> tuple[ContentFailure, ...]:
        """The recorded failures, by item."""
        return tuple(
            ContentFailure(item, "image", self.failures[item]) for item in sorted(self.failures)
        )

    def with_content(self) -> list[int]:
        """Items with readable content."""
        readable = dict(self.present)
        if "image" in readable:
            readable["image"] = [row for row in readable["image"] if row not in self.failures]
        return sorted(set(chain.from_iterable(readable.values())))

    def _run_key(self) -> str:
        """Cache key of encoder, preprocessing and versions, and of what it is fitted to."""
        reader = [PIL.__version__] if "image" in self.present else []
        parts = [_VERSION, *self._encoder.modalities]
        if not (self._fits and needs_fit(self._encoder)):
            return content_hash(
                *parts, str(self._encoder.out_dim), *reader, self._encoder.cache_key
            )
        digests: list[str] = []  # the fitted encoder depends on all items
        for items in self.parts():
            for block, images in self._reader.blocks(items):
                digests += self._reader.digests(block, images)
            self.stop.exit_if_requested()
        return content_hash(*parts, *reader, self._encoder.arguments_key, digests)

    def _encoded(self, items: list[int], images: Sequence[LoadedImage]) -> Tensor:
        if not self._ready:
            self._fit()
        decoded = self._decoded(items, images)
        content = self._reader.content(items, [image.content for image in decoded])
        has_any = torch.stack([content.has(part) for part in self._encoder.modalities]).any(dim=0)
        present = has_any.nonzero()[:, 0].tolist()
        rows = torch.zeros(len(items), self._encoder.out_dim)
        if present:
            rows[has_any] = self._checked(
                self._encoder(content.select(present)), [items[position] for position in present]
            )
        return rows

    def _fit(self) -> None:
        """Fits the encoder on readable content; it receives images as given and reads them."""
        if "image" in self.present:
            for items in tqdm(list(self.parts()), desc="reading", unit="batch", disable=None):
                for block, images in self._reader.blocks(items):
                    self._decoded(block, images)
                self.stop.exit_if_requested()
        rows = self.with_content()
        if needs_fit(self._encoder) and rows:
            sources = self._reader.sources(rows)
            if sources is not None:
                sources = [
                    None if row in self.failures else source
                    for row, source in zip(rows, sources, strict=True)
                ]
            self._encoder.fit(self._reader.content(rows, sources))
        self._ready = True

    def _decoded(self, items: list[int], images: Sequence[LoadedImage]) -> list[LoadedImage]:
        decoded = self._reader.decode(images)
        self.note(
            {
                item: image.failure
                for item, image in zip(items, decoded, strict=True)
                if image.failure is not None
            }
        )
        return decoded

    def _checked(self, encoded: Tensor, items: list[int]) -> Tensor:
        if encoded.shape != (len(items), self._encoder.out_dim):
            raise ValueError(
                f"{self._encoder!r} needs to return rows of shape "
                f"{(len(items), self._encoder.out_dim)} (got {tuple(encoded.shape)})"
            )
        broken = (~encoded.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        if broken:
            raise ValueError(
                f"{self._encoder!r} needs to return finite rows (got NaN or infinity for items "
                f"{[items[position] for position in broken[:5]]})"
            )
        return encoded.detach().float().cpu()
