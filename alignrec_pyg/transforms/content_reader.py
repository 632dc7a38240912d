"""Reading of texts, images and ids of items, in parallel threads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from alignrec_pyg.encoders.base import ItemContent
from alignrec_pyg.encoders.images import (
    ImageError,
    ImageSource,
    decoded_bytes,
    file_bytes,
    image_source,
    read_image,
)

_LOADED_TOGETHER = 16  # images, before their sizes are counted

MOST_BYTES = 2**29
"""Most bytes that the images of a block take, encoded and decoded (512 MiB)."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class LoadedImage:
    """Bytes of a file or pixels, uint8 ``[3, H, W]``, or the reason why they cannot be read.

    ``num_bytes`` is how many it takes together with its pixels.
    """

    content: bytes | Tensor | None = None
    failure: str | None = None
    num_bytes: int = 0

    def digest(self) -> str:
        """A hash of the content; of a file, its bytes, neither its name nor its time."""
        if isinstance(self.content, Tensor):
            kind, content = f"pixels {tuple(self.content.shape)} ", self.content.numpy().tobytes()
        else:
            kind, content = f"file {self.failure} ", self.content or b""
        return hashlib.blake2b(kind.encode() + content, digest_size=16).hexdigest()


class ContentReader:
    """Access to the contents of items; images are read on demand.

    Results have the requested order for any number of threads that read and decode images; 0 uses
    the calling thread. Texts are clean, images of any form that
    :func:`~alignrec_pyg.encoders.images.image_source` accepts; ``None`` is what is not used.
    """

    def __init__(
        self,
        *,
        text: Sequence[str | None] | None = None,
        image: Iterable[object] | None = None,
        id: Sequence[Any] | None = None,
        num_workers: int = 0,
    ) -> None:
        self._text = text
        self._image = None if image is None else [_checked_source(value) for value in image]
        self._id = id
        self._pool = ThreadPoolExecutor(num_workers) if num_workers else None

    def __enter__(self) -> ContentReader:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def present(self) -> dict[str, list[int]]:
        """The items that have content, for each modality that is used."""
        found: dict[str, list[int]] = {}
        if self._text is not None:
            found["text"] = [row for row, text in enumerate(self._text) if text is not None]
        if self._image is not None:
            found["image"] = [row for row, image in enumerate(self._image) if image is not None]
        if self._id is not None:
            found["id"] = list(range(len(self._id)))
        return found

    def load(self, rows: Sequence[int]) -> list[LoadedImage]:
        """Loads the images of ``rows``, files as bytes; empty ones if images are not used."""
        sources = self.sources(rows)
        return [LoadedImage()] * len(rows) if sources is None else self._map(_load, sources)

    def blocks(self, rows: Sequence[int]) -> Iterator[tuple[list[int], list[LoadedImage]]]:
        """The images of ``rows``, loaded in blocks of at most :data:`MOST_BYTES`.

        The number of items is no limit: a small file can be an image of hundreds of megabytes. One
        that exceeds it is a block of its own.
        """
        block: list[int] = []
        images: list[LoadedImage] = []
        num_bytes = 0
        for start in range(0, len(rows), _LOADED_TOGETHER):
            part = rows[start : start + _LOADED_TOGETHER]
            for row, image in zip(part, self.load(part), strict=True):
                if block and num_bytes + image.num_bytes > MOST_BYTES:
                    yield block, images
                    block, images, num_bytes = [], [], 0
                block.append(row)
                images.append(image)
                num_bytes += image.num_bytes
        if block:
            yield block, images

    def decode(self, images: Sequence[LoadedImage]) -> list[LoadedImage]:
        """Decodes loaded images to pixels."""
        return self._map(_decode, images)

    def digests(self, rows: Sequence[int], images: Sequence[LoadedImage]) -> list[str]:
        """A key of the content of each of ``rows``, whose ``images`` were loaded."""
        texts = ["" if self._text is None else repr(self._text[row]) for row in rows]
        ids = ["" if self._id is None else repr(self._id[row]) for row in rows]
        digests = self._map(LoadedImage.digest, images)
        return [" ".join(parts) for parts in zip(digests, ids, texts, strict=True)]

    def sources(self, rows: Sequence[int]) -> list[Any] | None:
        """The images of ``rows`` as they were given; ``None`` if images are not used."""
        return None if self._image is None else [self._image[row] for row in rows]

    def content(self, rows: Sequence[int], images: Sequence[Any] | None) -> ItemContent:
        """The content of ``rows`` with the given ``images`` (ignored if images are not used)."""
        return ItemContent(
            None if self._text is None else [self._text[row] for row in rows],
            None if self._image is None else images,
            None if self._id is None else [self._id[row] for row in rows],
        )

    def _map(self, function: Callable[[_In], _Out], values: Iterable[_In]) -> list[_Out]:
        mapped = map if self._pool is None else self._pool.map
        return list(mapped(function, values))


def _checked_source(value: object) -> ImageSource | ImageError | None:
    try:
        return image_source(value)
    except ImageError as error:
        return error


def _load(source: ImageSource | ImageError | None) -> LoadedImage:
    try:
        if source is None:
            return LoadedImage()
        if isinstance(source, ImageError):
            raise source
        if isinstance(source, Path):
            source = file_bytes(source)
        elif callable(source):
            source = source()
        if isinstance(source, bytes):  # what is no image is not kept
            return LoadedImage(source, num_bytes=len(source) + decoded_bytes(source))
        pixels = read_image(source)
        return LoadedImage(pixels, num_bytes=pixels.numel())
    except ImageError as error:
        return LoadedImage(failure=error.reason)


def _decode(image: LoadedImage) -> LoadedImage:
    if not isinstance(image.content, bytes):
        return image
    try:
        return LoadedImage(read_image(image.content))
    except ImageError as error:
        return LoadedImage(failure=error.reason)
