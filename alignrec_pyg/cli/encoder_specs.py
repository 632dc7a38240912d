"""Encoders by the words of a command line, and the feature tables that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders import (
    BEiT3Encoder,
    CLIPEncoder,
    ItemEncoder,
    PatchPCAEncoder,
    SentenceTransformerEncoder,
    TfidfEncoder,
)
from alignrec_pyg.graph import ITEM, feature_names
from alignrec_pyg.pretraining.catalogue import read_catalogue
from alignrec_pyg.tables import note_on_shared_ids
from alignrec_pyg.transforms import EncodeItems

FORMS = "tfidf, patch_pca, NAME=FOLDER, NAME=hub:MODEL or NAME=clip:MODEL:WEIGHTS"
"""What :func:`encoder_spec` takes."""

LEARNED = ("tfidf", "patch_pca")
"""Encoders that learn on the catalogue; they are called by what they are."""

_IMAGE_SIZE = 64  # of patch_pca; the other encoders have their own
_HUB, _CLIP = "hub:", "clip:"


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder that was asked for: the name of its table, and a source unless it learns."""

    name: str
    source: str

    def build(
        self,
        *,
        width: int | None = None,
        modalities: Sequence[str] = ("image", "text"),
        device: str = "cpu",
    ) -> ItemEncoder:
        """The encoder; ``width`` is of those that learn, the others have their own."""
        if not self.source:
            if self.name == "tfidf":
                return TfidfEncoder(width)
            return PatchPCAEncoder(width, image_size=_IMAGE_SIZE)
        if self.source.startswith(_HUB):
            return SentenceTransformerEncoder(self.source.removeprefix(_HUB), device=device)
        if self.source.startswith(_CLIP):
            model, _, weights = self.source.removeprefix(_CLIP).partition(":")
            return CLIPEncoder(model, weights, modalities=tuple(modalities), device=device)
        folder = Path(self.source)
        if (folder / "beit3.json").is_file():
            return BEiT3Encoder.from_pretrained(folder, modalities=modalities, device=device)
        return SentenceTransformerEncoder(folder, device=device)


def encoder_spec(text: str) -> EncoderSpec:
    """Reads the words for an encoder; nothing is loaded yet.

    - ``tfidf``, ``patch_pca``: learn on the catalogue, of texts and of images;
    - ``NAME=FOLDER``: an encoder of stage 1 where ``FOLDER`` holds ``beit3.json``, else a sentence
      transformer;
    - ``NAME=hub:MODEL``: a sentence transformer, downloaded;
    - ``NAME=clip:MODEL:WEIGHTS``: an architecture of open_clip with a file of weights or one of
      its tags, which is downloaded.
    """
    if text in LEARNED:
        return EncoderSpec(text, "")
    name, _, source = text.partition("=")
    if not (name.isidentifier() and source):
        raise ValueError(f"needs to be of the form {FORMS} (got {text!r})")
    if source.startswith(_CLIP):
        model, _, weights = source.removeprefix(_CLIP).partition(":")
        if not (model and weights):
            raise ValueError(f"needs to be of the form NAME=clip:MODEL:WEIGHTS (got {text!r})")
    elif not source.startswith(_HUB) and not Path(source).is_dir():
        raise ValueError(f"{source} is no folder (a model of the hub is NAME=hub:MODEL)")
    return EncoderSpec(name, source)


def add_encoded(
    data: HeteroData,
    entries: Sequence[str],
    problems: list[str],
    *,
    items: Path | None,
    items_id: str | None = None,
    text: Sequence[str],
    image: str | None = None,
    images: Path | None,
    device: torch.device,
) -> tuple[HeteroData, list[str]]:
    """``data`` with a table for each entry of ``--encoder``, and the tables' names.

    Items that the table ``items`` lacks have no content. What does not fit joins ``problems``.
    """
    if not entries:
        if items is not None or image is not None or images is not None:
            problems.append("--items, --image, --images: nothing reads them without --encoder")
        return data, []
    if items is None or (image is None and images is None):
        problems.append("--encoder: needs --items, with --image or --images: what is to be encoded")
        return data, []
    names: list[str] = []
    try:
        found = read_catalogue(items, fields=text, id=items_id, image=image, images=images)
    except (ValueError, OSError) as error:
        problems.append(f"--items {items}: {error}")
        return data, []
    row = {str(item): row for row, item in enumerate(found.id)}
    ids = [str(item) for item in data[ITEM].id]
    rows = [row.get(item) for item in ids]
    try:
        few = note_on_shared_ids(items.name, sum(at is not None for at in rows), found.id, ids)
    except ValueError as error:
        problems.append(f"--items {items}: {error}")
        return data, []
    if few:
        print(few)
    data[ITEM].text = [None if at is None else found.text[at] for at in rows]
    data[ITEM].image = [None if at is None else found.image[at] for at in rows]
    print(f"{sum(at is not None for at in rows):,} of {len(rows):,} items are in {items.name}")
    for entry in entries:
        try:
            spec = encoder_spec(entry)
            if spec.name in feature_names(data):
                raise ValueError("the data has a table of this name already")
            encode = EncodeItems(spec.build(device=str(device)), spec.name)
            data = encode(data)
        except (ValueError, ImportError, RuntimeError, OSError) as error:
            problems.append(f"--encoder {entry}: {error}")
        else:
            names.append(spec.name)
            print(encode.report)
    for raw in ("text", "image"):  # what is evaluated are the tables
        del data[ITEM][raw]
    return data, names
