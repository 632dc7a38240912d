import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.charts import Curve, _panels, write_chart, write_curves, write_maps
from alignrec_pyg.experiments.paper import PAPER_LABEL
from alignrec_pyg.experiments.summary import Row
from alignrec_pyg.experiments.table import Look, csv_table, markdown_table, terminal_table


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
        user_value=torch.zeros(5),
    )


TABLE = [row("BPR", 0.05, 0.001, peak=12_345_678), row("Mine", 0.0612345, stopped_early=False)]
PAPER = {"BPR": dict(zip(METRICS, (0.0357, 0.0575, 0.0192, 0.0249), strict=True))}


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


def test_chart_gives_columns_of_another_size_axes_of_their_own():
    table = [row("A", 0.1), row("B", 0.2)]
    mixed = [
        replace(entry, mean={"recall": 0.1, "ndcg": 0.05, "popularity": 40.0, "degree": 30.0})
        for entry in table
    ]
    assert _panels(mixed) == [["recall", "ndcg"], ["popularity", "degree"]]
    assert _panels(table) == [list(METRICS)]


def test_curves_and_maps_are_pictures(tmp_path):
    curve = Curve(x=[0.0, 1e-3, 1.0], mean=[0.1, 0.2, 0.3], std=[0.01, 0.01, 0.01])
    alone = Curve(x=[1.0, 2.0], mean=[0.1, 0.2], std=None)
    write_curves(tmp_path / "a.png", "t", {"alpha": {"test": curve}, "n": {"test": alone}}, "r")
    points = np.arange(8.0).reshape(4, 2)
    write_maps(tmp_path / "b.png", "t", {"left": (points, points + 1), "right": (points, points)})
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_columns_costs_and_marks_can_be_others():
    table = [
        replace(entry, mean={"coverage": value, "Gini": 1 - value}, std=None)
        for entry, value in zip(TABLE, (0.25, 0.75), strict=True)
    ]
    look = Look(unmarked=None, costs=False)
    assert terminal_table(table, {}, look, bold=False).splitlines()[2:] == [
        "BPR      0.2500  0.7500",
        "Mine     0.7500  0.2500",
    ]
    one = terminal_table(table, {}, Look(unmarked=("Gini",), costs=False), bold=False)
    assert one.splitlines()[2:] == ["BPR      0.2500  0.7500", "Mine    *0.7500  0.2500"]
    lines = markdown_table(table, {"BPR": {"Gini": 0.5}}, look).splitlines()
    assert lines[0] == "| model | coverage | Gini |"
    assert lines[3] == f"|   {PAPER_LABEL} |  | 0.5000 |"
    published = list(csv.DictReader(io.StringIO(csv_table(table, {"BPR": {"Gini": 0.5}}))))[2]
    assert (published["coverage mean"], published["Gini mean"]) == ("", "0.5")


def test_large_values_have_one_digit_and_equal_ones_no_spread():
    table = [replace(TABLE[0], mean={"popularity": 41.23}, std={"popularity": 0.5})]
    table.append(replace(TABLE[0], mean={"popularity": 3.0}, std={"popularity": math.nan}))
    lines = terminal_table(table, {}, Look(costs=False), bold=False).splitlines()[2:]
    assert [line.split()[1:] for line in lines] == [["*41.2", "±", "0.5"], ["3.0000"]]
