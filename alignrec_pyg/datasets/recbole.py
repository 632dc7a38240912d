"""Folders with the atomic files of RecBole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from alignrec_pyg.datasets.assemble import (
    LinkColumns,
    add_content,
    assemble,
    with_equal_id_types,
    without_copies,
)
from alignrec_pyg.datasets.columns import Column, concatenated
from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.features import add_feature_by_id, feature_name
from alignrec_pyg.datasets.folders import choose_stem, existing_folder, note_unread_files
from alignrec_pyg.datasets.interactions import InteractionDataset, Keep
from alignrec_pyg.graph import ITEM
from alignrec_pyg.report import describe
from alignrec_pyg.tables import NonFinite

_PARTS = {"train": 0, "valid": 1, "val": 1, "test": 2}


class RecBoleFolder(InteractionDataset):
    """A folder with the atomic files of `RecBole <https://recbole.io>`_.

    - ``<name>.inter``, or the parts of a split: ``<name>.train.inter``, ``<name>.valid.inter``,
      ``<name>.test.inter``. They are tab-separated; the header contains the types of the fields, as
      in ``user_id:token  item_id:token  rating:float  timestamp:float``.
    - ``<name>.known``, optional, of the same form: pairs that users have had but that are no
      interactions, such as low ratings (the known pairs of :mod:`alignrec_pyg.graph`).
    - ``<name>.item``, optional: the fields ``text`` are joined as ``data["item"].text``, and those
      of type ``float_seq`` (numbers separated by spaces) become feature tables ``x_<field>``.

    Other files (``.user``, ``.kg``, ...) and fields are ignored and listed in the report. Double
    quotes are ordinary characters.

    Args:
        path: The folder.
        name: Common name of the files without suffixes, if it is not that of the folder.
        text: Fields of ``<name>.item`` that the text of an item consists of.
        features: Fields of ``<name>.item`` of type ``float_seq``; all by default.
        user: Field with user ids.
        item: Field with item ids.
        rating: Field with ratings, optional.
        time: Field with times, optional.
        keep: Whether to keep the first or the last row of a repeated (user, item) pair.
        nonfinite: Whether feature rows with NaN or infinity are an error or missing.

    Raises:
        ValueError: If a file does not have the expected format; the message contains file, line and
            column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        name: str | None = None,
        text: Sequence[str] = (),
        features: Sequence[str] | None = None,
        user: str = "user_id",
        item: str = "item_id",
        rating: str = "rating",
        time: str = "timestamp",
        keep: Keep = "first",
        nonfinite: NonFinite = "error",
    ) -> None:
        folder = existing_folder(path)
        if isinstance(text, str) or isinstance(features, str):
            raise ValueError("'text' and 'features' need to be lists of fields (got a string)")
        stem, parts = _inter_files(folder, name)
        notes: list[str] = []
        tables = [_Atomic(file, [user, item], [rating, time], notes) for file in parts]

        def joined(field: str) -> Column | None:
            there = [table for table in tables if field in table.types]
            if there and len(there) < len(tables):
                raise ValueError(f"{folder}: all parts need the field '{field}', or none")
            return concatenated([table.column(field) for table in there]) if there else None

        split = None
        if len(parts) > 1 or parts[0].name != f"{stem}.inter":
            split = concatenated(
                [
                    Column("split", np.full(table.num_rows, _label(file)), table.where)
                    for table, file in zip(tables, parts, strict=True)
                ]
            )
        links = LinkColumns(
            concatenated([table.ids(user) for table in tables]),
            concatenated([table.ids(item) for table in tables]),
            joined(rating),
            joined(time),
            split,
        )
        used = {file.name for file in parts}
        known, pairs = None, folder / f"{stem}.known"
        if pairs.is_file():
            used.add(pairs.name)
            there = _Atomic(pairs, [user, item], [rating, time], notes)
            others = (there.column(n) if n in there.types else None for n in (rating, time))
            known = LinkColumns(there.ids(user), there.ids(item), *others)
        catalogue, content = None, folder / f"{stem}.item"
        if content.is_file():
            used.add(content.name)
            listed = _Atomic(content, [item, *text], features, notes, all_vectors=features is None)
            vectors = listed.vectors(features)
            fields = {field: listed.column(field) for field in (*text, *vectors)}
            catalogue, fields = without_copies(listed.ids(item), fields, notes)
        elif text or features:
            raise ValueError(f"'text' and 'features' need the file {content} (there is none)")
        links, catalogue, known = with_equal_id_types(links, catalogue, known)
        data, duplicates = assemble(links, notes, catalogue=catalogue, known=known, keep=keep)
        dtypes = {}
        if catalogue is not None:
            add_content(data, fields, notes, text=text)
            for field in vectors:
                rows, table = _table(fields[field])
                key = feature_name(field)
                dtypes[key] = add_feature_by_id(
                    data, key, data[ITEM].id[rows], table, nonfinite, notes
                )
        note_unread_files(folder, used, notes)
        super().__init__(data, describe(data, duplicates=duplicates, notes=notes, dtypes=dtypes))


class _Atomic:
    """A tab-separated file whose header contains the fields and their types."""

    def __init__(
        self,
        path: Path,
        required: Sequence[str],
        optional: Sequence[str] | None,
        notes: list[str],
        *,
        all_vectors: bool = False,
    ) -> None:
        header = DelimitedFile(path, [], [], optional=(), quoted=False).columns
        self.types: dict[str, str] = {}
        for number, entry in enumerate(header, start=1):
            field, colon, kind = entry.rpartition(":")
            if not colon:
                raise ValueError(
                    f"{path}, line 1, column {number}: a field needs its type, as in "
                    f"'user_id:token' (got {entry!r})"
                )
            self.types[field] = kind
        missing = [field for field in required if field not in self.types]
        if missing:
            raise ValueError(
                f"{path}, line 1: the fields {', '.join(map(repr, required))} are needed "
                f"(got {list(self.types)})"
            )
        chosen = [
            field
            for field, kind in self.types.items()
            if field in (*required, *(optional or ())) or (all_vectors and kind == "float_seq")
        ]
        left = [field for field in self.types if field not in chosen]
        if left:
            notes.append(f"{path.name}: fields left unread: {', '.join(left)}")
        names = [f"{field}:{self.types[field]}" for field in chosen]
        words = [name for name in names if not name.endswith(":float")]
        self._file = DelimitedFile(path, names, notes, optional=(), text=words, quoted=False)
        self.path = path
        self.where = self._file.where
        self.num_rows = self._file.num_rows

    def column(self, field: str) -> Column:
        return replace(self._file.column(f"{field}:{self.types[field]}"), name=field)

    def ids(self, field: str) -> Column:
        return replace(self._file.ids(f"{field}:{self.types[field]}"), name=field)

    def vectors(self, chosen: Sequence[str] | None) -> list[str]:
        vectors = [field for field, kind in self.types.items() if kind == "float_seq"]
        unknown = [field for field in chosen or () if field not in vectors]
        if unknown:
            raise ValueError(
                f"'features' needs fields of type float_seq of {self.path}: {vectors} are there "
                f"(got {unknown})"
            )
        return vectors if chosen is None else list(chosen)


def _inter_files(folder: Path, name: str | None) -> tuple[str, list[Path]]:
    """The name and the files of the interactions: one file, or the parts of a split in order."""
    single: dict[str, Path] = {}
    split: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.inter")):
        stem, _, part = file.name.removesuffix(".inter").rpartition(".")
        if stem and part in _PARTS:
            split.setdefault(stem, []).append(file)
        else:
            single[file.name.removesuffix(".inter")] = file
    stem = choose_stem(folder, {*single, *split}, name)
    if stem in single:
        return stem, [single[stem]]
    return stem, sorted(split[stem], key=_label)


def _label(file: Path) -> int:
    """The label 0, 1 or 2 of a part, from the name of its file."""
    return _PARTS[file.name.removesuffix(".inter").rpartition(".")[2]]


def _table(column: Column) -> tuple[np.ndarray, np.ndarray]:
    """The non-empty rows, and their numbers, float32 ``[rows, dim]``."""
    values = column.values
    rows = np.flatnonzero(values != "")
    if not len(rows):
        raise ValueError(f"{column.where(0)}, column '{column.name}': no row holds numbers")
    width = len(values[rows[0]].split())
    table = np.empty((len(rows), width), dtype=np.float32)
    for place, row in enumerate(rows):
        try:
            table[place] = np.array(values[row].split(), dtype=np.float32)
        except ValueError:
            column.refuse(int(row), f"{width} numbers separated by blanks are needed")
    return rows, table
