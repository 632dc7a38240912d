"""Feature tables by encoders that a command line names, from a catalogue of the items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch_geometric.data import HeteroData

from alignrec_pyg.checkpoint import CheckpointError
from alignrec_pyg.encoders import (
    BEiT3Encoder,
    ItemEncoder,
    PatchPCAEncoder,
    SentenceTransformerEncoder,
    TfidfEncoder,
)
from alignrec_pyg.graph import ITEM, feature_names
from alignrec_pyg.pretraining.catalogue import read_catalogue
from alignrec_pyg.transforms import EncodeItems

IMAGE_SIZE = 64  # of patch_pca; the other encoders have their own
LEARNED = ("tfidf", "patch_pca")
"""Encoders that learn on the catalogue."""


def named_encoder(entry: str) -> tuple[str, ItemEncoder]:
    """Name and encoder of ``tfidf``, ``patch_pca`` or ``NAME=FOLDER``.

    A folder with ``beit3.json`` holds an encoder of stage 1, any other one a sentence transformer.

    Raises:
        ValueError: If ``entry`` has another form, or the folder holds no encoder.
        CheckpointError: If the encoder of stage 1 is damaged.
        ImportError: If the encoder's package is missing.
    """
    if entry == "tfidf":
        return entry, TfidfEncoder()
    if entry == "patch_pca":
        return entry, PatchPCAEncoder(image_size=IMAGE_SIZE)
    name, _, folder = entry.partition("=")
    if not (name.isidentifier() and folder):
        raise ValueError(f"needs to be {', '.join(LEARNED)} or of the form NAME=FOLDER")
    if not Path(folder).is_dir():
        raise ValueError(f"{folder} is no folder")
    if (Path(folder) / "beit3.json").is_file():
        return name, BEiT3Encoder.from_pretrained(folder)
    return name, SentenceTransformerEncoder(Path(folder))


def add_encoded(
    data: HeteroData,
    entries: Sequence[str],
    catalogue: Path | None,
    fields: Sequence[str],
    images: Path | None,
    problems: list[str],
) -> tuple[HeteroData, list[str]]:
    """``data`` with a table for each entry of ``--encoders``, and the tables' names.

    Args:
        data: Data with the items' ids.
        entries: As :func:`named_encoder` takes them.
        catalogue: Table of items, found by their ids; items that it lacks have no content.
        fields: Its columns that make up the text.
        images: Folder or zip file of images, named by id.
        problems: What does not fit is appended.
    """
    if not entries:
        if catalogue is not None or images is not None:
            problems.append("--catalogue, --images: nothing reads them without --encoders")
        return data, []
    if catalogue is None or images is None:
        problems.append("--encoders: needs --catalogue and --images, what is to be encoded")
        return data, []
    names: list[str] = []
    try:
        items = read_catalogue(catalogue, fields=fields, images=images)
    except (ValueError, OSError) as error:
        problems.append(f"--catalogue {catalogue}: {error}")
        return data, []
    row = {str(item): row for row, item in enumerate(items.id)}
    rows = [row.get(str(item)) for item in data[ITEM].id]
    data[ITEM].text = [None if at is None else items.text[at] for at in rows]
    data[ITEM].image = [None if at is None else items.image[at] for at in rows]
    print(f"{sum(at is not None for at in rows):,} of {len(rows):,} items are in {catalogue.name}")
    for entry in entries:
        try:
            name, encoder = named_encoder(entry)
            if name in feature_names(data):
                raise ValueError("the data has a table of this name already")
            encode = EncodeItems(encoder, name)
            data = encode(data)
        except (ValueError, ImportError, CheckpointError, OSError) as error:
            problems.append(f"--encoders {entry}: {error}")
        else:
            names.append(name)
            print(encode.report)
    for raw in ("text", "image"):  # what is evaluated are the tables
        del data[ITEM][raw]
    return data, names
