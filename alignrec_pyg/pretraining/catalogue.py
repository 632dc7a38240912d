"""A catalogue on disk: one row for each item, its texts and where its image is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from alignrec_pyg.encoders.image_files import ArchivedImage, images_by_id
from alignrec_pyg.encoders.images import ImageSource
from alignrec_pyg.encoders.texts import FIELDS, clean_text, item_text

_READERS = {
    ".csv": partial(pd.read_csv, dtype=str),
    ".tsv": partial(pd.read_csv, dtype=str, sep="\t"),
    ".parquet": pd.read_parquet,
}


@dataclass(frozen=True)
class Catalogue:
    """Items with texts and images.

    Args:
        id: Id of each item.
        text: Clean text of each; ``None`` where it has none.
        image: What holds the image of each; ``None`` where it has none.
        report: What was read and what was left out, for people.
    """

    id: list[str]
    text: list[str | None]
    image: list[ImageSource | None]
    report: str

    def __len__(self) -> int:
        return len(self.id)

    def pairs(self) -> list[int]:
        """Items with both."""
        return [
            row
            for row, (text, image) in enumerate(zip(self.text, self.image, strict=True))
            if text is not None and image is not None
        ]


def read_catalogue(
    table: str | Path,
    *,
    fields: Sequence[str] = FIELDS,
    id: str = "id",
    image: str | None = None,
    images: str | Path | None = None,
) -> Catalogue:
    """Reads a table of items (``.csv``, ``.tsv`` or ``.parquet``) and finds their images.

    Args:
        table: One row for each item.
        fields: Columns that make up the text, joined by a blank where they hold something
            (paper: title, brand, description).
        id: Column of the ids.
        image: Column of images: paths, relative to ``images`` or else to the table's folder, or
            (parquet) bytes.
        images: Folder or zip file of images. Without ``image`` they are found by id: ``<id>.jpg``,
            ``.png`` and so on, in any folder below.

    Raises:
        ValueError: If the table or a column is missing, an id is missing or there twice, two
            images belong to one id, or neither ``image`` nor ``images`` is given.
    """
    path = Path(table)
    if path.suffix not in _READERS or not path.is_file():
        raise ValueError(f"'table' needs to be a {', '.join(_READERS)} file (got {path})")
    if image is None and images is None:
        raise ValueError("'image' (a column) or 'images' (a folder or zip file) is needed")
    frame = _READERS[path.suffix](path)
    wanted = [id, *fields, *([] if image is None else [image])]
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise ValueError(f"{path.name} needs columns {missing} (it has {list(frame.columns)})")
    ids = _ids(frame[id], path.name)
    texts = [
        clean_text(item_text({f: _plain(v) for f, v in zip(fields, row, strict=True)}, fields)).text
        for row in frame[list(fields)].itertuples(index=False, name=None)
    ]
    source = None if images is None else Path(images)
    found: list[ImageSource | None]
    if image is not None:
        found = _of_column(frame[image], source or path.parent)
    else:
        assert source is not None
        by_id = images_by_id(source)
        found = [by_id.get(item) for item in ids]
    both = sum(t is not None and i is not None for t, i in zip(texts, found, strict=True))
    report = (
        f"{len(ids)} items in {path.name}: {sum(t is not None for t in texts)} with a text "
        f"({' + '.join(fields)}), {sum(i is not None for i in found)} with an image, {both} pairs"
    )
    return Catalogue(ids, texts, found, report)


def _ids(column: pd.Series, name: str) -> list[str]:
    if column.isna().any():
        raise ValueError(f"{name} needs an id in every row (row {int(column.isna().argmax())})")
    ids = [str(value) for value in column]
    twice = column[column.duplicated()]
    if len(twice):
        raise ValueError(f"{name} needs every id once ({twice.iloc[0]!r} is there twice)")
    return ids


def _plain(value: object) -> object:
    """A cell as plain Python: lists for arrays, ``None`` where nothing is."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value


def _of_column(column: pd.Series, source: Path) -> list[ImageSource | None]:
    """Paths below a folder or in a zip file, or bytes."""
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
