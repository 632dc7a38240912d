"""Input and interface of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from alignrec_pyg.checks import check_choice
from alignrec_pyg.encoders.images import ImageSource, read_image, resize_square

MODALITIES = ("text", "image", "id")

PRECISIONS = ("float32", "bfloat16")
"""Number formats that networks may compute in."""

DEFAULT_DIM = 64
"""Width of the rows of fitted encoders, where none is given and the content is rich enough."""


def check_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    """Checks that modalities are "image", "text" or both."""
    if sorted(modalities) not in (["image"], ["text"], ["image", "text"]):
        raise ValueError(
            f"'modalities' needs to hold 'image', 'text' or both (got {tuple(modalities)})"
        )
    return tuple(modalities)


def check_precision(precision: str) -> str:
    """Checks that a precision is one of :data:`PRECISIONS`."""
    check_choice("precision", precision, PRECISIONS)
    return precision


def in_precision(precision: str, device: torch.device) -> torch.autocast:
    """A context in which networks compute in ``precision``; their weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def precision_key(precision: str) -> str:
    """What a precision adds to a cache key."""
    return "" if precision == "float32" else f", {precision}"


@dataclass(frozen=True)
class ItemContent:
    """Raw texts and images of some items.

    Args:
        text: A text for each item, ``None`` or blank for an item without text; ``None`` instead of
            the sequence if the encoder reads no texts.
        image: An image for each item, as :func:`~alignrec_pyg.encoders.read_image` takes it, or
            ``None``; images of one size may be one tensor, uint8 ``[len, 3, H, W]``. ``None``
            instead of the sequence if the encoder reads no images.
        id: The id of each item; ``None`` if the encoder reads no ids.

    Raises:
        ValueError: If all are ``None``, or their lengths differ.
    """

    text: Sequence[str | None] | None = None
    image: Tensor | Sequence[ImageSource | None] | None = None
    id: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.text, self.image, self.id) if part is not None}
        if len(lengths) != 1:
            raise ValueError(
                f"'text', 'image' and 'id' need one entry per item, and one of them is required "
                f"(got lengths {sorted(lengths)})"
            )

    def __len__(self) -> int:
        return len(next(part for part in (self.text, self.image, self.id) if part is not None))

    def select(self, rows: Sequence[int]) -> ItemContent:
        """The items at ``rows``, in that order."""

        def selected(part: Any) -> Any:
            if isinstance(part, Tensor):
                return part[torch.as_tensor(rows, dtype=torch.long)]
            return None if part is None else [part[row] for row in rows]

        return ItemContent(selected(self.text), selected(self.image), selected(self.id))

    def has(self, modality: str) -> Tensor:
        """Whether each item has this modality, bool ``[len]``."""
        part = getattr(self, modality)
        if part is None:
            return torch.zeros(len(self), dtype=torch.bool)
        if modality == "id" or isinstance(part, Tensor):
            return torch.ones(len(self), dtype=torch.bool)
        if modality == "text":
            part = [text if text and text.strip() else None for text in part]
        return torch.tensor([entry is not None for entry in part]).bool()


@runtime_checkable
class ItemEncoder(Protocol):
    """Encodes items as feature rows.

    ``modalities`` are the parts of :class:`ItemContent` it reads ("text", "image", "id"),
    ``out_dim`` is the width of its rows, and ``cache_key`` depends on everything that its rows
    depend on: weights, preprocessing, arguments, versions.
    :class:`~alignrec_pyg.transforms.EncodeItems` calls it with clean texts, and with images as
    uint8 tensors ``[3, H, W]`` of any size; the encoder resizes and normalises them.
    """

    @property
    def modalities(self) -> tuple[str, ...]:
        """Parts of the content that it reads."""
        ...

    @property
    def out_dim(self) -> int:
        """Width of a feature row."""
        ...

    @property
    def cache_key(self) -> str:
        """Identifies weights, preprocessing, arguments and versions."""
        ...

    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``, without gradient.

        An item that lacks every modality gets a zero row.
        """
        ...


@runtime_checkable
class FittedItemEncoder(ItemEncoder, Protocol):
    """An encoder that is fitted to the catalogue before it encodes.

    ``arguments_key`` is its ``cache_key`` without what was learned: together with the content that
    the encoder is fitted to, it identifies the rows.
    """

    @property
    def arguments_key(self) -> str:
        """Identifies arguments and versions."""
        ...

    def fit(self, items: ItemContent) -> None:
        """Fits the encoder to ``items``, from scratch; images may be files, read one by one."""
        ...


def needs_fit(encoder: ItemEncoder) -> TypeGuard[FittedItemEncoder]:
    """Whether an encoder is a :class:`FittedItemEncoder`.

    ``isinstance`` may read every attribute of the protocol, and a key hashes all weights.
    """
    return callable(getattr(encoder, "fit", None))


def stacked_pixels(items: ItemContent, image_size: int | None) -> Tensor:
    """All images as one tensor, uint8 ``[len, 3, H, W]``; none of them may be missing.

    They are resized to squares of side ``image_size``, unless it is ``None``.
    """
    images = items.image
    if not isinstance(images, Tensor) or image_size is not None:
        pixels = []
        for image in () if images is None else images:
            if image is not None:  # one at a time: files may hold far larger images
                rgb = read_image(image)
                pixels.append(rgb if image_size is None else resize_square(rgb, image_size))
        shapes = {tuple(image.shape) for image in pixels}
        if len(shapes) != 1:
            raise ValueError(
                f"'image' needs images of one size (got shapes {sorted(shapes)[:5]}): choose an "
                "'image_size'"
            )
        images = torch.stack(pixels)
    if images.dim() != 4 or images.size(1) != 3 or images.dtype != torch.uint8:
        raise ValueError(
            f"'image' needs RGB pixels, uint8 [n, 3, H, W] (got {images.dtype}, "
            f"{tuple(images.shape)})"
        )
    return images.cpu()
