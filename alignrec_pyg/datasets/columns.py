"""Validation of single columns: ids, numbers, times and split labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pandas as pd

from alignrec_pyg.tables import repr_short

_EXACT_FLOAT = 2**53  # whole numbers beyond it are not exact as float64
_INT64_MAX = 2**63 - 1
_TOO_LARGE = "a whole-number id needs to fit int64: cast the column to str"
_TIME_FORMS = (
    "a time is needed, as a number (seconds or smaller units since 1970) or as a date in the form "
    "2020-12-31 or 2020-12-31 23:59:59 in all rows"
)
_TIME_UNITS = ((1e11, "seconds"), (1e14, "milliseconds"), (1e17, "microseconds"))
_LABELS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}


@dataclass(frozen=True)
class Column:
    """One column as read.

    Args:
        name: Its name in the source.
        values: 1-D array; missing values of an object array are None or NaN.
        where: Returns the location of a row for messages, such as ``"baby.inter, line 7"``.
    """

    name: str
    values: np.ndarray
    where: Callable[[int], str]

    def take(self, rows: np.ndarray) -> Column:
        """The column of some rows, int64 ``[R]``, with their original locations."""
        return Column(self.name, self.values[rows], lambda row: self.where(int(rows[row])))

    def refuse(self, bad: np.ndarray | int, rule: str) -> NoReturn:
        """Raises an error for the first ``bad`` row.

        Raises:
            ValueError: Always, with the location, the column, the rule and the value.
        """
        row = bad if isinstance(bad, int) else int(np.argmax(bad))
        got = repr_short(self.values[row])
        raise ValueError(f"{self.where(row)}, column '{self.name}': {rule} (got {got})")


def as_strings(column: Column) -> Column:
    """Converts ids that are numbers to strings, whole floats as ``7``; strings stay as they are."""
    if column.values.dtype.kind not in "iuf" or (column.values != np.round(column.values)).any():
        return column  # strings, or what checked_ids refuses
    distinct, codes = np.unique(column.values, return_inverse=True)
    names = np.array([str(value).removesuffix(".0") for value in distinct.tolist()], dtype=object)
    return Column(column.name, names[codes], column.where)


def concatenated(columns: Sequence[Column]) -> Column:
    """Concatenates columns, such as those of the parts of a split, with the locations of rows.

    Whole-number ids become strings if another column has strings.
    """
    if len({column.values.dtype == object for column in columns}) > 1:
        columns = [as_strings(column) for column in columns]
    ends = np.cumsum([len(column.values) for column in columns])

    def where(row: int) -> str:
        part = int(np.searchsorted(ends, row, side="right"))
        return columns[part].where(row - int(ends[part] - len(columns[part].values)))

    return Column(columns[0].name, np.concatenate([c.values for c in columns]), where)


def checked_ids(column: Column, notes: list[str]) -> np.ndarray:
    """Validates ids and returns them as int64 or as an object array of strings.

    Raises:
        ValueError: If an id is missing or empty, is neither a whole number nor a string, if the
            column mixes both, or if a number does not fit int64.
    """
    values = column.values
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
            column.refuse(bad, "an id needs to be a whole number or a string")
        notes.append(f"column '{column.name}': {len(values):,} ids read as floats, all whole")
    elif values.dtype.kind == "u" and (values > _INT64_MAX).any():
        column.refuse(values > _INT64_MAX, _TOO_LARGE)
    elif values.dtype.kind not in "iu":
        column.refuse(0, f"an id needs to be a whole number or a string, not {values.dtype}")
    return values.astype(np.int64)


def checked_row_numbers(column: Column, notes: list[str]) -> np.ndarray:
    """Validates ids that are row numbers and returns them as int64.

    Raises:
        ValueError: If an id is missing, not a whole number, negative, or so large that nearly all
            rows below it would be empty.
    """
    _refuse_missing(column, "an id needs a value")
    if column.values.dtype.kind == "O":
        numbers = pd.to_numeric(pd.Series(column.values), errors="coerce").to_numpy()
        unread = ~np.isfinite(numbers.astype(np.float64))
        if unread.any():
            column.refuse(
                unread,
                "an id needs to be a whole number from 0, a row number; "
                "ids of your own are read by from_frames",
            )
        ids = checked_ids(Column(column.name, numbers, column.where), notes)
    else:
        ids = checked_ids(column, notes)
    if (ids < 0).any():
        column.refuse(ids < 0, "an id needs to be a row number from 0")
    distinct = len(np.unique(ids))
    if ids.max() >= max(1_000_000, 100 * distinct):
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
    values = column.values
    if _is_unused(column, "a value", notes):
        return None
    if values.dtype.kind not in "iuf":
        values = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        column.refuse(~np.isfinite(values), f"{rule}, or leave the column out")
    if values.dtype.kind == "f" and (values == np.round(values)).all():
        return values.astype(np.int64) if np.abs(values).max() <= _EXACT_FLOAT else values
    return values.astype(np.float64 if values.dtype.kind == "f" else np.int64)


def checked_times(column: Column, notes: list[str]) -> np.ndarray | None:
    """Validates times in any unit; date-times are converted to milliseconds since 1970 (UTC).

    Raises:
        ValueError: As :func:`checked_numbers`, or if the magnitudes suggest different units.
    """
    if column.values.dtype.kind == "M" and not pd.isna(column.values).all():
        _refuse_missing(column, "a value is needed in every row, or leave the column out")
        stamps = column.values.astype("datetime64[ms]").astype(np.int64)
        notes.append(f"column '{column.name}': date-times kept as milliseconds since 1970")
        return _noted_order(column, stamps, notes)
    times = checked_numbers(column, notes, rule=_TIME_FORMS)
    if times is None:
        return None
    unit = np.searchsorted([limit for limit, _ in _TIME_UNITS], np.abs(times), side="right")
    unit[times == 0] = unit.max()  # 0 has any unit
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


def checked_split(column: Column, notes: list[str]) -> np.ndarray | None:
    """Validates split labels or their names, as int8: 0 train, 1 validation, 2 test.

    ``None`` if all are missing.

    Raises:
        ValueError: If some labels are missing, or a label is unknown.
    """
    values = column.values
    if _is_unused(column, "a split label", notes):
        return None
    if values.dtype.kind == "O":
        values = pd.Series(values).map(_label).to_numpy()
    labels = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isin(labels, (0, 1, 2))
    if bad.any():
        column.refuse(bad, f"a split label needs to be 0, 1, 2 or one of {sorted(_LABELS)}")
    return np.asarray(labels, dtype=np.int8)


def _label(value: object) -> object:
    return _LABELS.get(value, value) if isinstance(value, str) else value


def _is_unused(column: Column, what: str, notes: list[str]) -> bool:
    """Whether all values are missing, which is noted; some missing ones are refused."""
    if pd.isna(column.values).all():
        count = len(column.values)
        notes.append(f"column '{column.name}' has no value in any of {count:,} rows: unused")
        return True
    _refuse_missing(column, f"{what} is needed in every row, or leave the column out")
    return False


def _refuse_missing(column: Column, rule: str) -> None:
    missing = pd.isna(column.values)
    if missing.any():
        column.refuse(missing, f"{rule}; {int(missing.sum()):,} of {len(missing):,} rows have none")


def _checked_strings(column: Column, notes: list[str]) -> np.ndarray:
    values = column.values.astype(object)
    distinct = pd.Series(pd.unique(values), dtype=object)
    stripped = distinct.str.strip()
    if (stripped == "").any():
        empty = pd.Series(values, dtype=object).str.strip() == ""
        column.refuse(empty.to_numpy(), f"an id needs a value; {int(empty.sum()):,} rows are blank")
    padded = int((stripped != distinct).sum())
    if padded:
        notes.append(
            f"column '{column.name}': {padded:,} ids begin or end with white space, kept as given"
        )
    return values


def _noted_order(column: Column, times: np.ndarray, notes: list[str]) -> np.ndarray:
    back = int((np.diff(times) < 0).sum())
    if back:
        notes.append(
            f"column '{column.name}': rows are not in order of time "
            f"({back:,} of {len(times) - 1:,} steps go back), order of rows kept"
        )
    return times
