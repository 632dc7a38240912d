"""A catalogue of items: read from a table of texts and images, encoded to feature tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets.recognition import GUESSES
from alignrec_pyg.encoders import BEiT3Encoder
from alignrec_pyg.encoders.images import ArchivedImage, ImageSource, images_by_id
from alignrec_pyg.encoders.texts import FIELDS, clean_text, item_text
from alignrec_pyg.graph import ITEM, feature_key
from alignrec_pyg.storage import write_array, write_manifest
from alignrec_pyg.tables import note_on_shared_ids
from alignrec_pyg.transforms import EncodeItems

_READERS = {
    ".csv": partial(pd.read_csv, dtype=str),
    ".tsv": partial(pd.read_csv, dtype=str, sep="\t"),
    ".parquet": pd.read_parquet,
}
_IDS = ("id", *GUESSES["item"])


@dataclass(frozen=True)
class Catalogue:
    """Items with their clean texts and images, and how many have them, in one sentence."""

    id: list[str]
    text: list[str | None]
    image: list[ImageSource | None]
    report: str

    def __len__(self) -> int:
        return len(self.id)

    def pairs(self) -> list[int]:
        """Rows of the items that have a text and an image."""
        return [
            row
            for row, (text, image) in enumerate(zip(self.text, self.image, strict=True))
            if text is not None and image is not None
        ]


def read_catalogue(
    table: str | Path,
    *,
    fields: Sequence[str] = FIELDS,
    id: str | None = None,
    image: str | None = None,
    images: str | Path | None = None,
) -> Catalogue:
    """Reads a table of items (``.csv``, ``.tsv`` or ``.parquet``) and finds their images.

    ``fields`` are the columns of the text, joined by a blank (paper: title, brand, description).
    ``id`` is the column of ids (default: ``"id"`` or another usual name, such as ``"item_id"``).
    ``image`` is a column of paths relative to ``images``, by default to the table's folder, or of
    the bytes of files (parquet). Without it, images are found in the folder or zip file ``images``
    by id: ``<id>.jpg``, ``<id>.png`` and so on, in any folder below.

    Raises:
        ValueError: If the file, a column or all images are missing, or an id or image is repeated.
    """
    path = Path(table)
    if path.suffix not in _READERS or not path.is_file():
        raise ValueError(f"a table of items needs to be a {', '.join(_READERS)} file (got {path})")
    frame = _READERS[path.suffix](path)
    id = id or next((name for name in _IDS if name in frame.columns), _IDS[0])
    wanted = [id, *fields, *([] if image is None else [image])]
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise ValueError(f"{path.name} needs columns {missing} (it has {list(frame.columns)})")
    ids = _ids(frame[id], path.name)
    rows = frame[list(dict.fromkeys(fields))].to_dict("records")
    texts = [clean_text(item_text(row, fields)).text for row in rows]
    found: list[ImageSource | None]
    if image is not None:
        found = _from_column(frame[image], Path(images or path.parent))
    elif images is not None:
        by_id = images_by_id(images)
        found = [by_id.get(item) for item in ids]
        num_found = sum(image is not None for image in found)
        note_on_shared_ids(f"{images}, by their names,", num_found, list(by_id), ids)
    else:
        raise ValueError("'image' (a column) or 'images' (a folder or zip file) is needed")
    both = sum(t is not None and i is not None for t, i in zip(texts, found, strict=True))
    report = (
        f"{len(ids)} items in {path.name}: {sum(t is not None for t in texts)} with a text "
        f"({' + '.join(fields)}), {sum(i is not None for i in found)} with an image, {both} pairs"
    )
    return Catalogue(ids, texts, found, report)


def _ids(column: pd.Series, name: str) -> list[str]:
    if column.isna().any():
        raise ValueError(f"{name} needs an id in every row (row {int(column.isna().argmax())})")
    if column.dtype.kind == "f" and (column == column.round()).all():
        column = column.astype("int64")  # a column that once held a missing value
    ids = [str(value) for value in column]
    twice = column[column.duplicated()]
    if len(twice):
        raise ValueError(f"{name} needs every id once ({twice.iloc[0]!r} is repeated)")
    return ids


def _from_column(column: pd.Series, source: Path) -> list[ImageSource | None]:
    """Images whose cells are paths, below a folder or in a zip file, or bytes."""
    archive = source.suffix == ".zip"
    found: list[ImageSource | None] = []
    for value in column:
        if isinstance(value, bytes):
            found.append(value)
        elif isinstance(value, str) and value.strip():
            name = value.strip()
            found.append(ArchivedImage(source, name) if archive else source / name)
        else:
            found.append(None)
    return found


TABLES = {
    "features": ("image", "text"),
    "features_of_text": ("text",),
    "features_of_image": ("image",),
}
"""The tables by the name of their file, with the modalities they are encoded from. The tables of
one modality replace the rows of masked items in the mask-modality evaluation."""

_BATCH = 64


def write_features(
    folder: Path,
    encoder: BEiT3Encoder,
    catalogue: Catalogue,
    *,
    device: torch.device | str,
    num_workers: int,
    max_failures: float,
    log: Callable[[str], None],
) -> None:
    """Writes each of :data:`TABLES` as ``.npy``, with the rows of the catalogue, and a ``.json``.

    Encoded batches are kept in the folder ``encoded``, so that an interrupted call continues. A
    table appears when it is complete. An item without image and text has a row of zeros.
    """
    data = HeteroData()
    data[ITEM].num_nodes = len(catalogue)
    data[ITEM].text, data[ITEM].image = catalogue.text, catalogue.image
    for name, modalities in TABLES.items():
        table_encoder = BEiT3Encoder(
            encoder.model,
            encoder.tokenizer,
            modalities=modalities,
            max_tokens=encoder.max_tokens,
            device=device,
        )
        encode = EncodeItems(
            table_encoder,
            name,
            batch_size=_BATCH,
            cache_dir=folder / "encoded",
            num_workers=num_workers,
            max_failures=max_failures,
        )
        write_array(folder / f"{name}.npy", encode(data)[ITEM][feature_key(name)].numpy())
        report = str(encode.report)
        write_manifest(
            folder / f"{name}.json",
            {"encoder": table_encoder.cache_key, "id": catalogue.id, "report": report.splitlines()},
        )
        log(report)
