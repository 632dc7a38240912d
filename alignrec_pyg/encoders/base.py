"""What an encoder is given and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from alignrec_pyg.encoders.images import ImageSource

MODALITIES = ("text", "image", "id")


@dataclass(frozen=True)
class ItemContent:
    """Raw texts and images of some items, row by row.

    Args:
        text: One text for each item, ``None`` or blank where it has none; ``None`` altogether if
            texts are not asked for.
        image: One image for each item, anything :func:`~alignrec_pyg.encoders.read_image`
            takes; ``None`` where it has none. Images of one size may come as one tensor, uint8
            ``[len, 3, H, W]``. ``None`` altogether if images are not asked for.
        id: What the outside world calls each item; ``None`` altogether if ids are not asked for.

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
                f"'text', 'image' and 'id' need one entry for each item, and one of them is needed "
                f"(got lengths {sorted(lengths)})"
            )

    def __len__(self) -> int:
        return len(next(part for part in (self.text, self.image, self.id) if part is not None))

    def select(self, rows: Sequence[int]) -> ItemContent:
        """The items at ``rows``, in that order."""
        text = None if self.text is None else [self.text[row] for row in rows]
        ids = None if self.id is None else [self.id[row] for row in rows]
        if isinstance(self.image, Tensor):
            image = self.image[torch.as_tensor(rows, dtype=torch.long)]
            return ItemContent(text, image, ids)
        image_rows = None if self.image is None else [self.image[row] for row in rows]
        return ItemContent(text, image_rows, ids)

    def has(self, modality: str) -> Tensor:
        """Which items have this modality, bool ``[len]``."""
        if modality == "id" and self.id is not None:
            return torch.ones(len(self), dtype=torch.bool)
        if modality == "text" and self.text is not None:
            return torch.tensor([bool(text and text.strip()) for text in self.text]).bool()
        if modality == "image" and isinstance(self.image, Tensor):
            return torch.ones(len(self), dtype=torch.bool)
        if modality == "image" and self.image is not None:
            return torch.tensor([image is not None for image in self.image]).bool()
        return torch.zeros(len(self), dtype=torch.bool)


@runtime_checkable
class ItemEncoder(Protocol):
    """Turns items into feature rows.

    ``modalities`` are the parts of :class:`ItemContent` it reads ("text", "image", "id"),
    ``out_dim`` the width of its rows; ``cache_key`` changes with whatever changes its rows:
    weights, preprocessing, arguments, versions. Called by
    :class:`~alignrec_pyg.transforms.EncodeItems` it is given clean texts and images as uint8
    tensors ``[3, H, W]`` of any size; resizing and normalising are its own.
    """

    @property
    def modalities(self) -> tuple[str, ...]:
        """Parts of the content that are read."""
        ...

    @property
    def out_dim(self) -> int:
        """Width of a feature row."""
        ...

    @property
    def cache_key(self) -> str:
        """Stands for weights, preprocessing and arguments."""
        ...

    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``, without gradient.

        An item that lacks every modality gets a zero row.
        """
        ...


@runtime_checkable
class FittedItemEncoder(ItemEncoder, Protocol):
    """An encoder that has to see the catalogue before it can encode.

    ``arguments_key`` is its ``cache_key`` without what it has learned: together with the content it
    is fitted on it says what its rows will be.
    """

    @property
    def arguments_key(self) -> str:
        """Stands for arguments and versions, whatever was learned."""
        ...

    def fit(self, items: ItemContent) -> None:
        """Learns from ``items``, anew each time; images may be files, to be read one by one."""
        ...


def needs_fit(encoder: ItemEncoder) -> TypeGuard[FittedItemEncoder]:
    """Whether an encoder is a :class:`FittedItemEncoder`.

    ``isinstance`` may read every attribute of the protocol, and a key hashes all weights.
    """
    return callable(getattr(encoder, "fit", None))
