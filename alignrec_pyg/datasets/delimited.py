"""Tab- or comma-separated files, read fast; where something is wrong, the line is named."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

import numpy as np
import pandas as pd

from alignrec_pyg.datasets.columns import Column, checked_ids, checked_row_numbers

_SEPARATORS = {"\t": "tab", ",": "comma"}
_HEADER_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


class DelimitedFile:
    """A table with a header, in UTF-8, tab- or comma-separated, plain or gzip.

    Blank lines are skipped and counted, white space around column names is dropped.

    Args:
        path: The file; a name that ends in ``.gz`` is read through gzip.
        required: Columns the header must name.
        notes: Counted notes, appended to.
        as_text: Read all values as strings, the empty ones too (outside ids such as ``NA``).

    Raises:
        ValueError: If the file is empty, no UTF-8, has no such header, or a line has more fields
            than the header.
    """

    def __init__(
        self, path: Path, required: Sequence[str], notes: list[str], *, as_text: bool = False
    ) -> None:
        self.path = path
        separator, self.columns = self._header(required, notes)
        frame = self._read(separator, as_text)
        blank = (frame.isna() | (frame == "")).all(axis=1) if as_text else frame.isna().all(axis=1)
        if blank.any():
            notes.append(f"{path.name}: {int(blank.sum()):,} blank lines skipped")
            frame = frame[~blank]
        if frame.empty:
            raise ValueError(f"{path}, line 2: at least one row is needed below the header")
        self._frame = frame

    def column(self, name: str) -> Column:
        """The column ``name``, whose rows know their line."""
        lines = self._frame.index.to_numpy() + 2  # line 1 is the header
        values = self._frame[name]
        array = values.to_numpy() if values.dtype.kind in "iuf" else values.to_numpy(dtype=object)
        return Column(name, array, lambda row: f"{self.path}, line {lines[row]}")

    def _open(self) -> BinaryIO:
        if self.path.suffix == ".gz":
            return cast(BinaryIO, gzip.open(self.path, "rb"))
        return self.path.open("rb")

    def _header(self, required: Sequence[str], notes: list[str]) -> tuple[str, list[str]]:
        try:
            with self._open() as file:
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
        for separator in _SEPARATORS:
            names = [name.strip() for name in text.split(separator)]
            if set(required) <= set(names):
                if len(set(names)) < len(names):
                    raise ValueError(
                        f"{self.path}, line 1: column names need to be distinct (got {names})"
                    )
                return separator, names
        wanted = ", ".join(f"'{name}'" for name in required)
        got = repr(text if len(text) <= 80 else text[:80] + "...")
        if all(name in text for name in required):
            raise ValueError(
                f"{self.path}, line 1: fields need to be separated by tab or comma (got {got})"
            )
        raise ValueError(f"{self.path}, line 1: a header with {wanted} is needed (got {got})")

    def _read(self, separator: str, as_text: bool) -> pd.DataFrame:
        try:
            with warnings.catch_warnings():
                # pandas only warns where lines hold more fields than the header
                warnings.simplefilter("error", pd.errors.ParserWarning)
                return pd.read_csv(
                    self.path,
                    sep=separator,
                    header=0,
                    names=self.columns,
                    index_col=False,
                    encoding="utf-8-sig",
                    skip_blank_lines=False,  # so that row r is line r + 2
                    low_memory=False,
                    dtype=str if as_text else None,
                    keep_default_na=not as_text,
                )
        except UnicodeDecodeError as error:
            self._refuse_encoding(error)
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            self._refuse_ragged(separator, error)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{self.path} cannot be read: {error}") from error

    def _refuse_encoding(self, error: UnicodeDecodeError) -> NoReturn:
        with self._open() as file:
            for number, line in enumerate(file, start=1):
                try:
                    line.decode()
                except UnicodeDecodeError as place:
                    raise ValueError(
                        f"{self.path}, line {number}, byte {place.start + 1}: "
                        "the file needs to be UTF-8"
                    ) from error
        raise ValueError(f"{self.path}: the file needs to be UTF-8") from error

    def _refuse_ragged(self, separator: str, error: Exception) -> NoReturn:
        width = len(self.columns)
        with self._open() as file:
            for number, line in enumerate(file, start=1):
                fields = line.count(separator.encode()) + 1
                if fields > width:
                    raise ValueError(
                        f"{self.path}, line {number}, column {width + 1}: {fields:,} fields, "
                        f"yet the header names {width} ({', '.join(self.columns)})"
                    ) from error
        raise ValueError(f"{self.path} cannot be parsed: {error}") from error


def outside_ids(path: Path, index: str, count: int, notes: list[str]) -> np.ndarray:
    """Ids of the outside world from a mapping file such as ``i_id_mapping.csv``.

    Args:
        path: A file with the column ``index`` and one other, the outside ids.
        index: Name of the column with the row numbers, such as ``"itemID"``.
        count: Number of rows the ids are for; rows of the file beyond are noted.
        notes: Counted notes, appended to.

    Returns:
        Object array of strings, ``[count]``.

    Raises:
        ValueError: If a row number or an id occurs twice, or a row has no id.
    """
    table = DelimitedFile(path, [index], notes, as_text=True)
    others = [name for name in table.columns if name != index]
    if not others:
        raise ValueError(f"{path}, line 1: a column with ids is needed beside '{index}'")
    numbers = table.column(index)
    rows = checked_row_numbers(numbers, notes)
    column = table.column(others[0])
    ids = checked_ids(column, notes)
    for checked, values in ((numbers, rows), (column, ids)):
        twice = pd.Series(values).duplicated().to_numpy()
        if twice.any():
            checked.refuse(twice, "every row number and every id needs to occur once")
    beyond = int((rows >= count).sum())
    if beyond:
        notes.append(f"{path.name}: {beyond:,} rows beyond the {count:,} in use left out")
    present = np.zeros(count, dtype=bool)
    present[rows[rows < count]] = True
    if not present.all():
        raise ValueError(
            f"{path}: an id is needed for every '{index}' from 0 to {count - 1} "
            f"({int((~present).sum()):,} are missing, the first is {int(np.argmin(present))})"
        )
    result = np.empty(count, dtype=object)
    result[rows[rows < count]] = ids[rows < count]
    return result
