import csv
import io

import pytest
import torch

from benchmarks.chart import write_chart
from benchmarks.paper_results import PAPER_LABEL, paper_results
from benchmarks.runner import METRICS
from benchmarks.summary import Row
from benchmarks.table import csv_table, markdown_table, terminal_table


def row(name, value, std=None, *, stopped_early=True, peak=None, missing=()):
    return Row(
        name=name,
        seeds=(0,) if std is None else (0, 1),
        missing=missing,
        mean=dict.fromkeys(METRICS, value),
        std=None if std is None else dict.fromkeys(METRICS, std),
        epochs=12.4,
        best_epoch=3.0,
        stopped_early=stopped_early,
        seconds=1.25,
        peak_bytes=peak,
        num_parameters=1234,
        user=torch.arange(5),
        user_recall=torch.zeros(5),
    )


TABLE = [row("BPR", 0.05, 0.001, peak=12_345_678), row("Mine", 0.0612345, stopped_early=False)]
PAPER = paper_results("baby", 19_445, 7_050, 160_792)


def test_terminal_table_without_bold():
    lines = terminal_table(TABLE, PAPER, bold=False).splitlines()
    assert len(lines) == 5
    assert lines[2].split() == [
        "BPR",
        *["0.0500", "±", "0.0010"] * 4,
        "12",
        "(3)",
        "1.2",
        "12",
        "1,234",
    ]
    assert lines[3].split()[-4:] == ["0.0357", "0.0575", "0.0192", "0.0249"]
    assert lines[3].startswith(f"  {PAPER_LABEL}")
    assert lines[4].split() == ["Mine", *["*0.0612"] * 4, "12+", "(3)", "1.2", "1,234"]


def test_row_with_missing_seeds_is_marked_and_never_the_best():
    failed = row("Failed", 0.9, missing=(1, 2))
    text = terminal_table([*TABLE, failed], {}, bold=False)
    assert "Failed (1/3 seeds)  " in text
    assert "0.9000" in text
    assert "*0.9000" not in text
    assert text.count("*0.0612") == 4
    assert "*" not in terminal_table([TABLE[0], failed], {}, bold=False)
    (line,) = csv.DictReader(io.StringIO(csv_table([failed], {})))
    assert (line["model"], line["seeds"], line["missing seeds"]) == ("Failed", "1", "2")


def test_bold_leaves_the_columns_where_they_are():
    plain = terminal_table(TABLE, PAPER, bold=False)
    bold = terminal_table(TABLE, PAPER, bold=True)
    assert bold.count("\033[1m") == 4
    stripped = bold.replace("\033[1m", "").replace("\033[0m", "")
    assert stripped == plain.replace("*", " ")


def test_markdown_table():
    lines = markdown_table(TABLE, PAPER).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| BPR | 0.0500 ± 0.0010 |")
    assert lines[4].count("**0.0612**") == 4
    assert "**" not in lines[2] + lines[3]


def test_csv_holds_unrounded_values():
    lines = list(csv.DictReader(io.StringIO(csv_table(TABLE, PAPER))))
    assert [(line["model"], line["source"]) for line in lines] == [
        ("BPR", "this run"),
        ("Mine", "this run"),
        ("BPR", PAPER_LABEL),
    ]
    assert lines[1]["recall@20 mean"] == "0.0612345"
    assert lines[1]["recall@20 std"] == lines[1]["peak bytes"] == ""
    assert lines[0]["recall@20 std"] == "0.001"
    assert lines[2]["recall@20 mean"] == "0.0575"
    assert all(None not in line and None not in line.values() for line in lines)


@pytest.mark.parametrize("paper", [PAPER, {}], ids=["paper", "no paper"])
def test_chart_is_a_picture(tmp_path, paper):
    write_chart(tmp_path / "chart.png", "two models", TABLE, paper)
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
