from __future__ import annotations

import re

import pytest

from benchmarks.performance import serving_speed


def test_every_way_to_serve_has_its_row(capsys, monkeypatch):
    monkeypatch.setattr(serving_speed, "_CATALOGUES", (30, 50))
    words = ["--users", "60", "--items", "40", "--dim", "8", "--k", "5", "--queries", "20"]
    assert serving_speed.main(words) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[0] for row in rows[1:]] == [
        "| export to parquet", "| FAISS flat", "| FAISS hnsw", "| ONNX",
        "| ranking of 30 items", "| ranking of 50 items", "| recommend, one user",
    ]  # fmt: skip
    assert "| 300 rows, " in rows[1]  # five for each of 60 users
    assert "recall@5 1.0000" in rows[2]  # the exact index against itself
    assert all(
        float(speed.replace(",", "")) > 0 for speed in re.findall(r"([\d,]+) users/s", printed)
    )
    assert "60 users, 40 items, width 8, k 5, " in printed


def test_a_call_gives_its_result_and_time():
    result, seconds = serving_speed.taken(sorted, [2, 1], reverse=False)
    assert result == [1, 2]
    assert seconds >= 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--users", "60", "--queries", "61"], "--queries: needs to be at most --users (got 61)"),
        (["--items", "40", "--k", "41"], "--k: needs to be at most --items (got 41)"),
    ],
)
def test_sizes_have_to_fit(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        serving_speed.main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
