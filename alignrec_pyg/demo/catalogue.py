"""Titles and images of the items that the page displays."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders.images import (
    ImageError,
    image_source,
    quiet_pillow,
    read_image,
    to_pillow,
)
from alignrec_pyg.graph import ITEM
from alignrec_pyg.ids import item_ids

_POSTER_SIZE = (240, 360)  # pixels, at most: twice the displayed size, for high-density screens
_KEPT_POSTERS = 4096
_MEASURED_POSTERS = 16
_NARROWEST, _WIDEST = 0.5, 2.0


@dataclass(frozen=True)
class ShownItem:
    """An item as it is displayed.

    Args:
        id: Its original id.
        title: Its title.
        poster: Its image as a ``data:`` URL; ``None`` without an image that can be read.
    """

    id: Any
    title: str
    poster: str | None = None


class Catalogue:
    """Titles and images of all items, prepared on first use.

    An item whose title is ``None`` or blank is displayed by its id. Images are, by default,
    ``data["item"].image`` or ``.image_path``, if present.
    """

    def __init__(
        self,
        data: HeteroData,
        titles: Sequence[str | None] | None = None,
        images: Sequence[Any] | Tensor | None = None,
    ) -> None:
        if images is None:
            images = data[ITEM].get("image", data[ITEM].get("image_path"))
        self._ids = item_ids(data)
        for argument, column in (("titles", titles), ("images", images)):
            if column is not None and len(column) != len(self._ids):
                raise ValueError(
                    f"'{argument}' needs one entry for each of the {len(self._ids)} items, in the "
                    f"order of their numbers (got {len(column)})"
                )
        self._titles = titles
        self._images = images
        self._numbers = {entry: number for number, entry in enumerate(self._ids.tolist())}
        self.item = lru_cache(_KEPT_POSTERS)(self._make)

    def items(self, ids: np.ndarray) -> list[ShownItem]:
        """The items with these original ids."""
        return [self.item(self._numbers[entry]) for entry in ids.tolist()]

    def aspect(self) -> float:
        """Median aspect ratio (width by height) of the images; 1 without images."""
        found: list[float] = []
        for image in () if self._images is None else self._images:
            pixels = _pixels(image)
            if pixels is not None:
                found.append(pixels.size(2) / pixels.size(1))
            if len(found) == _MEASURED_POSTERS:
                break
        return float(np.clip(np.median(found), _NARROWEST, _WIDEST)) if found else 1.0

    def _make(self, number: int) -> ShownItem:
        """The item with index ``number``."""
        title = None if self._titles is None else self._titles[number]
        poster = None if self._images is None else poster_address(self._images[number])
        name = self._ids[number]
        return ShownItem(name, (title or "").strip() or f"Item {name}", poster)


def poster_address(image: object) -> str | None:
    """A thumbnail as a ``data:`` URL; ``None`` without an image or if it cannot be read."""
    pixels = _pixels(image)
    if pixels is None:
        return None
    small = to_pillow(pixels)
    small.thumbnail(_POSTER_SIZE)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _pixels(image: object) -> Tensor | None:
    try:
        source = image_source(image)
        with quiet_pillow():
            return None if source is None else read_image(source)
    except ImageError:
        return None
