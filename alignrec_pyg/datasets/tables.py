"""One way to open a table, whatever its format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pa_parquet

from alignrec_pyg.datasets.arrow import column_values
from alignrec_pyg.datasets.columns import Column
from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.json_lines import JsonLines

DELIMITED = (".csv", ".tsv", ".txt", ".inter")
JSON_LINES = (".jsonl", ".json", ".ndjson")
PARQUET = (".parquet", ".pq")


class Table(Protocol):
    """Columns whose rows know their place in a file."""

    path: Path
    columns: list[str]

    def column(self, name: str) -> Column:
        """The column ``name``."""

    def ids(self, name: str) -> Column:
        """The column ``name`` of outside ids."""

    def where(self, row: int) -> str:
        """Outside name of a row."""


class ParquetFile:
    """Columns of a parquet file.

    Args:
        path: The file.
        required: Columns it must have.
        optional: Columns to read where it has them; all by default. With neither these nor required
            ones, no row is read.

    Raises:
        ValueError: If it is damaged, has no row or no such columns.
    """

    def __init__(
        self, path: Path, required: Sequence[str], *, optional: Sequence[str] | None = None
    ) -> None:
        self.path = path
        try:
            schema = pa_parquet.read_schema(path)
            self.columns = list(schema.names)
            missing = [name for name in required if name not in self.columns]
            if missing:
                raise ValueError(
                    f"{path}: the columns {', '.join(map(repr, required))} are needed "
                    f"(got {self.columns})"
                )
            chosen = [n for n in self.columns if optional is None or n in (*required, *optional)]
            strings = [name for name in chosen if pa.types.is_string(schema.field(name).type)]
            if chosen:
                self._table = pa_parquet.read_table(path, columns=chosen, read_dictionary=strings)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if chosen and self._table.num_rows == 0:
            raise ValueError(f"{path}: at least one row is needed")

    def column(self, name: str) -> Column:
        """The column ``name``, whose rows know their number."""
        return Column(name, column_values(self._table[name]), self.where)

    def ids(self, name: str) -> Column:
        """The column ``name`` of outside ids: whole numbers or strings, as they are stored."""
        return self.column(name)

    def where(self, row: int) -> str:
        """Outside name of a row, counted from 0."""
        return f"{self.path}, row {row}"


def open_table(
    path: str | Path,
    required: Sequence[str],
    notes: list[str],
    *,
    optional: Sequence[str] | None = None,
    text: Sequence[str] = (),
) -> Table:
    """Open a csv, tsv, jsonl (each plain or ``.gz``) or parquet file by the end of its name.

    Args:
        path: The file.
        required: Columns it must have.
        notes: Counted notes, appended to.
        optional: Columns to read where it has them; all by default.
        text: Columns whose values are text, also where they look like numbers.

    Raises:
        ValueError: If there is no such file, its name ends otherwise, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"'{path}' needs to be a file (there is none)")
    kind = ending(path)
    if kind in DELIMITED:
        return DelimitedFile(path, required, notes, optional=optional, text=text)
    if kind in JSON_LINES:
        return JsonLines(path, required, notes, optional=optional)
    if kind in PARQUET:
        return ParquetFile(path, required, optional=optional)
    known = [*DELIMITED, *JSON_LINES, *PARQUET]
    raise ValueError(f"'{path}' needs a name that ends in one of {known}, or .gz after it")


def ending(path: Path) -> str:
    """The end of a file's name, without ``.gz``: ``.csv`` of ``ratings.csv.gz``."""
    return (Path(path.stem) if path.suffix == ".gz" else path).suffix.lower()
