import numpy as np
import pytest

from alignrec_pyg.datasets.columns import (
    Column,
    as_strings,
    checked_ids,
    checked_numbers,
    checked_row_numbers,
    checked_split,
    checked_times,
    concatenated,
    numbered,
)


def column(values, dtype=None):
    array = np.array(values, dtype=dtype) if dtype else np.array(values)
    return Column("c", array, lambda row: f"row {row}")


def coded(entries, codes):
    entries = np.array(entries, dtype=None if isinstance(entries[0], int) else object)
    return Column("c", entries, lambda row: f"row {row}", np.array(codes, dtype=np.int32))


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([3, -1, 2**62], "int64", [3, -1, 2**62]),
        ([3, 1], "uint8", [3, 1]),
        ([3.0, 1.0], "float64", [3, 1]),
        ([3, 1], object, [3, 1]),
        (["é", "b"], object, ["é", "b"]),
        (["x", "y"], "U1", ["x", "y"]),
    ],
)
def test_ids_are_int64_or_strings(values, dtype, expected):
    ids = checked_ids(column(values, dtype), []).values
    assert ids.tolist() == expected
    assert ids.dtype in (np.int64, object)


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([1, None], object, "row 1, column 'c'.*1 of 2 rows have none.*None"),
        ([1.0, np.nan], "float64", "row 1, column 'c'.*needs a value"),
        ([1.0, 1.5], "float64", "row 1.*whole number"),
        ([1.0, np.inf], "float64", "row 1.*whole number"),
        ([1.0, 1e300], "float64", "row 1.*whole number"),
        ([1, "a"], object, "row 1.*all whole numbers or all strings"),
        (["a", 1], object, "row 1.*all whole numbers or all strings"),
        (["a", ""], object, "row 1.*1 rows are blank"),
        (["a", "  "], object, "row 1.*1 rows are blank"),
        ([1, 2**64], object, "row 1.*fit int64"),
        ([1, 2**63], "uint64", "row 1.*fit int64"),
        ([True, False], bool, "not bool"),
        ([b"a", b"b"], object, "row 0.*all whole numbers or all strings"),
    ],
)
def test_bad_ids_are_refused_by_row_and_column(values, dtype, message):
    with pytest.raises(ValueError, match=message):
        checked_ids(column(values, dtype), [])


def test_odd_but_good_ids_are_noted():
    notes = []
    checked_ids(column([" a", "b ", "c"], object), notes)
    checked_ids(column([1.0, 2.0]), notes)
    assert "2 ids begin or end with white space" in notes[0]
    assert "2 ids read as floats" in notes[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, -2], "row 1.*row number from 0.*-2"),
        ([0, 10**9], "row 1.*only 2 are in use.*from_frames"),
        (np.array(["0", "u7"], dtype=object), "row 1.*from_frames.*u7"),
        (np.array(["0", "9" * 400], dtype=object), "row 1.*characters"),
    ],
)
def test_row_numbers_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        checked_row_numbers(Column("c", np.asarray(values), lambda row: f"row {row}"), [])


def test_row_numbers_in_text_are_read():
    assert checked_row_numbers(column(["0", " 3"], object), []).tolist() == [0, 3]


def test_numbers():
    assert checked_numbers(column([1.0, 2.0]), []).dtype == np.int64
    assert checked_numbers(column([1.5, 2.0]), []).tolist() == [1.5, 2.0]
    assert checked_numbers(column([1, 2.5], object), []).tolist() == [1.0, 2.5]
    notes = []
    assert checked_numbers(column([None, None], object), notes) is None
    assert "no value in any of 2 rows" in notes[0]
    for values, message in (
        ([1.0, np.nan], "row 1.*1 of 2 rows have none"),
        ([1.0, np.inf], "row 1.*finite"),
        (np.array(["1", "x"], dtype=object), "row 1.*finite.*x"),
    ):
        with pytest.raises(ValueError, match=message):
            checked_numbers(Column("c", np.asarray(values), lambda row: f"row {row}"), [])


def test_times_keep_their_unit_and_say_it():
    notes = []
    seconds, milliseconds = [10**9, 10**9 + 5], [10**12, 10**12 + 5]
    assert checked_times(column(seconds), notes).tolist() == seconds
    assert notes == []
    assert checked_times(column(milliseconds), notes).tolist() == milliseconds
    assert "look like milliseconds" in notes[0]


def test_mixed_time_units_are_refused():
    with pytest.raises(ValueError, match=r"row 2.*2 of 3 look like seconds.*milliseconds"):
        checked_times(column([10**9, 10**9, 10**12]), [])


def test_missing_and_unsorted_times():
    with pytest.raises(ValueError, match=r"row 1.*1 of 2 rows have none"):
        checked_times(column([10**9, np.nan]), [])
    notes = []
    checked_times(column([5, 3, 4, 1]), notes)
    assert "2 of 3 steps go back" in notes[0]


def test_dates_become_milliseconds():
    notes = []
    dates = column(["1970-01-01T00:00:01", "1970-01-02"], "datetime64[ns]")
    assert checked_times(dates, notes).tolist() == [1000, 86_400_000]
    assert "milliseconds since 1970" in notes[0]


def test_split_labels():
    assert checked_split(column([0, 2, 1]), []).tolist() == [0, 2, 1]
    named = column(["train", "valid", "val", "test", "validation"], object)
    assert checked_split(named, []).tolist() == [0, 1, 1, 2, 1]
    assert checked_split(column([0, 2, 1]), []).dtype == np.int8
    with pytest.raises(ValueError, match=r"row 1.*0, 1, 2.*3"):
        checked_split(column([0, 3]), [])
    assert checked_split(column(["train", 2, 1.0], object), []).tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match=r"row 1.*dev"):
        checked_split(column(["train", "dev"], object), [])
    with pytest.raises(ValueError, match=r"row 1.*needed in every row"):
        checked_split(column([0.0, np.nan]), [])


def test_columns_of_parts_become_one():
    parts = [
        Column("u", np.array([7, 8]), lambda row: f"a {row}"),
        Column("u", np.array(["x"], dtype=object), lambda row: f"b {row}"),
        Column("u", np.array([9]), lambda row: f"c {row}"),
    ]
    whole = concatenated(parts)
    assert whole.values.tolist() == ["7", "8", "x", "9"]
    assert [whole.where(row) for row in range(4)] == ["a 0", "a 1", "b 0", "c 0"]
    assert concatenated([parts[0], parts[2]]).values.tolist() == [7, 8, 9]
    assert as_strings(parts[1]) is parts[1]
    assert whole.take(np.array([3, 0])).where(0) == "c 0"


def test_codes_are_as_good_as_values():
    """Every check gives the values, or the very error, that it gives without codes."""
    cases = [
        (["b", "ä", " a"], [0, 1, 1, 2, 0]),
        (["b", "  ", "a"], [0, 2, 1, 1]),
        (["b", "a"], [0, 1, -1, 0]),
        (["b", "a"], [-1, -1]),
        (["7", "0", "x"], [1, 0, 2]),
        (["7", "0", "2"], [1, 0, 2, 2]),
        (["1.5", "3", "inf"], [1, 0]),
        (["1.5", "3", "inf"], [0, 1, 2]),
        (["train", "test"], [0, 0, 1]),
        ([7, -3, 12], [2, 1, 1, 0]),
    ]
    checks = [
        lambda column, notes: checked_ids(column, notes).values,
        checked_numbers,
        checked_row_numbers,
        checked_split,
        checked_times,
        lambda column, notes: numbered(checked_ids(column, notes)),
        lambda column, notes: as_strings(column).values,
        lambda column, notes: concatenated([column, coded([5, 6], [1, 0]), column]).values,
    ]
    for entries, codes in cases:
        column = coded(entries, codes)
        if len(entries) > max(codes) + 1:
            column = column.take(np.arange(len(codes)))
        plain = Column("c", column.values, column.where)
        for check in checks:
            results = []
            for given in (column, plain):
                notes = []
                try:
                    got = check(given, notes)
                    got = got if isinstance(got, tuple) else (got,)
                    results.append([*(None if a is None else (a.dtype, a.tolist()) for a in got)])
                except ValueError as error:
                    results.append(str(error))
                results.append(notes)
            assert results[:2] == results[2:], (entries, codes)


def test_taken_rows_hold_the_entries_in_use():
    taken = coded(["a", "b", "c"], [2, -1, 0, 2]).take(np.array([3, 1, 0]))
    assert taken.values.tolist() == ["c", None, "c"]
    assert taken.entries.tolist() == ["c"]
    assert [taken.value(1), taken.where(1), len(taken)] == [None, "row 1", 3]
    whole = concatenated([coded(["a", "b"], [1, -1, 0]), coded(["c", "b"], [0, 1])])
    assert whole.values.tolist() == ["b", None, "a", "c", "b"]
    assert sorted(whole.entries) == ["a", "b", "c"]
