"""New items that a visitor of the page provides, and their ranks for all users."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.demo.catalogue import poster_address
from alignrec_pyg.demo.page_data import CannotShowError
from alignrec_pyg.encoders.base import needs_fit
from alignrec_pyg.encoders.images import (
    MAX_PIXELS,
    ImageError,
    image_source,
    quiet_pillow,
    read_image,
    to_pillow,
)
from alignrec_pyg.encoders.texts import clean_text
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    feature_mask,
    feature_names,
    feature_table,
    known_pairs,
)
from alignrec_pyg.ids import item_ids
from alignrec_pyg.models import Recommender
from alignrec_pyg.serving import add_items, new_items
from alignrec_pyg.serving.new_items import IdVectors
from alignrec_pyg.transforms import EncodeItems, KNNItemGraph

_BLOCK_SCORES = 1 << 22
_LARGEST = 1024  # pixels along a side: more than any encoder takes


@dataclass(frozen=True)
class AddedItem:
    """A model and a graph to which one item was added, the last one of both.

    ``poster`` is its image as a ``data:`` URL; ``text``, ``used`` and ``notes`` are those of
    :class:`~alignrec_pyg.demo.NewItemView`.
    """

    model: Recommender
    data: HeteroData
    id: Any
    poster: str | None
    text: str | None
    used: tuple[str, ...]
    notes: tuple[str, ...]


class NewItemAdder:
    """Adds single items to a trained model, always starting from the model as it was trained.

    The arguments are those of :class:`~alignrec_pyg.demo.Showcase`.
    """

    def __init__(
        self,
        model: Recommender,
        data: HeteroData,
        encode: Sequence[BaseTransform],
        item_graphs: Sequence[KNNItemGraph] = (),
        id_vectors: IdVectors = "none",
    ) -> None:
        encoding = [step for step in encode if isinstance(step, EncodeItems)]
        fitting = [repr(step) for step in encoding if step.fit and needs_fit(step.encoder)]
        if fitting:
            raise ValueError(
                f"'encode' needs fit=False: {', '.join(fitting)} would be fitted on a single item "
                "(keep the encoder that computed the features of the model)"
            )
        read = {modality for step in encoding for modality in step.encoder.modalities}
        self.reads = tuple(modality for modality in ("image", "text") if modality in read)
        if not self.reads:
            raise ValueError(
                "'encode' needs an EncodeItems whose encoder reads images or texts "
                f"(got {list(encode)})"
            )
        self._data = data
        self._encode = encode
        self._encoding = encoding
        self._add_items = partial(
            add_items, model, data, item_graphs=item_graphs, id_vectors=id_vectors
        )
        self._check()

    def add(self, image: object, text: str | None) -> AddedItem:
        """The model and the graph with one more item, as :meth:`Showcase.new_item` takes it."""
        pixels = upload(image)
        words = clean_text(text).text
        given = {"image": pixels, "text": words}
        names = [name for name in ("image", "text") if given[name] is not None]
        if not names:
            raise CannotShowError(f"Give {' or '.join(_A[name] for name in self.reads)}.")
        new = new_items(self._new_ids(), text=[words], image=[pixels])
        try:
            for step in self._encode:
                new = step(new)
        except ValueError as error:
            raise CannotShowError(f"The features of the item cannot be made: {error}.") from error
        used, notes = [], []
        for part in names:
            steps = [step for step in self._encoding if part in step.encoder.modalities]
            if not steps:
                notes.append(f"The {part} was not used: this model does not use {part}s.")
            elif all(bool(feature_mask(new, step.name)[0]) for step in steps):
                notes.append(_NOTHING_IN[part])
            else:
                used.append(part)
        if not used:
            raise CannotShowError(" ".join([*notes, "The item therefore has no features."]))
        model, data = self._add_items(new)
        return AddedItem(
            model=model,
            data=data,
            id=item_ids(data).tolist()[-1],
            poster=poster_address(pixels),
            text=words,
            used=tuple(used),
            notes=tuple(notes),
        )

    def _new_ids(self) -> list[Any] | None:
        """An unused id of the same type as the others; ``None`` if items have no ids."""
        ids = self._data[ITEM].get("id")
        if ids is None:
            return None
        if np.issubdtype(np.asarray(ids).dtype, np.integer):
            return [int(np.max(ids)) + 1]
        name, known = "new", set(item_ids(self._data).tolist())
        while name in known:
            name += " item"
        return [name]

    def _check(self) -> None:
        """Adds a copy of the first item, to detect unsuitable arguments early."""
        names = {step.name for step in self._encoding}
        table = {name: feature_table(self._data, name)[:1] for name in feature_names(self._data)}
        missing = sorted(names - table.keys())
        if missing:
            raise ValueError(
                f"'encode' needs to compute feature tables that 'data' has, {sorted(table)} "
                f"(it also computes {missing})"
            )
        self._add_items(new_items(self._new_ids(), features=table))


class UserRanks(NamedTuple):
    """Ranks of an item for every user, each int64 ``[num_users]``.

    Args:
        rank: Rank among the items that are new to the user, counted from 1.
        blank: Rank that an item has there of which the model knows nothing, whose score is 0.
        num_candidates: Number of ranked items.
    """

    rank: Tensor
    blank: Tensor
    num_candidates: Tensor


@torch.no_grad()
def rank_for_users(vectors: tuple[Tensor, Tensor], data: HeteroData, item: int) -> UserRanks:
    """Ranks an item without interactions for every user, among the items that are new to the user.

    Users are scored in blocks, so that no matrix of users x items is held in memory.

    Args:
        vectors: Those of all users and items, :attr:`~alignrec_pyg.Server.vectors`.
        data: The graph.
        item: Number of the item.
    """
    user_x, item_x = vectors
    known = torch.cat([data[INTERACTS].edge_index, known_pairs(data)], dim=1)
    num_users, num_items = user_x.size(0), item_x.size(0)
    rank = torch.empty(num_users, dtype=torch.int64, device=user_x.device)
    blank = torch.empty_like(rank)
    step = max(1, _BLOCK_SCORES // num_items)
    num_candidates = torch.full_like(rank, num_items)
    for start in range(0, num_users, step):
        block = slice(start, start + step)
        scores = user_x[block] @ item_x.T
        user, other = known[:, (known[0] >= start) & (known[0] < start + step)]
        own = scores[:, item].clone()
        scores[user - start, other] = -math.inf
        rank[block] = 1 + (scores > own.unsqueeze(1)).sum(dim=1)
        num_candidates[block] -= scores.isneginf().sum(dim=1)
        scores[:, item] = -math.inf  # the other item takes its place
        blank[block] = 1 + (scores > 0).sum(dim=1)
    return UserRanks(rank.cpu(), blank.cpu(), num_candidates.cpu())


_A = {"image": "an image", "text": "a text"}
_NOTHING_IN = {
    "image": "The image was not used: the encoder finds nothing in it.",
    "text": "The text was not used: the encoder knows none of its words.",
}


def upload(image: object) -> Tensor | None:
    """Pixels of an image, uint8 ``[3, H, W]``, at most 1,024 pixels along a side.

    Raises:
        CannotShowError: If it cannot be read.
    """
    try:
        source = image_source(image)
        if isinstance(source, bytes):
            source = _reduced(source)
        with quiet_pillow():
            pixels = None if source is None else read_image(source)
    except ImageError as error:
        raise CannotShowError(f"The image cannot be read: {error.reason}.") from error
    if pixels is None or max(pixels.shape[1:]) <= _LARGEST:
        return pixels
    photo = to_pillow(pixels)
    photo.thumbnail((_LARGEST, _LARGEST))
    return read_image(photo)


def _reduced(file: bytes) -> bytes | Image.Image:
    """A JPEG that is decoded at an eighth, quarter or half of its size where that is enough."""
    with quiet_pillow():
        try:
            photo = Image.open(io.BytesIO(file), formats=["JPEG"])
        except (OSError, ValueError, Image.DecompressionBombError):
            return file  # read as any other file, which says what is wrong
        if photo.width * photo.height > MAX_PIXELS:
            return file
        photo.draft(None, (_LARGEST, _LARGEST))
        return photo
