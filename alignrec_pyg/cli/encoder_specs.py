"""Encoders named on a command line, and the feature tables that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import getattr_static, signature
from pathlib import Path

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import load_attribute
from alignrec_pyg.encoders import (
    BEiT3Encoder,
    CLIPEncoder,
    ImageNetEncoder,
    ItemEncoder,
    PatchPCAEncoder,
    SentenceTransformerEncoder,
    TfidfEncoder,
)
from alignrec_pyg.graph import ITEM, feature_names
from alignrec_pyg.pretraining.catalogue import read_catalogue
from alignrec_pyg.tables import note_on_shared_ids
from alignrec_pyg.transforms import EncodeItems

FORMS = (
    "tfidf, tfidf_char, patch_pca, NAME=FOLDER, NAME=hub:MODEL, NAME=clip:MODEL:WEIGHTS, "
    "NAME=timm:MODEL:WEIGHTS, NAME=torchvision:MODEL:WEIGHTS or NAME=module:Class"
)
"""What :func:`encoder_spec` takes."""

LEARNED = ("tfidf", "tfidf_char", "patch_pca")
"""Encoders that are fitted to the catalogue; their tables have the same names."""

_IMAGE_SIZE = 64  # of patch_pca; the other encoders have their own
_HUB, _WEIGHTED = "hub", ("clip", "timm", "torchvision")


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder that was asked for: the name of its table, and its source unless it is fitted."""

    name: str
    source: str

    def build(
        self,
        *,
        width: int | None = None,
        modalities: Sequence[str] = ("image", "text"),
        device: str = "cpu",
    ) -> ItemEncoder:
        """Builds the encoder; ``width`` is that of fitted encoders, the others have their own."""
        if not self.source:
            if self.name == "patch_pca":
                return PatchPCAEncoder(width, image_size=_IMAGE_SIZE)
            return TfidfEncoder(width, analyzer="word" if self.name == "tfidf" else "char")
        folder = Path(self.source)
        if (folder / "beit3.json").is_file():
            return BEiT3Encoder.from_pretrained(folder, modalities=modalities, device=device)
        if folder.is_dir():
            return SentenceTransformerEncoder(folder, device=device)
        kind, _, rest = self.source.partition(":")
        model, _, weights = rest.partition(":")
        if kind == _HUB:
            return SentenceTransformerEncoder(rest, device=device)
        if kind == "clip":
            return CLIPEncoder(model, weights, modalities=tuple(modalities), device=device)
        if kind == "timm":
            return ImageNetEncoder.from_timm(model, weights, device=device)
        if kind == "torchvision":
            return ImageNetEncoder.from_torchvision(model, weights, device=device)
        return _own(self.source, device)


def encoder_spec(text: str) -> EncoderSpec:
    """Parses an entry of ``--encoder``; nothing is loaded yet.

    - ``tfidf``, ``tfidf_char``, ``patch_pca``: fitted to the words, the characters (for languages
      without blanks between words) or the images of the catalogue;
    - ``NAME=FOLDER``: an encoder of stage 1 where ``FOLDER`` holds ``beit3.json``, else a sentence
      transformer;
    - ``NAME=hub:MODEL``: a sentence transformer, downloaded;
    - ``NAME=clip:MODEL:WEIGHTS``: an architecture of open_clip with a file of weights or one of
      its tags, which is downloaded;
    - ``NAME=timm:MODEL:WEIGHTS``, ``NAME=torchvision:MODEL:WEIGHTS``: an architecture of these
      packages with a file of weights (:class:`~alignrec_pyg.encoders.ImageNetEncoder`);
    - ``NAME=module:Class``: an encoder of your own, or a function that makes one, called without
      arguments, or with ``device`` where it takes it.
    """
    if text in LEARNED:
        return EncoderSpec(text, "")
    name, _, source = text.partition("=")
    if not (name.isidentifier() and source):
        raise ValueError(f"needs to be of the form {FORMS} (got {text!r})")
    kind, colon, rest = source.partition(":")
    if Path(source).is_dir() or (kind == _HUB and rest):
        return EncoderSpec(name, source)
    if not colon:
        raise ValueError(f"{source} is no folder (a model of the hub is NAME=hub:MODEL)")
    if kind not in _WEIGHTED:
        load_attribute(source)
    elif not all(rest.partition(":")):
        raise ValueError(f"needs to be of the form NAME={kind}:MODEL:WEIGHTS (got {text!r})")
    return EncoderSpec(name, source)


def _own(path: str, device: str) -> ItemEncoder:
    """An encoder that the user wrote."""
    make = load_attribute(path)
    try:
        arguments = {"device": device} if "device" in signature(make).parameters else {}
        signature(make).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{path} needs to be a class or function to be called without arguments, or with "
            f"'device' ({error})"
        ) from error
    encoder = make(**arguments)
    missing = [
        name
        for name in ("modalities", "out_dim", "cache_key")  # not read: it may hash
        if getattr_static(encoder, name, None) is None
    ]
    if missing or not callable(encoder):
        raise ValueError(
            f"{path} needs to make an encoder, which has 'modalities', 'out_dim' and 'cache_key' "
            f"and is called with items (got {encoder!r} without {missing or 'a __call__'})"
        )
    return encoder


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

    Items that the table ``items`` lacks have no content. Mistakes are appended to ``problems``.
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
