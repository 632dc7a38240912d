"""Validation of single columns: ids, numbers, times and split labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from alignrec_pyg.tables import repr_short

_EXACT_FLOAT = 2**53  # whole numbers beyond it are not exact as float64
_INT64_MAX = 2**63 - 1
_TOO_LARGE = "a whole-number id needs to fit int64: cast the column to str"
_TIME_FORMS = (
    "a time is needed, as a number (seconds or smaller units since 1970) or as a date in the form "
    "2020-12-31 or 2020-12-31 23:59:59 in all rows"
)
_MANY_ROWS = 1_000_000  # below it, empty rows do not matter
_TIME_UNITS = ((1e11, "seconds"), (1e14, "milliseconds"), (1e17, "microseconds"))
_LABELS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Column:
    """One column as read. Strings are codes: each distinct one is held once.

    Args:
        name: Its name in the source.
        entries: 1-D array of the values of the rows; with ``codes``, of the distinct values.
        where: Returns the location of a row for messages, such as ``"baby.inter, line 7"``.
        codes: Place of each row's value in ``entries``, -1 for a missing one, int32 ``[rows]``.
    """

    name: str
    entries: np.ndarray
    where: Callable[[int], str]
    codes: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.entries if self.codes is None else self.codes)

    @property
    def values(self) -> np.ndarray:
        """The values of the rows; missing values of an object array are None or NaN."""
        return self.by_row(self.entries)

    @property
    def missing(self) -> np.ndarray:
        """Which rows have no value, bool ``[rows]``."""
        return np.asarray(pd.isna(self.entries) if self.codes is None else self.codes < 0)

    @property
    def keys(self) -> np.ndarray:
        """Equal for rows of equal values, and only for them: the values, or their codes."""
        return self.entries if self.codes is None else self.codes

    def by_row(self, found: np.ndarray, missing: Any = None) -> np.ndarray:
        """What was found for each entry, for each row; ``missing`` for rows without a value."""
        if self.codes is None:
            return found
        if (self.codes < 0).any():
            found = np.append(found, missing)
        return found[self.codes]

    def value(self, row: int) -> Any:
        """The value of one row."""
        if self.codes is None:
            return self.entries[row]
        return None if self.codes[row] < 0 else self.entries[self.codes[row]]

    def take(self, rows: np.ndarray) -> Column:
        """The column of some rows, int64 ``[R]``, with their original locations."""
        entries, codes = self.entries, self.codes
        if codes is None:
            entries = entries[rows]
        else:
            there, codes = np.unique(codes[rows], return_inverse=True)
            if len(there) and there[0] < 0:
                there, codes = there[1:], codes - 1
            entries = entries[there]
        return Column(self.name, entries, lambda row: self.where(int(rows[row])), codes)

    def refuse(self, bad: np.ndarray | int, rule: str) -> NoReturn:
        """Raises an error for the first ``bad`` row.

        Raises:
            ValueError: Always, with the location, the column, the rule and the value.
        """
        row = bad if isinstance(bad, int) else int(np.argmax(bad))
        got = repr_short(self.value(row))
        raise ValueError(f"{self.where(row)}, column '{self.name}': {rule} (got {got})")


def check_unicode(column: Column) -> None:
    """Checks that strings can be written as UTF-8, which lone surrogates cannot.

    Raises:
        ValueError: If one cannot, with its location.
    """
    bad = [isinstance(value, str) and not _is_unicode(value) for value in column.entries]
    if any(bad):
        column.refuse(
            column.by_row(np.array(bad), False),
            "a string needs to be without lone surrogates, which have no UTF-8: replace them, "
            "for example by value.encode(errors='replace').decode()",
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_strings(column: Column) -> Column:
    """Converts ids that are numbers to strings, whole floats as ``7``; strings stay as they are."""
    numbers = column.entries
    if numbers.dtype.kind not in "iuf" or (numbers != np.round(numbers)).any():
        return column  # strings, or what checked_ids refuses
    codes = column.codes
    if codes is None:
        numbers, codes = np.unique(numbers, return_inverse=True)
    names = np.array([str(value).removesuffix(".0") for value in numbers.tolist()], dtype=object)
    return replace(column, entries=names, codes=codes)


def concatenated(columns: Sequence[Column]) -> Column:
    """Concatenates columns, such as those of the parts of a split, with the locations of rows.

    Whole-number ids become strings if another column has strings.
    """
    if len({column.entries.dtype == object for column in columns}) > 1:
        columns = [as_strings(column) for column in columns]
    ends = np.cumsum([len(column) for column in columns])

    def where(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return columns[part].where(row - int(ends[part] - len(columns[part])))

    entries, codes = np.concatenate([column.entries for column in columns]), None
    if all(column.codes is not None for column in columns):
        places, entries = pd.factorize(entries)
        parts = np.split(places, np.cumsum([len(column.entries) for column in columns])[:-1])
        rows = [column.by_row(part, -1) for column, part in zip(columns, parts, strict=True)]
        codes = np.concatenate(rows)
    elif any(column.codes is not None for column in columns):
        entries = np.concatenate([column.values for column in columns])
    return Column(columns[0].name, entries, where, codes)


def checked_ids(column: Column, notes: list[str]) -> Column:
    """Validates ids and returns them as int64 or as strings.

    Raises:
        ValueError: If an id is missing or empty, is neither a whole number nor a string, if the
            column mixes both, or if a number does not fit int64.
    """
    values = column.entries
    _refuse_missing(column, "an id needs a value")
    if values.dtype.kind in "OU":
        kind = pd.api.types.infer_dtype(values, skipna=False)
        if kind == "string":
            return _checked_strings(column, notes)
        if kind not in ("integer", "floating"):
            first = type(values[0])
            other = np.array([type(value) is not first for value in values])
            column.refuse(
                other,
                "ids need to be all whole numbers or all strings: cast the column, "
                "for example to str",
            )
        if kind == "integer" and max(max(values), -min(values)) > _INT64_MAX:
            column.refuse(np.array([abs(value) > _INT64_MAX for value in values]), _TOO_LARGE)
        values = values.astype(np.int64 if kind == "integer" else np.float64)
    if values.dtype.kind == "f":
        bad = (values != np.round(values)) | (np.abs(values) > _EXACT_FLOAT)
        if bad.any():
            column.refuse(column.by_row(bad), "an id needs to be a whole number or a string")
        notes.append(f"column '{column.name}': {len(column):,} ids read as floats, all whole")
    elif values.dtype.kind == "u" and (values > _INT64_MAX).any():
        column.refuse(values > _INT64_MAX, _TOO_LARGE)
    elif values.dtype.kind not in "iu":
        column.refuse(0, f"an id needs to be a whole number or a string, not {values.dtype}")
    return replace(column, entries=values.astype(np.int64, copy=False))


def numbered(ids: Column) -> tuple[np.ndarray, np.ndarray]:
    """The number of each row's id among the distinct ones, int64 ``[rows]``, and these, sorted."""
    if ids.codes is None:
        number, distinct = pd.factorize(ids.entries, sort=True)
        return number.astype(np.int64, copy=False), distinct
    if ids.entries.dtype == object:  # by the bytes of UTF-8, which is the order of Python's strings
        order = pc.sort_indices(pa.array(ids.entries, pa.string())).to_numpy()
    else:
        order = np.argsort(ids.entries)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[ids.codes], ids.entries[order]


def checked_row_numbers(column: Column, notes: list[str]) -> np.ndarray:
    """Validates ids that are row numbers and returns them as int64.

    Raises:
        ValueError: If an id is missing, not a whole number, negative, or so large that nearly all
            rows below it would be empty.
    """
    _refuse_missing(column, "an id needs a value")
    if column.entries.dtype.kind == "O":
        numbers = pd.to_numeric(pd.Series(column.entries), errors="coerce").to_numpy()
        unread = ~np.isfinite(numbers.astype(np.float64))
        if unread.any():
            column.refuse(
                column.by_row(unread),
                "an id needs to be a whole number from 0, a row number; "
                "ids of your own are read by from_frames",
            )
        column = replace(column, entries=numbers)
    ids = checked_ids(column, notes).values
    if (ids < 0).any():
        column.refuse(ids < 0, "an id needs to be a row number from 0")
    if ids.max() >= _MANY_ROWS:
        distinct = len(pd.unique(ids))
        if ids.max() >= 100 * distinct:
            column.refuse(
                int(ids.argmax()),
                f"the ids need to be row numbers, yet only {distinct:,} are in use; "
                "ids of your own are read by from_frames",
            )
    return ids


def checked_numbers(
    column: Column, notes: list[str], *, rule: str = "a finite number is needed"
) -> np.ndarray | None:
    """Validates numbers and returns them as int64 if all are whole, otherwise as float64.

    ``None`` if all are missing.

    Raises:
        ValueError: If some values are missing, or a value is not a finite number.
    """
    values = column.entries
    if _is_unused(column, "a value", notes):
        return None
    if values.dtype.kind not in "iuf":
        values = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        column.refuse(column.by_row(~np.isfinite(values)), f"{rule}, or leave the column out")
    if values.dtype.kind == "f":
        whole = (values == np.round(values)).all() and np.abs(values).max() <= _EXACT_FLOAT
        return column.by_row(values.astype(np.int64 if whole else np.float64, copy=False))
    return column.by_row(values.astype(np.int64, copy=False))


def checked_times(column: Column, notes: list[str]) -> np.ndarray | None:
    """Validates times in any unit; date-times are converted to milliseconds since 1970 (UTC).

    Raises:
        ValueError: As :func:`checked_numbers`, or if the magnitudes suggest different units.
    """
    if column.entries.dtype.kind == "M" and not column.missing.all():
        _refuse_missing(column, "a value is needed in every row, or leave the column out")
        stamps = column.entries.astype("datetime64[ms]").astype(np.int64)
        notes.append(f"column '{column.name}': date-times kept as milliseconds since 1970")
        return _noted_order(column, stamps, notes)
    times = checked_numbers(column, notes, rule=_TIME_FORMS)
    if times is None:
        return None
    size = np.abs(times)
    unit = _time_unit(np.array([size.min(initial=size.max(), where=size > 0), size.max()]))
    if unit[0] != unit[1]:
        unit = _time_unit(size)
        unit[size == 0] = unit.max()  # 0 has any unit
    names = [*(name for _, name in _TIME_UNITS), "nanoseconds"]
    usual = int(np.bincount(unit).argmax())
    if (unit != usual).any():
        column.refuse(
            unit != usual,
            f"times need to share one unit; {int((unit == usual).sum()):,} of {len(unit):,} look "
            f"like {names[usual]}, this one like {names[unit[int(np.argmax(unit != usual))]]}",
        )
    if usual > 0:
        notes.append(f"column '{column.name}': times look like {names[usual]}, kept as they are")
    return _noted_order(column, times, notes)


def _time_unit(size: np.ndarray) -> np.ndarray:
    """The place of the unit that times of some size look like."""
    return np.searchsorted([limit for limit, _ in _TIME_UNITS], size, side="right")


def checked_split(column: Column, notes: list[str]) -> np.ndarray | None:
    """Validates split labels or their names, as int8: 0 train, 1 validation, 2 test.

    ``None`` if all are missing.

    Raises:
        ValueError: If some labels are missing, or a label is unknown.
    """
    values = column.entries
    if _is_unused(column, "a split label", notes):
        return None
    if values.dtype.kind == "O":
        values = pd.Series(values).map(_label).to_numpy()
    labels = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isin(labels, (0, 1, 2))
    if bad.any():
        rule = f"a split label needs to be 0, 1, 2 or one of {sorted(_LABELS)}"
        column.refuse(column.by_row(bad), rule)
    return column.by_row(labels.astype(np.int8))


def _label(value: object) -> object:
    return _LABELS.get(value, value) if isinstance(value, str) else value


def _is_unused(column: Column, what: str, notes: list[str]) -> bool:
    """Whether all values are missing, which is noted; some missing ones are refused."""
    if column.missing.all():
        notes.append(f"column '{column.name}' has no value in any of {len(column):,} rows: unused")
        return True
    _refuse_missing(column, f"{what} is needed in every row, or leave the column out")
    return False


def _refuse_missing(column: Column, rule: str) -> None:
    missing = column.missing
    if missing.any():
        column.refuse(missing, f"{rule}; {int(missing.sum()):,} of {len(missing):,} rows have none")


def _checked_strings(column: Column, notes: list[str]) -> Column:
    column = replace(column, entries=column.entries.astype(object, copy=False))
    distinct = pd.unique(column.entries) if column.codes is None else column.entries
    together = "".join(distinct)
    if not _is_unicode(together):
        check_unicode(column)
    odd: list[str] = []
    if together.split(maxsplit=1) != [together] or not all(distinct):
        odd = [text for text in distinct if not text or text.strip() != text]
    if not all(text.strip() for text in odd):
        blank = column.by_row(np.array([not text.strip() for text in column.entries]))
        column.refuse(blank, f"an id needs a value; {int(blank.sum()):,} rows are blank")
    if odd:
        notes.append(
            f"column '{column.name}': {len(odd):,} ids begin or end with white space, kept as given"
        )
    return column


def _noted_order(column: Column, times: np.ndarray, notes: list[str]) -> np.ndarray:
    back = int((np.diff(times) < 0).sum())
    if back:
        notes.append(
            f"column '{column.name}': rows are not in order of time "
            f"({back:,} of {len(times) - 1:,} steps go back), order of rows kept"
        )
    return times
