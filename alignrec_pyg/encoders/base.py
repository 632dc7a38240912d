"""Input and interface of encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from alignrec_pyg.encoders.images import ImageSource

MODALITIES = ("text", "image", "id")


def check_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    """Checks that modalities are "image", "text" or both."""
    if sorted(modalities) not in (["image"], ["text"], ["image", "text"]):
        raise ValueError(
            f"'modalities' needs to hold 'image', 'text' or both (got {tuple(modalities)})"
        )
    return tuple(modalities)


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
