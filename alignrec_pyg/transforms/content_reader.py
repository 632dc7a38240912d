"""Reading what items hold, in threads, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
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
class HeldImage:
    """An image on its way in: its bytes or pixels, or why there are none.

    Args:
        held: Bytes of a file, or pixels uint8 ``[3, H, W]``; ``None`` without an image.
        failure: Why an image that is there cannot be read; ``None`` if nothing is known against it.
    """

    held: bytes | Tensor | None = None
    failure: str | None = None

    def digest(self) -> str:
        """A hash of what is held: of a file its bytes, neither name nor time."""
        if isinstance(self.held, Tensor):
            kind, content = f"pixels {tuple(self.held.shape)} ", self.held.numpy().tobytes()
        else:
            kind, content = f"file {self.failure} ", self.held or b""
        return hashlib.blake2b(kind.encode() + content, digest_size=16).hexdigest()


class ContentReader:
    """What the items of a catalogue hold; images are read when asked for.

    Results come in the order asked for, whatever the number of threads.

    Args:
        text: Clean text of each item; ``None`` if texts are not read.
        image: What holds the image of each item, as
            :func:`~alignrec_pyg.encoders.images.image_source` takes it; ``None`` if images are not
            read.
        id: Id of each item; ``None`` if ids are not read.
        num_workers: Threads that read and decode; 0 does it in the calling one.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def present(self) -> dict[str, list[int]]:
        """For each modality that is read, the items that have something there."""
        found: dict[str, list[int]] = {}
        if self._text is not None:
            found["text"] = [row for row, text in enumerate(self._text) if text is not None]
        if self._image is not None:
            found["image"] = [row for row, image in enumerate(self._image) if image is not None]
        if self._id is not None:
            found["id"] = list(range(len(self._id)))
        return found

    def load(self, rows: Sequence[int]) -> list[HeldImage]:
        """The images of ``rows``, files as bytes; if images are not read, no image each."""
        sources = self.sources(rows)
        return [HeldImage()] * len(rows) if sources is None else self._map(_load, sources)

    def decode(self, images: Sequence[HeldImage]) -> list[HeldImage]:
        """The same images as pixels."""
        return self._map(_decode, images)

    def digests(self, rows: Sequence[int], images: Sequence[HeldImage]) -> list[str]:
        """What stands for the content of each of ``rows``, whose ``images`` were loaded."""
        texts = ["" if self._text is None else repr(self._text[row]) for row in rows]
        ids = ["" if self._id is None else repr(self._id[row]) for row in rows]
        held = self._map(HeldImage.digest, images)
        return [" ".join(parts) for parts in zip(held, ids, texts, strict=True)]

    def sources(self, rows: Sequence[int]) -> list[Any] | None:
        """What holds the images of ``rows``, as given; ``None`` if images are not read."""
        return None if self._image is None else [self._image[row] for row in rows]

    def content(self, rows: Sequence[int], images: Sequence[Any] | None) -> ItemContent:
        """The content of ``rows``, with these ``images`` (not read: with none)."""
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


def _load(source: ImageSource | ImageError | None) -> HeldImage:
    try:
        if isinstance(source, ImageError):
            raise source
        if isinstance(source, Path):
            return HeldImage(file_bytes(source))
        if callable(source):
            return HeldImage(source())
        if source is None or isinstance(source, bytes):
            return HeldImage(source)
        return HeldImage(read_image(source))
    except ImageError as error:
        return HeldImage(failure=error.reason)


def _decode(image: HeldImage) -> HeldImage:
    if not isinstance(image.held, bytes):
        return image
    try:
        return HeldImage(read_image(image.held))
    except ImageError as error:
        return HeldImage(failure=error.reason)
