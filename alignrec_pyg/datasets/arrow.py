"""Conversion of Arrow columns to NumPy arrays."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as Python writes it, and within int64
_WHOLE_FLOAT = re.compile(r"(0|-?[1-9][0-9]{0,14})\.0")  # the same, of a column of floats


def column_values(column: pa.ChunkedArray) -> np.ndarray:
    """Converts a column to an array of numbers, date-times, or objects.

    In an object array, equal strings are the same object, and missing values are None.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _taken(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _taken(column.dictionary_encode())
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
        kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp(kind.unit)).to_numpy()  # times with a zone are in UTC
    if column.null_count == 0 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return column.to_numpy()
    values = column.to_pylist()
    return np.fromiter(values, dtype=object, count=len(values))


def id_values(column: pa.ChunkedArray) -> np.ndarray:
    """Converts ids from text: to numbers if all are whole ones as Python writes them, or strings.

    ``7`` is one, and ``7.0`` where all are floats; ``007`` and `` 7`` are not, so that ids with
    different texts always remain different.
    """
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries()
    if encoded.null_count == 0 and encoded.num_chunks:
        distinct = encoded.chunk(0).dictionary.to_pylist()
        if all(_WHOLE.fullmatch(value) for value in distinct):
            return np.array(distinct, dtype=np.int64)[_codes(encoded)]
        if all(_WHOLE_FLOAT.fullmatch(value) for value in distinct):
            return np.array(distinct, dtype=np.float64)[_codes(encoded)]
    return _taken(encoded)


def empty_rows(table: pa.Table) -> np.ndarray:
    """The mask of empty rows, bool ``[rows]``."""
    empty = np.ones(table.num_rows, dtype=bool)
    for column in table.columns:
        nothing = pc.is_null(column).to_numpy()
        if pa.types.is_dictionary(column.type):
            encoded = column.unify_dictionaries()
            if encoded.num_chunks:
                blank = encoded.chunk(0).dictionary.index("").as_py()
                nothing = nothing | ((_codes(encoded) == blank) & (blank >= 0))
        elif pa.types.is_string(column.type):
            nothing = nothing | (pc.equal(column, "").fill_null(False).to_numpy())
        empty &= nothing
    return empty


def _codes(encoded: pa.ChunkedArray) -> np.ndarray:
    """Index into the unified dictionary for each value, -1 if it is missing; int32 ``[rows]``."""
    chunks = [chunk.indices.fill_null(-1).to_numpy() for chunk in encoded.chunks]
    return np.concatenate(chunks) if chunks else np.empty(0, dtype=np.int32)


def _taken(encoded: pa.ChunkedArray) -> np.ndarray:
    encoded = encoded.unify_dictionaries()
    if not encoded.num_chunks:
        return np.empty(0, dtype=object)
    listed = encoded.chunk(0).dictionary.to_pylist()
    distinct = np.empty(len(listed) + 1, dtype=object)  # the last one, -1, is a missing value
    distinct[:-1] = listed
    return distinct[_codes(encoded)]
