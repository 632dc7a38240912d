"""The pairs of image and text that a catalogue holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

from alignrec_pyg.encoders.base import ItemContent
from alignrec_pyg.encoders.images import ImageError, ImageSource, image_source, read_image
from alignrec_pyg.encoders.texts import clean_text
from alignrec_pyg.graph import content_hash

Mapped: TypeAlias = Callable[..., Iterator[Any]]
"""``map``, or that of a pool of threads."""


@dataclass(frozen=True)
class Pairs:
    """Images and texts, row by row.

    Args:
        images: What holds the images; all of them were read once.
        texts: Clean texts.
        content: Hash of all of them.
        unreadable: Items with a text whose image cannot be read, and why.
    """

    images: list[ImageSource]
    texts: list[str]
    content: str
    unreadable: dict[int, str]


def find_pairs(items: ItemContent, mapped: Mapped, *, max_failures: float) -> Pairs:
    """The items that have a text and an image that can be read.

    Args:
        items: The catalogue.
        mapped: Applies a function to many images.
        max_failures: Share of the images that may be unreadable.

    Raises:
        ValueError: If there are fewer than two pairs, or too many images cannot be read.
    """
    if items.text is None or items.image is None:
        raise ValueError("'items' needs texts and images (got only one of them)")
    texts = [clean_text(text).text for text in items.text]
    rows = [row for row, text in enumerate(texts) if text is not None]
    probes = list(mapped(_probe, [items.image[row] for row in rows]))
    unreadable = {
        row: str(probe)
        for row, probe in zip(rows, probes, strict=True)
        if isinstance(probe, ImageError)
    }
    found = [
        (row, *probe) for row, probe in zip(rows, probes, strict=True) if isinstance(probe, tuple)
    ]
    if len(unreadable) > max_failures * (len(found) + len(unreadable)):
        first = "; ".join(f"item {row}: {reason}" for row, reason in [*unreadable.items()][:5])
        raise ValueError(
            f"'max_failures' needs to be larger than {max_failures:.2%} for these images: "
            f"{len(unreadable):,} of {len(found) + len(unreadable):,} cannot be read ({first})"
        )
    if len(found) < 2:
        raise ValueError(f"'items' needs at least two items with image and text (got {len(found)})")
    kept = [str(texts[row]) for row, _, _ in found]
    content = content_hash(kept, [digest for _, _, digest in found])
    return Pairs([source for _, source, _ in found], kept, content, unreadable)


def _probe(value: object) -> tuple[ImageSource, str] | ImageError | None:
    """An image's source and a hash of its pixels, if it can be read."""
    try:
        source = image_source(value)
        if source is None:
            return None
        pixels = read_image(source)
    except ImageError as error:
        return error
    head = f"{tuple(pixels.shape)} ".encode()
    return source, blake2b(head + pixels.numpy().tobytes(), digest_size=16).hexdigest()
