"""A catalogue on disk: one row for each item, its texts and where its image is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import pandas as pd

from alignrec_pyg.encoders.images import ImageError, ImageSource
from alignrec_pyg.encoders.texts import FIELDS, clean_text, item_text

_READERS = {
    ".csv": partial(pd.read_csv, dtype=str),
    ".tsv": partial(pd.read_csv, dtype=str, sep="\t"),
    ".parquet": pd.read_parquet,
}
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_LARGEST_IMAGE = 200_000_000  # bytes; an archive can claim anything


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


class ArchivedImage:
    """Fetches an image from a zip file; the file is opened once for each process.

    Args:
        archive: The zip file.
        name: Name of the image in it.
    """

    def __init__(self, archive: Path, name: str) -> None:
        self.archive = archive
        self.name = name

    def __call__(self) -> bytes:
        """Its bytes.

        Raises:
            ImageError: If they cannot be read.
        """
        try:
            archive = _opened(self.archive, os.getpid())
            if archive.getinfo(self.name).file_size > _LARGEST_IMAGE:
                raise ImageError(f"{self!r} is larger than {_LARGEST_IMAGE} bytes")
            return archive.read(self.name)
        except (BadZipFile, KeyError, OSError, RuntimeError, EOFError) as error:
            raise ImageError(f"{self!r} cannot be read ({error})") from error

    def __repr__(self) -> str:
        return f"{self.archive.name}:{self.name}"


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
        by_id = _by_id(source)
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


def _by_id(source: Path) -> dict[str, ImageSource]:
    """Images of a folder or zip file by their name without folder and ending."""
    if source.suffix == ".zip" and source.is_file():
        try:
            names = sorted(_opened(source, os.getpid()).namelist())
        except BadZipFile as error:
            raise ValueError(f"'images' needs to be a zip file ({source}: {error})") from error
        return _unique((Path(name), ArchivedImage(source, name)) for name in names)
    if not source.is_dir():
        raise ValueError(f"'images' needs to be a folder or a zip file (got {source})")
    return _unique((path, path) for path in sorted(source.rglob("*")))


def _unique(images: Iterable[tuple[Path, ImageSource]]) -> dict[str, ImageSource]:
    found: dict[str, ImageSource] = {}
    for path, image in images:
        if path.suffix.lower() not in _IMAGES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise ValueError(f"'images' needs one image for an id ({path.stem!r} has two)")
        found[path.stem] = image
    return found


@lru_cache(maxsize=8)
def _opened(archive: Path, process: int) -> ZipFile:
    """The archive; each process needs to have opened it itself."""
    return ZipFile(archive)
