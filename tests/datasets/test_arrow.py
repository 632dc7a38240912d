import datetime

import numpy as np
import pyarrow as pa

from alignrec_pyg.datasets.arrow import arrow_column, arrow_ids, empty_rows

TEXT = pa.dictionary(pa.int32(), pa.string())


def chunks(*parts, kind=None):
    return pa.chunked_array([pa.array(part, kind) for part in parts])


def column_values(column):
    return arrow_column("c", column, str).values


def id_values(column):
    return arrow_ids("c", column, str).values


def test_strings_stay_codes():
    for kind in (pa.string(), pa.large_string(), TEXT):
        for convert in (arrow_column, arrow_ids):
            column = convert("c", chunks(["b", None, "a"], ["a", "b", "c"], kind=kind), str)
            assert column.codes.dtype == np.int32
            assert column.codes.tolist() == [0, -1, 1, 1, 0, 2]
            assert column.entries.tolist() == ["b", "a", "c"]
    numbers = arrow_ids("c", chunks(["10", "2"], ["10"]), str)
    assert (numbers.codes.tolist(), numbers.entries.tolist()) == ([0, 1, 0], [10, 2])


def test_dictionaries_of_others():
    """Which may hold an entry twice, none, or more than is in use, and number as they like."""
    codes = pa.array([0, 2, 1, None], pa.uint8())
    for strings, rows in (
        (["a", "a", "b", "z"], ["a", "b", "a", None]),
        (["a", None, "b"], ["a", "b", None, None]),
        (["a", "c", "b", "z"], ["a", "b", "c", None]),
    ):
        column = pa.chunked_array([pa.DictionaryArray.from_arrays(codes, pa.array(strings))])
        for convert in (arrow_column, arrow_ids):
            found = convert("c", column, str)
            assert found.values.tolist() == rows
            assert sorted(found.entries) == sorted({row for row in rows if row})
    whole = pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array([1, 0]), pa.array([5, 6]))])
    assert column_values(whole).dtype == np.int64
    assert column_values(whole).tolist() == [6, 5]


def test_equal_strings_are_one_object():
    for kind in (pa.string(), pa.large_string(), TEXT):
        values = column_values(chunks(["ab", None, "c"], ["c", "ab"], kind=kind))
        assert values.tolist() == ["ab", None, "c", "c", "ab"]
        assert values[0] is values[4]
    assert column_values(pa.chunked_array([], pa.string())).tolist() == []


def test_numbers_and_what_is_missing():
    assert column_values(chunks([1, 2])).dtype == np.int64
    assert column_values(chunks([1.5])).dtype == np.float64
    assert column_values(chunks([1, None])).tolist() == [1, None]
    assert column_values(chunks([True, False])).tolist() == [True, False]


def test_dates_and_zones():
    day = column_values(chunks([datetime.date(2020, 1, 1), None]))
    assert day[0] == np.datetime64("2020-01-01")
    assert np.isnat(day[1])
    zone = pa.timestamp("s", tz="+02:00")
    stamps = column_values(chunks([0, 7200], kind=zone))
    assert stamps.tolist() == [datetime.datetime(1970, 1, 1, hour) for hour in (0, 2)]


def test_ids_are_numbers_where_nothing_is_lost():
    assert id_values(chunks(["10", "2"], ["10"])).tolist() == [10, 2, 10]
    assert id_values(chunks(["-1", "0"], kind=TEXT)).dtype == np.int64
    for odd in ("01", "1.0", "+1", " 1", "-0", "1" * 19, "", "NA", "١"):
        assert id_values(chunks(["2", odd])).tolist() == ["2", odd]
    assert id_values(chunks(["2", None])).tolist() == ["2", None]
    assert id_values(pa.chunked_array([], TEXT)).tolist() == []


def test_rows_that_hold_nothing():
    table = pa.table(
        {
            "a": pa.array(["", None, "x", "", ""], TEXT),
            "b": pa.array(["", None, None, "y", ""]),
            "c": pa.array([None, None, None, None, 1]),
        }
    )
    assert empty_rows(table).tolist() == [True, True, False, False, False]
