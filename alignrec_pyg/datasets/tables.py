"""Common interface to tables in csv, tsv, jsonl and parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pa_parquet

from alignrec_pyg.datasets.arrow import arrow_column, in_one_piece
from alignrec_pyg.datasets.columns import Column
from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.json_lines import JsonLines

DELIMITED = (".csv", ".tsv", ".txt", ".inter")
JSON_LINES = (".jsonl", ".json", ".ndjson")
PARQUET = (".parquet", ".pq")


_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)  # the last of names and metadata


class ParquetFile:
    """The columns of a parquet file, as :class:`~alignrec_pyg.datasets.delimited.DelimitedFile`.

    Raises:
        ValueError: If the file is damaged, has no rows, or lacks a column.
    """

    def __init__(
        self, path: Path, required: Sequence[str], *, optional: Sequence[str] | None = None
    ) -> None:
        self.path = path
        try:
            schema = pa_parquet.read_schema(path)
        except _DAMAGE as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        self.columns = list(schema.names)
        missing = [name for name in required if name not in self.columns]
        if missing:
            raise ValueError(
                f"{path}: the columns {', '.join(map(repr, required))} are needed "
                f"(got {self.columns})"
            )
        chosen = [n for n in self.columns if optional is None or n in (*required, *optional)]
        try:
            strings = [name for name in chosen if pa.types.is_string(schema.field(name).type)]
            if chosen:
                self._table = in_one_piece(
                    lambda: pa_parquet.read_table(path, columns=chosen, read_dictionary=strings)
                )
        except _DAMAGE as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if chosen and self._table.num_rows == 0:
            raise ValueError(f"{path}: at least one row is needed")

    def column(self, name: str) -> Column:
        """The column ``name``, with the number of each row."""
        try:
            return arrow_column(name, self._table[name], self.where)
        except _DAMAGE as error:  # such as strings that are not UTF-8, which Arrow reads unchecked
            raise ValueError(
                f"{self.path}, column '{name}' cannot be read: {error}; write the file again"
            ) from error

    def ids(self, name: str) -> Column:
        """The column ``name`` of original ids: whole numbers or strings, as stored."""
        return self.column(name)

    def where(self, row: int) -> str:
        """The location of a row, counted from 0, for messages."""
        return f"{self.path}, row {row}"


Table: TypeAlias = DelimitedFile | JsonLines | ParquetFile
"""A table whose rows have a location in a file."""


def open_table(
    path: str | Path,
    required: Sequence[str],
    notes: list[str],
    *,
    optional: Sequence[str] | None = None,
    text: Sequence[str] = (),
    ids: Sequence[str] = (),
    quoted: bool = True,
) -> Table:
    """Opens a csv, tsv, jsonl (each optionally with ``.gz``) or parquet file, by its suffix.

    Columns of ``text`` may hold anything that becomes text, those of ``ids`` hold ids. The other
    arguments are those of :class:`~alignrec_pyg.datasets.delimited.DelimitedFile`.

    Raises:
        ValueError: If the file does not exist, has another suffix, or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"'{path}' needs to be a file (there is none)")
    kind = ending(path)
    if kind in DELIMITED:
        return DelimitedFile(
            path, required, notes, optional=optional, text=[*text, *ids], quoted=quoted
        )
    if kind in JSON_LINES:
        return JsonLines(path, required, notes, optional=optional, text=text)
    if kind in PARQUET:
        return ParquetFile(path, required, optional=optional)
    known = [*DELIMITED, *JSON_LINES, *PARQUET]
    raise ValueError(f"'{path}' needs a name that ends in one of {known}, or .gz after it")


def ending(path: Path) -> str:
    """The suffix of a file without ``.gz``: ``.csv`` for ``ratings.csv.gz``."""
    return (Path(path.stem) if path.suffix == ".gz" else path).suffix.lower()
