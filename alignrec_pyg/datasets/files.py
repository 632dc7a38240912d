"""Datasets from csv, tsv, parquet and jsonl files with any ids and column names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alignrec_pyg.datasets.assemble import (
    LinkColumns,
    add_content,
    assemble,
    with_equal_id_types,
    without_copies,
)
from alignrec_pyg.datasets.columns import Column, checked_ids
from alignrec_pyg.datasets.features import add_feature_by_id, check_feature_name
from alignrec_pyg.datasets.interactions import InteractionDataset, Keep
from alignrec_pyg.datasets.tables import open_table
from alignrec_pyg.graph import ITEM
from alignrec_pyg.ids import ids_from_texts
from alignrec_pyg.report import describe
from alignrec_pyg.tables import NonFinite, read_npy


def from_files(
    interactions: str | Path,
    items: str | Path | None = None,
    features: Mapping[str, tuple[str | Path, str | Path]] | None = None,
    *,
    user: str = "user",
    item: str = "item",
    items_id: str | None = None,
    rating: str | None = None,
    time: str | None = None,
    split: str | None = None,
    text: str | Sequence[str] | None = None,
    image: str | None = None,
    image_url: str | None = None,
    known: str | Path | None = None,
    keep: Keep = "first",
    nonfinite: NonFinite = "error",
    quoted: bool = True,
) -> InteractionDataset:
    """Reads a dataset from csv, tsv, jsonl (each uncompressed or with gzip) or parquet files.

    Only the specified columns are parsed. Users and items are indexed as in
    :func:`~alignrec_pyg.datasets.from_frames`; ids in csv and tsv files are whole numbers if all of
    them are canonical ones (``7``, not ``007``), otherwise strings.

    Args:
        interactions: File with one row per interaction.
        items: File with one row per item, possibly with items without interactions.
        features: A pair ``(matrix, ids)`` for each name: a ``.npy`` file, and a text file with the
            item id of each of its rows, one per line.
        user: Column of ``interactions`` with user ids.
        item: Column of ``interactions`` with item ids.
        items_id: Column of ``items`` with item ids; by default it has the name ``item``, too.
        rating: Column of ``interactions``, optional.
        time: Column of ``interactions``, optional: numbers in any unit, or date-times.
        split: Column of ``interactions``, optional: 0/1/2 or train/val/test.
        text: Column or columns of ``items``, joined by a space as ``data["item"].text`` (list of
            strings; None if all are empty).
        image: Column of ``items`` with the path of an image file, absolute or relative to the
            folder of ``items``, stored as ``data["item"].image_path`` (list; None if empty).
        image_url: Column of ``items`` with the URL of an image, stored as
            ``data["item"].image_url`` for :func:`~alignrec_pyg.datasets.fetch_images`.
        known: File with pairs that users have had but that are no interactions, such as views: the
            known pairs of :mod:`alignrec_pyg.graph`, never recommended. It has the columns ``user``
            and ``item``, and ``rating`` and ``time`` where they are there.
        keep: Whether to keep the first or the last row of a repeated (user, item) pair.
        nonfinite: Whether feature rows with NaN or infinity are an error or missing.
        quoted: Whether fields of csv and tsv files may be enclosed in double quotes, which are
            otherwise ordinary characters.

    Raises:
        ValueError: If a file or a column is missing or has invalid values; the message has one line
            for each such column, with file, line and column of the first invalid value.
    """
    notes: list[str] = []
    wanted = [name for name in (user, item, rating, time, split) if name]
    table = open_table(interactions, wanted, notes, optional=(), ids=[user, item], quoted=quoted)
    links = LinkColumns(
        table.ids(user),
        table.ids(item),
        *(table.column(name) if name else None for name in (rating, time, split)),
    )
    fields = [] if text is None else [text] if isinstance(text, str) else list(text)
    content = [*fields, *(name for name in (image, image_url) if name)]
    if items is None and content:
        raise ValueError(
            "'text', 'image' and 'image_url' need the file 'items', whose columns they name"
        )
    catalogue, pairs = None, None
    columns: dict[str, Column] = {}
    if items is not None:
        key = items_id or item
        listed = open_table(
            items,
            [key, *content],
            notes,
            optional=(),
            text=[name for name in content if name != key],
            ids=[key],
            quoted=quoted,
        )
        columns = {name: listed.column(name) for name in content}
        catalogue, columns = without_copies(listed.ids(key), columns, notes)
    if known is not None:
        pairs = _known_columns(Path(known), user, item, rating, time, notes, quoted)
    links, catalogue, pairs = with_equal_id_types(links, catalogue, pairs)
    data, duplicates = assemble(links, notes, catalogue=catalogue, known=pairs, keep=keep)
    if items is not None:
        folder = Path(items).parent
        add_content(
            data, columns, notes, text=text, image=image, image_url=image_url, folder=folder
        )
    dtypes: dict[str, str] = {}
    for name, (matrix, ids) in (features or {}).items():
        check_feature_name(name)
        array = read_npy(Path(matrix))
        rows = _row_ids(Path(ids), data[ITEM].id, notes)
        dtypes[name] = add_feature_by_id(data, name, rows, array, nonfinite, notes)
    return InteractionDataset(
        data, describe(data, duplicates=duplicates, notes=notes, dtypes=dtypes)
    )


def _known_columns(
    path: Path,
    user: str,
    item: str,
    rating: str | None,
    time: str | None,
    notes: list[str],
    quoted: bool,
) -> LinkColumns:
    values = [name for name in (rating, time) if name is not None]
    ids = [user, item]
    table = open_table(path, ids, notes, optional=values, ids=ids, quoted=quoted)
    others = (
        table.column(name) if name is not None and name in table.columns else None
        for name in (rating, time)
    )
    return LinkColumns(table.ids(user), table.ids(item), *others)


def _row_ids(path: Path, item_id: np.ndarray, notes: list[str]) -> np.ndarray:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} needs to be a text file of ids, one a line ({error})") from error
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{path}, line 1: at least one id is needed")
    column = Column("ids", np.array(lines, dtype=object), lambda row: f"{path}, line {row + 1}")
    checked_ids(column, notes)
    ids = np.array(ids_from_texts(item_id, lines), dtype=object)
    if item_id.dtype == object:
        return ids
    whole = np.array([isinstance(entry, int) for entry in ids])
    if not whole.all():
        column.refuse(~whole, "an id needs to be a whole number, like those of the items")
    return ids.astype(np.int64)
