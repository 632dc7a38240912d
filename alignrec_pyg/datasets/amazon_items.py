"""Readers of Amazon's item files: texts, image addresses and published image features."""

from __future__ import annotations

import ast
import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from alignrec_pyg.datasets.assemble import strings_in
from alignrec_pyg.datasets.delimited import lines_of, open_bytes
from alignrec_pyg.tables import repr_short

Version = Literal["2014", "2023"]
Field = Literal["title", "brand", "categories", "features", "description", "details"]

FIELDS: tuple[Field, ...] = get_args(Field)
"""Fields that a text can consist of; ``features`` and ``details`` are in the 2023 data only."""

_ID_FIELD = {"2014": "asin", "2023": "parent_asin"}
_ID = {
    "2014": re.compile(rb"""['"]asin['"]: ?['"]([^'"]+)['"]"""),
    "2023": re.compile(rb'"parent_asin": ?"([^"]+)"'),
}
_FORMATS: dict[Version, tuple[Callable[[str], Any], str]] = {
    "2014": (ast.literal_eval, "a Python literal"),
    "2023": (json.loads, "a JSON object"),
}
_NAMES = {"brand": {"2014": "brand", "2023": "store"}}
_MAX_LINE_BYTES = 8 << 20
_LARGEST = ("hi_res", "large", "thumb")

IMAGE_FEATURE_DIM = 4096
"""Width of the published image features."""

_RECORD = np.dtype([("id", "S10"), ("row", "<f4", (IMAGE_FEATURE_DIM,))])
_BLOCK_RECORDS = 4096


@dataclass(frozen=True)
class ItemMetadata:
    """Texts and image URLs of items.

    Args:
        text: The non-empty fields of each item, joined by a space; ``None`` if all are empty.
        image_url: URL of the first image in its largest size, or ``None``.
    """

    text: list[str | None]
    image_url: list[str | None]


def read_metadata(
    path: str | Path,
    version: Version,
    item_id: np.ndarray,
    fields: Sequence[Field],
    notes: list[str],
) -> ItemMetadata:
    """Reads the metadata of the given items; lines of other items are not parsed.

    The lines of the 2014 data are Python literals, which are parsed by :func:`ast.literal_eval`
    without running code; those of the 2023 data are JSON. The categories of 2014 are a list of
    paths, of which every category is used once, in order.

    Raises:
        ValueError: If the file is damaged, or a line of one of the items cannot be parsed; the
            message contains the line.
    """
    path = Path(path)
    row_of = {str(item).encode(): row for row, item in enumerate(item_id)}
    text: list[str | None] = [None] * len(row_of)
    image_url: list[str | None] = [None] * len(row_of)
    seen = np.zeros(len(row_of), dtype=bool)
    try:
        with open_bytes(path) as file:
            for number, line in lines_of(file, path):
                # another field may contain an id: the parsed line is decisive
                candidates = _ID[version].findall(line)
                if not any(candidate in row_of for candidate in candidates):
                    continue
                item = _parsed(version, line, path, number)
                row = row_of.get(str(item.get(_ID_FIELD[version])).encode())
                if row is None or seen[row]:
                    continue
                seen[row] = True
                text[row] = _text(item, version, fields)
                image_url[row] = _image_url(item, version)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    for what, missing in (
        ("no metadata", int((~seen).sum())),
        ("no text", text.count(None)),
        ("no image address", image_url.count(None)),
    ):
        if missing:
            notes.append(f"{path.name}: {missing:,} of {len(row_of):,} items have {what}")
    return ItemMetadata(text, image_url)


def read_image_features(
    path: str | Path, item_id: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the rows of the given items from an ``image_features_*.b`` file.

    The file is read once, in blocks; if an item has several rows, the first one is used.

    Returns:
        The ids with a row ``[rows]`` and the table, float32 ``[rows, 4096]``.

    Raises:
        ValueError: If the file does not consist of such records, or has none of the items.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0 or size % _RECORD.itemsize:
        raise ValueError(
            f"{path} needs to consist of records of {_RECORD.itemsize:,} bytes, 10 of id and "
            f"{IMAGE_FEATURE_DIM:,} floats (got {size:,} bytes): it may be cut off"
        )
    wanted = pd.Index(item_id)
    position = np.full(len(item_id), -1, dtype=np.int64)  # record of each item in the file
    records = np.memmap(path, dtype=_RECORD, mode="r")
    repeated = 0
    for start in range(0, len(records), _BLOCK_RECORDS):
        raw = np.array(records["id"][start : start + _BLOCK_RECORDS])
        try:
            ids = np.char.decode(raw, "ascii").astype(object)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: ids need to be ASCII ({error})") from error
        item = wanted.get_indexer(pd.Index(ids))
        rows = np.flatnonzero(item >= 0)
        item, first = np.unique(item[rows], return_index=True)
        repeated += len(rows) - len(item) + int((position[item] >= 0).sum())
        new = position[item] < 0
        position[item[new]] = start + rows[first[new]]
    found = np.flatnonzero(position >= 0)
    if not len(found):
        raise ValueError(f"{path} has a row for none of {len(item_id):,} items: another category?")
    if repeated:
        notes.append(f"{path.name}: {repeated:,} further rows of an item left out")
    table = np.empty((len(found), IMAGE_FEATURE_DIM), dtype=np.float32)
    order = np.argsort(position[found])  # read the file sequentially
    for start in range(0, len(order), _BLOCK_RECORDS):
        block = order[start : start + _BLOCK_RECORDS]
        table[block] = records["row"][position[found[block]]]
    return item_id[found], table


def _parsed(version: Version, line: bytes, path: Path, number: int) -> dict[str, Any]:
    parse, what = _FORMATS[version]
    if len(line) > _MAX_LINE_BYTES:
        raise ValueError(
            f"{path}, line {number}: a line needs to be below {_MAX_LINE_BYTES:,} bytes "
            f"(got {len(line):,})"
        )
    try:
        item = parse(line.decode().strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: {what} is needed ({error})") from error
    if not isinstance(item, dict):
        raise ValueError(
            f"{path}, line {number}: {what} with fields is needed (got {repr_short(item)})"
        )
    return item


def _text(item: dict[str, Any], version: Version, fields: Sequence[Field]) -> str | None:
    parts: list[str] = []
    for field in fields:
        flat = strings_in(item.get(_NAMES.get(field, {}).get(version, field)))
        parts += dict.fromkeys(flat) if field == "categories" else flat
    return " ".join(parts) or None


def _image_url(item: dict[str, Any], version: Version) -> str | None:
    if version == "2014":
        url = item.get("imUrl")
        return url if isinstance(url, str) and url else None
    images = item.get("images")
    for image in images if isinstance(images, list) else []:
        for size in _LARGEST:
            url = image.get(size) if isinstance(image, dict) else None
            if isinstance(url, str) and url:
                return url
    return None
