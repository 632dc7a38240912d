"""Conversion of Arrow columns to columns of NumPy arrays; strings stay codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from alignrec_pyg.datasets.columns import Column

# Ids from text that are numbers: whole ones as Python writes them and within int64, or the same of
# a column of floats.
_NUMBERS = (
    ("^(0|-?[1-9][0-9]{0,17})$", pa.int64()),
    (r"^(0|-?[1-9][0-9]{0,14})\.0$", pa.float64()),
)
_FIRST = 100  # values by which most columns of strings are recognised


def arrow_column(name: str, column: pa.ChunkedArray, where: Callable[[int], str]) -> Column:
    """Converts a column to one of numbers, date-times, coded strings, or objects."""
    kind = column.type
    if pa.types.is_dictionary(kind) and not _is_text(kind.value_type):
        return arrow_column(name, column.cast(kind.value_type), where)
    if pa.types.is_dictionary(kind) or _is_text(kind):
        strings, codes = _encoded(column)
        return Column(name, strings.to_numpy(zero_copy_only=False), where, codes)
    return Column(name, _values(column), where)


def arrow_ids(name: str, column: pa.ChunkedArray, where: Callable[[int], str]) -> Column:
    """Converts ids from text: to numbers if all are whole ones as Python writes them, or strings.

    ``7`` is one, and ``7.0`` where all are floats; ``007`` and `` 7`` are not, so that ids with
    different texts always remain different.
    """
    strings, codes = _encoded(column)
    if len(strings) and column.null_count == 0:
        for pattern, kind in _NUMBERS:
            parts = strings.slice(0, _FIRST), strings
            if all(pc.all(pc.match_substring_regex(part, pattern)).as_py() for part in parts):
                return Column(name, strings.cast(kind).to_numpy(), where, codes)
    return Column(name, strings.to_numpy(zero_copy_only=False), where, codes)


def in_one_piece(read: Callable[[], pa.Table]) -> pa.Table:
    """The table that is read, its strings as codes, columns of one chunk, which NumPy shares."""
    table = read()
    for place, column in enumerate(table.columns):
        if _is_text(column.type):
            name = table.column_names[place]
            table = table.set_column(place, name, column.dictionary_encode())
    del column
    table = table.unify_dictionaries().combine_chunks()
    pa.default_memory_pool().release_unused()  # of the parser, as much again
    return table


def empty_rows(table: pa.Table) -> np.ndarray:
    """The mask of empty rows, bool ``[rows]``."""
    empty = np.ones(table.num_rows, dtype=bool)
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            chunks = [_blank(chunk) for chunk in column.chunks]
            empty &= np.concatenate(chunks) if chunks else np.empty(0, dtype=bool)
        else:
            nothing = pc.is_null(column)
            if pa.types.is_string(column.type):
                nothing = pc.or_(nothing, pc.equal(column, "").fill_null(False))
            empty &= nothing.to_numpy()
        if not empty.any():
            break
    return empty


def _blank(chunk: pa.DictionaryArray) -> np.ndarray:
    """Which values are missing or empty strings."""
    codes = chunk.indices.fill_null(-1).to_numpy()
    blank = chunk.dictionary.index("").as_py()
    return (codes < 0) | (codes == blank)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _values(column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
        kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp(kind.unit)).to_numpy()  # times with a zone are in UTC
    if column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return column.to_numpy()
    values = column.to_pylist()
    return np.fromiter(values, dtype=object, count=len(values))


def _encoded(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The distinct strings of a column, and the index of each row's, -1 if missing; int32."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of older Arrow, or of none
        array = array.chunk(0) if array.num_chunks else pa.array([], column.type)
    strings = array.dictionary
    if strings.null_count or pc.count_distinct(strings).as_py() < len(strings):
        return _encoded(column.cast(column.type.value_type))  # as others may write them
    codes = array.indices.cast(pa.int32())
    codes = (codes.fill_null(-1) if codes.null_count else codes).to_numpy()
    used = np.zeros(len(strings) + 1, dtype=bool)  # its last place, -1, is that of missing values
    used[codes] = True
    if not used[:-1].all():  # such as the empty strings of rows that were left out
        strings = strings.filter(pa.array(used[:-1]))
        codes = np.append(np.cumsum(used[:-1], dtype=np.int32) - 1, np.int32(-1))[codes]
    return strings, codes
