"""Reader of tab- and comma-separated files, with error messages that contain the line."""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from alignrec_pyg.datasets.arrow import arrow_column, arrow_ids, empty_rows, in_one_piece
from alignrec_pyg.datasets.columns import Column
from alignrec_pyg.tables import repr_short

_SEPARATORS = {"\t": "tab", ",": "comma"}
MAX_LINE_BYTES = 1 << 26
"""Most bytes of a line of a file, 64 MiB: a small gzip file may inflate to any number."""

_HEADER_BYTES = 1 << 16
_FIRST_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 24
_END = "end"  # a line after the last one: a row of its own unless it is within quotes
_BOM = b"\xef\xbb\xbf"
_TEXT = pa.dictionary(pa.int32(), pa.string())


def open_bytes(path: Path) -> BinaryIO:
    """Opens a file for reading bytes; files whose names end in ``.gz`` are decompressed."""
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def lines_of(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """The number (from 1) and bytes of every line.

    Raises:
        ValueError: If a line has more than :data:`MAX_LINE_BYTES`.
    """
    for number in count(1):
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        _check_length(line, f"{path}, line {number}")
        yield number, line


def _check_length(line: str | bytes, where: str) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(
            f"{where}: a line needs to be below {MAX_LINE_BYTES:,} bytes: break it up, or write "
            "the table as parquet"
        )


class DelimitedFile:
    """A tab- or comma-separated table in UTF-8 with a header, uncompressed or with gzip.

    Blank lines are skipped and counted; white space around column names is removed.

    Args:
        path: The file; it is decompressed if its name ends in ``.gz``.
        required: Columns that the header needs to have.
        notes: Notes on the data, appended to.
        optional: Columns to read if the header has them; all by default. Without required and
            optional columns, only the header is read.
        as_text: Whether to read all values as strings, including empty ones and ids such as ``NA``.
        text: Columns to read as strings.
        names: Names of the columns of a file without a header.
        quoted: Whether fields may be enclosed in double quotes, which are otherwise ordinary
            characters.

    Raises:
        ValueError: If the file is empty, not UTF-8, lacks a column, or a line has more or fewer
            fields than the header.
    """

    def __init__(
        self,
        path: Path,
        required: Sequence[str],
        notes: list[str],
        *,
        optional: Sequence[str] | None = None,
        as_text: bool = False,
        text: Sequence[str] = (),
        names: Sequence[str] | None = None,
        quoted: bool = True,
    ) -> None:
        self.path = path
        self._quoted = quoted
        self._first_line = 2 if names is None else 1  # line of row 0
        self._extra_lines: int | None = None
        self._file_rows = -1  # unknown before the file is read
        self._separator, self.columns = self._header(required, names, notes)
        chosen = [
            name
            for name in self.columns
            if optional is None or name in optional or name in required
        ]
        if not chosen:
            return
        table = self._read(chosen, chosen if as_text else [name for name in chosen if name in text])
        self._file_rows = table.num_rows
        blank = self._blank_rows(table)
        self._rows = np.flatnonzero(~blank) if blank.any() else None
        if self._rows is not None:
            notes.append(f"{path.name}: {int(blank.sum()):,} blank lines skipped")
            table = table.filter(pa.array(~blank))
        if table.num_rows == 0:
            raise ValueError(
                f"{path}, line {self._first_line}: at least one row is needed"
                + (" below the header" if names is None else "")
            )
        self._table = table
        self._note_quoted_lines(notes)

    @property
    def num_rows(self) -> int:
        """Number of rows without blank lines."""
        return int(self._table.num_rows)

    def column(self, name: str) -> Column:
        """The column ``name``, with the line of each row."""
        return arrow_column(name, self._table[name], self.where)

    def ids(self, name: str) -> Column:
        """The column ``name`` of original ids, which was read as text.

        The ids are int64 if all of them are canonical whole numbers (``7``, not ``007`` or
        ``7.0``), otherwise strings.
        """
        return arrow_ids(name, self._table[name], self.where)

    def where(self, row: int) -> str:
        """The location of a row, for messages."""
        return f"{self.path}, line {self._line(row if self._rows is None else self._rows[row])}"

    def _line(self, row: int) -> int:
        """The line at which row ``row`` of the file begins, including blank rows."""
        if not self._quoted:
            return int(row) + self._first_line
        if self._file_rows >= 0 and not self._lines_in_quotes():
            return int(row) + self._first_line
        for number, (line, _) in enumerate(self._records()):
            if number == row + self._first_line - 1:
                return line
        return int(row) + self._first_line

    def _lines_in_quotes(self) -> int:
        """How many lines are not the beginning of a row, but within a quoted field."""
        if self._extra_lines is None:
            with open_bytes(self.path) as file:
                lines, last = 0, b""
                for block in iter(lambda: file.read(1 << 20), b""):
                    lines, last = lines + block.count(b"\n"), block
            lines += not last.endswith(b"\n")
            self._extra_lines = lines - (self._file_rows + self._first_line - 1)
        return self._extra_lines

    def _note_quoted_lines(self, notes: list[str]) -> None:
        """Notes lines within quotes, and refuses a quote that nothing closes.

        Where a quote is an ordinary character, it would hide all lines up to the next one.
        """
        if not self._quoted or self._lines_in_quotes() <= 0:
            return
        way_out = "quoted=False takes double quotes as ordinary characters"
        first = hidden = line = 0
        fields: list[str] = []
        for line, fields in self._records(_END):
            within = [part for field in fields for part in field.split("\n")[1:]]
            rows = [part.count(self._separator) >= len(self.columns) - 1 for part in within]
            hidden += sum(rows)
            first = first or line * any(rows)
        if fields != [_END]:
            raise ValueError(
                f"{self.path}, line {line}: a field begins with a double quote that nothing "
                f"closes, and hides the lines below; {way_out}"
            )
        if hidden:
            notes.append(
                f"ATTENTION: {self.path.name}: {hidden:,} lines that look like rows are within "
                f"double quotes, and no rows of their own (first below line {first}); {way_out}"
            )

    def _records(self, *more: str) -> Iterator[tuple[int, list[str]]]:
        """The line and fields of every record (slow); quoted records may span several lines.

        ``more`` are lines after the last one.
        """
        with open_bytes(self.path) as file:
            text = io.TextIOWrapper(file, "utf-8", errors="replace", newline="")
            with _long_fields():
                reader = csv.reader(
                    chain(self._text_lines(text), more),
                    delimiter=self._separator,
                    quoting=csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE,
                )
                line = 1
                try:
                    for fields in reader:
                        yield line, fields
                        line = reader.line_num + 1
                except csv.Error as error:
                    raise ValueError(
                        f"{self.path}, line {line} cannot be parsed: {error}"
                    ) from error

    def _text_lines(self, text: TextIO) -> Iterator[str]:
        while line := text.readline(MAX_LINE_BYTES + 1):
            _check_length(line, str(self.path))
            yield line

    def _header(
        self, required: Sequence[str], names: Sequence[str] | None, notes: list[str]
    ) -> tuple[str, list[str]]:
        try:
            with open_bytes(self.path) as file:
                line = file.readline(_HEADER_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{self.path} cannot be read: {error}") from error
        if self.path.suffix == ".gz":
            notes.append(f"{self.path.name}: read through gzip")
        if line.startswith(_BOM):
            notes.append(f"{self.path.name}: byte-order mark skipped")
        if line.endswith(b"\r\n"):
            notes.append(f"{self.path.name}: lines end in CRLF")
        try:
            text = line.removeprefix(_BOM).decode().strip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path}, line 1: the file needs to be UTF-8 ({error})"
            ) from error
        if "\r" in text:
            raise ValueError(
                f"{self.path}, line 1: lines need to end in LF or CRLF (got CR alone, as of old "
                "Macs): open the file in an editor or spreadsheet and save it again"
            )
        if names is not None:
            return self._separator_of(text, names), list(names)
        candidates = []
        for separator in _SEPARATORS:
            found = [name.strip() for name in self._fields(text, separator)]
            if set(required) <= set(found):
                candidates.append((separator, found))
        if candidates:
            separator, found = max(candidates, key=lambda candidate: len(candidate[1]))
            if len(set(found)) < len(found):
                raise ValueError(
                    f"{self.path}, line 1: column names need to be distinct (got {found})"
                )
            return separator, found
        wanted = ", ".join(f"'{name}'" for name in required)
        got = repr(text if len(text) <= 80 else text[:80] + "...")
        if all(name in text for name in required):
            raise ValueError(
                f"{self.path}, line 1: fields need to be separated by tab or comma (got {got})"
            )
        raise ValueError(f"{self.path}, line 1: a header with {wanted} is needed (got {got})")

    def _fields(self, text: str, separator: str) -> list[str]:
        if not self._quoted:
            return text.split(separator)
        try:
            with _long_fields():
                return next(csv.reader([text], delimiter=separator), [])
        except csv.Error as error:
            raise ValueError(f"{self.path}, line 1 cannot be parsed: {error}") from error

    def _separator_of(self, text: str, names: Sequence[str]) -> str:
        for separator in _SEPARATORS:
            if text.count(separator) == len(names) - 1:
                return separator
        raise ValueError(
            f"{self.path}, line 1: {len(names)} fields ({', '.join(names)}) separated by tab or "
            f"comma are needed (got {repr_short(text)})"
        )

    def _read(self, chosen: list[str], text: list[str]) -> pa.Table:
        kinds = dict.fromkeys(text, _TEXT)
        try:
            try:
                table = self._parse(chosen, self._first_kinds(chosen, kinds))
            except pa.ArrowInvalid:  # such as decimals after whole numbers
                table = self._parse(chosen, kinds)
        except pa.ArrowInvalid as error:
            self._refuse_encoding(error)
            self._refuse_ragged(chosen, error)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{self.path} cannot be read: {error}") from error
        if any(pa.types.is_binary(kind) for kind in table.schema.types):
            self._refuse_encoding(None)
        return table

    def _first_kinds(self, chosen: list[str], kinds: dict[str, Any]) -> dict[str, Any]:
        """The types of the columns in the first block.

        With types that are given, Arrow lets go of each block; otherwise, it holds the whole file.
        """
        with open_bytes(self.path) as file:
            options = self._options(chosen, kinds, block_size=_FIRST_BYTES)
            with pa_csv.open_csv(file, **options) as reader:
                return dict(zip(reader.schema.names, reader.schema.types, strict=True))

    def _parse(self, chosen: list[str], kinds: dict[str, Any]) -> pa.Table:
        with open_bytes(self.path) as file:
            return in_one_piece(partial(pa_csv.read_csv, file, **self._options(chosen, kinds)))

    def _options(
        self,
        chosen: list[str],
        kinds: dict[str, Any],
        *,
        block_size: int | None = None,
        handle: Callable[[pa_csv.InvalidRow], str] | None = None,
    ) -> dict[str, Any]:
        return {
            "read_options": pa_csv.ReadOptions(
                use_threads=handle is None,
                block_size=block_size or _BLOCK_BYTES,
                skip_rows=self._first_line - 1,
                column_names=self.columns,
            ),
            "parse_options": pa_csv.ParseOptions(
                delimiter=self._separator,
                quote_char='"' if self._quoted else False,
                newlines_in_values=self._quoted,
                ignore_empty_lines=False,  # so that row r is line r + 2
                # of text that is not UTF-8, calling it would print an error of its own
                invalid_row_handler=handle,
            ),
            "convert_options": pa_csv.ConvertOptions(include_columns=chosen, column_types=kinds),
        }

    def _blank_rows(self, table: pa.Table) -> np.ndarray:
        blank = empty_rows(table)
        if blank.any() and len(table.column_names) < len(self.columns):
            # columns that were not read may have values
            rows = {int(row) + self._first_line - 1 for row in np.flatnonzero(blank)}
            for number, (_, fields) in enumerate(self._records()):
                if number in rows and any(field.strip() for field in fields):
                    blank[number - self._first_line + 1] = False
        return blank

    def _refuse_encoding(self, error: Exception | None) -> None:
        with open_bytes(self.path) as file:
            for number, line in lines_of(file, self.path):
                try:
                    line.decode()
                except UnicodeDecodeError as place:
                    raise ValueError(
                        f"{self.path}, line {number}, byte {place.start + 1}: "
                        "the file needs to be UTF-8"
                    ) from error

    def _refuse_ragged(self, chosen: list[str], error: Exception) -> NoReturn:
        # parse again without threads, since only then the number of the invalid row is known
        width = len(self.columns)
        bad: list[pa_csv.InvalidRow] = []

        def handle(row: pa_csv.InvalidRow) -> str:
            bad.append(row)
            return "error"

        options = self._options(chosen, {}, block_size=MAX_LINE_BYTES, handle=handle)
        try:
            with open_bytes(self.path) as file:
                pa_csv.read_csv(file, **options)
        except pa.ArrowInvalid as again:
            error = again
        if not bad:
            raise ValueError(f"{self.path} cannot be parsed: {error}") from error
        fields = bad[0].actual_columns
        line = self._line(bad[0].number - self._first_line)
        named = "the header names" if self._first_line > 1 else "there should be"
        raise ValueError(
            f"{self.path}, line {line}, column {min(fields, width) + 1}: {fields:,} fields, "
            f"yet {named} {width} ({', '.join(self.columns)}) (got {repr_short(bad[0].text)})"
        ) from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Removes the limit on the length of fields in :mod:`csv`, which is global, temporarily."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)
