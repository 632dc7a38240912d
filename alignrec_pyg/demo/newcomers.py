"""Items that a person at the page brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.demo.catalogue import poster_address
from alignrec_pyg.demo.views import CannotShowError
from alignrec_pyg.encoders.base import needs_fit
from alignrec_pyg.encoders.images import ImageError, image_source, quiet_pillow, read_image
from alignrec_pyg.encoders.texts import clean_text
from alignrec_pyg.graph import ITEM, feature_mask, feature_names, feature_table
from alignrec_pyg.ids import item_ids
from alignrec_pyg.models import Recommender
from alignrec_pyg.serving import add_items, new_items
from alignrec_pyg.serving.new_items import IdVectors
from alignrec_pyg.transforms import EncodeItems, KNNItemGraph


@dataclass(frozen=True)
class Newcomer:
    """A model and a graph that have one item more, and how it got in.

    Args:
        model: The model, with the item as its last.
        data: The graph, with the item as its last.
        id: What the item is called there.
        poster: Its image as a ``data:`` address; ``None`` without one.
        text: Its text as it was read; ``None`` without one.
        used: What its features were made of: ``"image"``, ``"text"`` or both.
        notes: What was given and not used, and why.
    """

    model: Recommender
    data: HeteroData
    id: Any
    poster: str | None
    text: str | None
    used: tuple[str, ...]
    notes: tuple[str, ...]


class Newcomers:
    """Takes single items into a trained model, each into the model as it was trained.

    Args:
        model: A trained model.
        data: The graph to serve.
        encode: As :class:`~alignrec_pyg.demo.Showcase`.
        item_graphs: As :func:`~alignrec_pyg.serving.add_items`.
        id_vectors: As :func:`~alignrec_pyg.serving.add_items`.

    Raises:
        ValueError: If an encoder would be fitted anew, none reads images or texts, or what
            ``encode`` and ``item_graphs`` make is not what the model reads.
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
                f"'encode' needs fit=False: {', '.join(fitting)} would learn anew from a single "
                "item (keep the encoder that the model's features were made with)"
            )
        read = {modality for step in encoding for modality in step.encoder.modalities}
        self.reads = tuple(modality for modality in ("image", "text") if modality in read)
        if not self.reads:
            raise ValueError(
                "'encode' needs an EncodeItems whose encoder reads images or texts "
                f"(got {list(encode)})"
            )
        self._model = model
        self._data = data
        self._encode = encode
        self._item_graphs = item_graphs
        self._id_vectors = id_vectors
        self._encoding = encoding
        self._check()

    def take_in(self, image: object, text: str | None) -> Newcomer:
        """The model with one more item.

        Args:
            image: Anything that :func:`~alignrec_pyg.encoders.images.image_source` takes; ``None``
                without an image.
            text: Its text; ``None`` or blank without one.

        Raises:
            CannotShowError: If there is neither image nor text, the image cannot be read, or
                nothing that was given makes a feature.
        """
        pixels = _read(image)
        words = clean_text(text).text
        given = {"image": pixels, "text": words}
        names = [name for name in ("image", "text") if given[name] is not None]
        if not names:
            raise CannotShowError(f"Give {' or '.join(_A[name] for name in self.reads)}.")
        name = self._new_id()
        new = new_items(None if name is None else [name], text=[words], image=[pixels])
        for step in self._encode:
            new = step(new)
        used, notes = [], []
        for part in names:
            steps = [step for step in self._encoding if part in step.encoder.modalities]
            if not steps:
                notes.append(f"The {part} was not used: this model does not read {part}s.")
            elif all(bool(feature_mask(new, step.name)[0]) for step in steps):
                notes.append(_NOTHING_IN[part])
            else:
                used.append(part)
        if not used:
            raise CannotShowError(" ".join([*notes, "So nothing tells where to place the item."]))
        model, data = add_items(
            self._model,
            self._data,
            new,
            item_graphs=self._item_graphs,
            id_vectors=self._id_vectors,
        )
        return Newcomer(
            model=model,
            data=data,
            id=item_ids(data).tolist()[-1],
            poster=poster_address(pixels),
            text=words,
            used=tuple(used),
            notes=tuple(notes),
        )

    def _new_id(self) -> Any:
        """An id that no item has, of the kind of theirs; ``None`` where items go by number."""
        ids = self._data[ITEM].get("id")
        if ids is None:
            return None
        if np.issubdtype(np.asarray(ids).dtype, np.integer):
            return int(np.max(ids)) + 1
        name, known = "new", set(item_ids(self._data).tolist())
        while name in known:
            name += " item"
        return name

    def _check(self) -> None:
        """Whether the first item of the catalogue can be taken in once more."""
        names = {step.name for step in self._encoding}
        table = {name: feature_table(self._data, name)[:1] for name in feature_names(self._data)}
        missing = sorted(names - table.keys())
        if missing:
            raise ValueError(
                f"'encode' needs to make feature tables that 'data' has, {sorted(table)} "
                f"(it makes {missing} too)"
            )
        name = self._new_id()
        add_items(
            self._model,
            self._data,
            new_items(None if name is None else [name], features=table),
            item_graphs=self._item_graphs,
            id_vectors=self._id_vectors,
        )


_A = {"image": "an image", "text": "a text"}
_NOTHING_IN = {
    "image": "The image was not used: the encoder finds nothing in it.",
    "text": "The text was not used: the encoder knows none of its words.",
}


def _read(image: object) -> Tensor | None:
    try:
        source = image_source(image)
        with quiet_pillow():
            return None if source is None else read_image(source)
    except ImageError as error:
        raise CannotShowError(f"The image cannot be read: {error.reason}.") from error
