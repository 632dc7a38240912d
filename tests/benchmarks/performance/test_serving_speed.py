from __future__ import annotations

import re

import pytest

from benchmarks.performance import serving_speed


def test_every_way_to_serve_has_its_row(capsys, monkeypatch):
    monkeypatch.setattr(serving_speed, "_CATALOGUES", (30, 50))
    words = ["--users", "60", "--items", "40", "--links", "300", "--dim", "8", "--k", "5"]
    assert serving_speed.main([*words, "--queries", "20", "--exported", "60"]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")][1:]
    first = [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]]
    ours = [name for name in first if not name.startswith("implicit")]
    assert ours == [
        "server", "one user", "one item", "server, 20 users at once", "export to parquet",
        "FAISS flat", "FAISS hnsw", "ONNX", "ranking of 30 items", "ranking of 50 items",
    ]  # fmt: skip
    assert len(first) > len(ours)  # measured, or with the reason why not
    (export,) = [row for row in rows if row.startswith("| export")]
    assert "| 300 rows, " in export  # five for each of 60 users
    (exact,) = [row for row in rows if row.startswith("| FAISS flat")]
    assert "recall@5 1.0000" in exact  # the exact index against itself
    assert all(
        float(speed.replace(",", "")) > 0 for speed in re.findall(r"([\d,]+) users/s", printed)
    )
    assert "60 users, 40 items, 300 links, width 8, k 5, " in printed


def test_a_call_gives_its_result_and_time():
    result, seconds = serving_speed.taken(sorted, [2, 1], reverse=False)
    assert result == [1, 2]
    assert seconds >= 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--users", "60", "--queries", "61"], "--queries: needs to be at most --users (got 61)"),
        (["--users", "60", "--exported", "61", "--queries", "9"], "--exported: needs to be at"),
        (["--items", "40", "--k", "41"], "--k: needs to be at most --items (got 41)"),
        (["--links", "9"], "--links: needs to be 3 or more for each user (got 9)"),
    ],
)
def test_sizes_have_to_fit(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        serving_speed.main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
