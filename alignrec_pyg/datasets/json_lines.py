"""Reader of files with one JSON object per line (jsonl), uncompressed or with gzip."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from alignrec_pyg.datasets.arrow import arrow_column, arrow_ids, in_one_piece
from alignrec_pyg.datasets.columns import Column
from alignrec_pyg.datasets.delimited import lines_of, open_bytes
from alignrec_pyg.tables import repr_short

_BLOCK_BYTES = 1 << 24
_SAMPLE_LINES = 1000
_SAMPLE_BYTES = 1 << 22
_ARRAY = (
    "one JSON object a line is needed, without an array around them (got '['): "
    "pandas.read_json(file).to_json(file, orient='records', lines=True) writes it so"
)
_BOM = b"\xef\xbb\xbf"


class JsonLines:
    """The fields of a jsonl file as columns; other fields of the lines are not parsed.

    The type of a field, strings or numbers, is inferred from the first lines, one of which needs to
    have it. Lines may lack fields, whose values are then missing. Blank lines are skipped. Fields
    of ``text`` may hold strings, numbers, lists and objects. The other arguments are those of
    :class:`~alignrec_pyg.datasets.delimited.DelimitedFile`.

    Raises:
        ValueError: If the file is empty or damaged, lacks a field, or a line is not an object or
            has another type; the message contains the line.
    """

    def __init__(
        self,
        path: Path,
        required: Sequence[str],
        notes: list[str],
        *,
        optional: Sequence[str] | None = None,
        text: Sequence[str] = (),
    ) -> None:
        self.path = path
        self._texts: dict[str, np.ndarray] = {}
        self._blank_lines: bool | None = None
        if path.suffix == ".gz":
            notes.append(f"{path.name}: read through gzip")
        try:
            kinds = self._kinds(text)
            self.columns = list(kinds)
            missing = [name for name in required if name not in kinds]
            if missing:
                raise ValueError(
                    f"{path}, line 1: the fields {', '.join(map(repr, required))} are needed "
                    f"(got {repr_short(self.columns)})"
                )
            chosen = [name for name in kinds if optional is None or name in (*required, *optional)]
            mixed = [name for name in chosen if kinds[name] is None]
            if mixed:
                self._read_texts(mixed)
            plain = {name: kind for name in chosen if (kind := kinds[name]) is not None}
            if plain:
                self._table = self._read(plain, text)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def column(self, name: str) -> Column:
        """The field ``name``, with the line of each row."""
        if name in self._texts:
            return Column(name, self._texts[name], self.where)
        return arrow_column(name, self._table[name], self.where)

    def ids(self, name: str) -> Column:
        """The field ``name`` of original ids: whole numbers or strings."""
        column = self._table[name]
        convert = arrow_ids if pa.types.is_dictionary(column.type) else arrow_column
        return convert(name, column, self.where)

    def where(self, row: int) -> str:
        """The location of a row, for messages."""
        if self._blank_lines is None:
            self._blank_lines = sum(1 for _ in self._lines()) != self._last_line
        line = row + 1
        if self._blank_lines:
            line = next(
                number for place, (number, _) in enumerate(self._lines()) if place == int(row)
            )
        return f"{self.path}, line {line}"

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The number and text of every line that is not blank."""
        self._last_line = 0
        with open_bytes(self.path) as file:
            for number, line in lines_of(file, self.path):
                if line.strip():
                    self._last_line = number
                    yield number, line

    def _kinds(self, text: Sequence[str]) -> dict[str, pa.DataType | None]:
        """The type of each field in the first lines; ``None`` of a text unless all are strings."""
        found: dict[str, set[type]] = {}
        read = lines = 0
        for number, line in self._lines():
            for name, value in self._object(number, line).items():
                if value is not None:
                    found.setdefault(name, set()).add(type(value))
            lines, read = lines + 1, read + len(line)
            if lines >= _SAMPLE_LINES or read >= _SAMPLE_BYTES:
                break
        if not lines:
            raise ValueError(f"{self.path}, line 1: at least one object is needed")
        kinds: dict[str, pa.DataType | None] = {}
        for name, types in found.items():
            if types == {str}:
                kinds[name] = pa.string()
            elif name in text:
                kinds[name] = None
            elif types == {int}:
                kinds[name] = pa.int64()
            elif types <= {int, float}:
                kinds[name] = pa.float64()
            elif types & {str, int, float}:
                kinds[name] = pa.string()  # a mixture, refused by line when it is read
        return kinds

    def _object(self, number: int, line: bytes, **options: Any) -> dict[str, Any]:
        try:
            value = json.loads(line.removeprefix(_BOM), **options)
        except (ValueError, RecursionError) as error:
            if number == 1 and line.removeprefix(_BOM).lstrip().startswith(b"["):
                raise ValueError(f"{self.path}, line 1: {_ARRAY}") from error
            raise ValueError(
                f"{self.path}, line {number}: a JSON object is needed ({error})"
            ) from error
        if number == 1 and isinstance(value, list):
            raise ValueError(f"{self.path}, line 1: {_ARRAY}")
        if not isinstance(value, dict):
            raise ValueError(
                f"{self.path}, line {number}: a JSON object is needed (got {repr_short(value)})"
            )
        return value

    def _read_texts(self, names: Sequence[str]) -> None:
        """Reads texts as Python objects, with numbers as they are written."""
        rows = [self._object(*line, parse_float=str, parse_int=str) for line in self._lines()]
        for name in names:
            values = (row.get(name) for row in rows)
            self._texts[name] = np.fromiter(values, dtype=object, count=len(rows))

    def _read(self, kinds: dict[str, pa.DataType], text: Sequence[str]) -> pa.Table:
        try:
            return self._parse(kinds)
        except pa.ArrowInvalid as error:
            if any(name in text for name in kinds):  # strings in the first lines only
                self._read_texts([name for name in kinds if name in text])
                others = {name: kind for name, kind in kinds.items() if name not in text}
                return self._read(others, ()) if others else pa.table({})
            # numbers that are whole in the first lines may have decimals in others
            wider = {
                name: pa.float64() if kind == pa.int64() else kind for name, kind in kinds.items()
            }
            if wider == kinds:
                self._refuse(kinds, error)
        try:
            return self._parse(wider)
        except pa.ArrowInvalid as error:
            self._refuse(wider, error)

    def _parse(self, kinds: dict[str, pa.DataType]) -> pa.Table:
        with open_bytes(self.path) as file:
            if file.read(len(_BOM)) != _BOM:
                file.seek(0)
            read = partial(
                pa_json.read_json,
                file,
                read_options=pa_json.ReadOptions(block_size=_BLOCK_BYTES),
                parse_options=pa_json.ParseOptions(
                    explicit_schema=pa.schema(kinds), unexpected_field_behavior="ignore"
                ),
            )
            return in_one_piece(read)

    def _refuse(self, kinds: dict[str, pa.DataType], error: Exception) -> NoReturn:
        for number, line in self._lines():
            value = self._object(number, line)
            for name, kind in kinds.items():
                got = value.get(name)
                wanted = (str,) if kind == pa.string() else (int, float)
                if got is not None and (not isinstance(got, wanted) or isinstance(got, bool)):
                    rule = "a string" if kind == pa.string() else "a number"
                    raise ValueError(
                        f"{self.path}, line {number}, column '{name}': {rule} is needed, as in "
                        f"other lines (got {repr_short(got)})"
                    ) from error
        raise ValueError(f"{self.path} cannot be parsed: {error}") from error
