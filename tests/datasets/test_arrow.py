import datetime

import numpy as np
import pyarrow as pa

from alignrec_pyg.datasets.arrow import column_values, empty_rows, id_values

TEXT = pa.dictionary(pa.int32(), pa.string())


def chunks(*parts, kind=None):
    return pa.chunked_array([pa.array(part, kind) for part in parts])


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
