import gzip
import json

import numpy as np
import pytest

from alignrec_pyg.datasets.json_lines import JsonLines


def write(path, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


ROWS = [
    {"user": "a", "item": 3, "time": 1_700_000_000_123, "text": "é", "x": {"deep": [1]}},
    {"user": "b", "item": 4, "time": 1_700_000_000_124, "rating": 4.5},
    {"user": "a", "item": 3, "time": None, "rating": 3},
]


def test_fields_become_columns(tmp_path):
    table = JsonLines(write(tmp_path / "a.jsonl", *ROWS), ["user"], [], optional=["item", "time"])
    assert table.columns == ["user", "item", "time", "text", "rating"]
    assert table.ids("user").values.tolist() == ["a", "b", "a"]
    assert table.ids("item").values.tolist() == [3, 4, 3]
    assert table.column("time").values.tolist() == [1_700_000_000_123, 1_700_000_000_124, None]
    with pytest.raises(KeyError):
        table.column("rating")
    everything = JsonLines(tmp_path / "a.jsonl", [], [])
    assert everything.column("rating").values.tolist() == [None, 4.5, 3]


def test_ids_in_quotes_may_be_numbers(tmp_path):
    path = write(tmp_path / "a.jsonl", {"u": "7", "v": "07"}, {"u": "8", "v": "8"})
    table = JsonLines(path, ["u", "v"], [])
    assert table.ids("u").values.tolist() == [7, 8]
    assert table.ids("v").values.tolist() == ["07", "8"]


def test_gzip_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"u": 1}\n\n{"u": 2}\r\n'))
    notes = []
    table = JsonLines(path, ["u"], notes)
    assert table.column("u").values.tolist() == [1, 2]
    assert [table.where(row)[-6:] for row in (0, 1)] == ["line 1", "line 3"]
    assert notes == ["a.jsonl.gz: read through gzip"]
    plain = JsonLines(write(tmp_path / "b.jsonl", *ROWS), ["user"], [])
    assert plain.where(2).endswith("b.jsonl, line 3")


def test_numbers_that_are_whole_at_first(tmp_path):
    rows = [{"t": 1}] * 1500 + [{"t": 2.5}]
    values = JsonLines(write(tmp_path / "a.jsonl", *rows), ["t"], []).column("t").values
    assert values.dtype == np.float64
    assert values[-1] == 2.5


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "line 1: at least one object"),
        (["[1]"], "line 1: one JSON object a line is needed, without an array around them"),
        (["[", '{"u": 1},', '{"u": 2}', "]"], "line 1: one JSON object a line is needed"),
        ([{"u": 1}, "[1]"], "line 2: a JSON object is needed .got .1.."),
        ([{"u": 1}, "{'u': 2}"], "line 2: a JSON object is needed"),
        ([{"v": 1}], "line 1: the fields 'u' are needed .got .'v'.."),
        ([{"u": 1}] * 1500 + ['{"u": 2'], "line 1501: a JSON object is needed"),
        ([{"u": 1}] * 1500 + [{"u": "x"}], "line 1501, column 'u': a number is needed.*'x'"),
        ([{"u": "x"}] * 1500 + [{"u": 1}], "line 1501, column 'u': a string is needed"),
        ([{"u": "x"}, {"u": 1}], "line 2, column 'u': a string is needed.*got 1"),
        ([{"u": 1}] * 1500 + [{"u": [1]}], "line 1501, column 'u': a number is needed"),
    ],
)
def test_bad_lines_are_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        JsonLines(write(tmp_path / "a.jsonl", *lines), ["u"], [])


def test_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    lines = "".join(f'{{"u": {row * row}}}\n' for row in range(3000))
    path.write_bytes(gzip.compress(lines.encode())[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        JsonLines(path, ["u"], [])
