"""Reading of texts, images and ids of items, in parallel threads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from alignrec_pyg.encoders.base import ItemContent
from alignrec_pyg.encoders.images import (
    ImageError,
    ImageSource,
    file_bytes,
    image_source,
    read_image,
)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class LoadedImage:
    """Bytes of a file or pixels, uint8 ``[3, H, W]``, or the reason why they cannot be read."""

    content: bytes | Tensor | None = None
    failure: str | None = None

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
        if isinstance(source, ImageError):
            raise source
        if isinstance(source, Path):
            return LoadedImage(file_bytes(source))
        if callable(source):
            return LoadedImage(source())
        if source is None or isinstance(source, bytes):
            return LoadedImage(source)
        return LoadedImage(read_image(source))
    except ImageError as error:
        return LoadedImage(failure=error.reason)


def _decode(image: LoadedImage) -> LoadedImage:
    if not isinstance(image.content, bytes):
        return image
    try:
        return LoadedImage(read_image(image.content))
    except ImageError as error:
        return LoadedImage(failure=error.reason)
