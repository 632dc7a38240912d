import csv
import json
import sys

import pytest
import torch

from alignrec_pyg.experiments import results
from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.results import (
    Experiment,
    origins,
    remove_results,
    screen_text,
    write_files,
    write_results,
)
from alignrec_pyg.experiments.statistics import compare_rows
from alignrec_pyg.experiments.store import CellResult


def cell(commit="c0ffee"):
    return CellResult(
        row="A",
        model="BPR",
        seed=0,
        key="k",
        settings={"model": "BPR"},
        metrics=dict.fromkeys(METRICS, 0.5),
        val_metrics={},
        best_epoch=1,
        num_epochs=2,
        stopped_early=True,
        seconds=1.0,
        peak_bytes=None,
        content_bytes=0,
        num_parameters=3,
        rankings={},
        origin=Origin(commit=commit, hardware="a machine", versions={"torch": "2"}),
    )


@pytest.fixture
def table(make_row):
    return [
        make_row("A", 0.5, 0.01, users=[0.9, 0.6, 0.8, 0.5]),
        make_row("B", 0.4, 0.02, users=[0.1, 0.2, 0.1, 0.3]),
    ]


@pytest.fixture
def make(synthetic, table):
    """Makes an experiment of two rows."""

    def experiment(**others):
        defaults = {
            "title": "two models",
            "data": synthetic,
            "models": {},
            "seeds": [0, 1],
            "device": torch.device("cpu"),
            "cells": [cell()],
            "table": table,
            "comparisons": compare_rows(table),
        }
        return Experiment(**{**defaults, **others})

    return experiment


def test_screen_has_table_legend_and_outcome(make):
    experiment = make()
    head, rule, a, b, legend, empty, outcome = screen_text(experiment, ansi=False).splitlines()
    assert head.split()[:4] == ["model", "recall@10", "recall@20", "ndcg@10"]
    assert set(rule) == {"-"}
    assert a.startswith("A      *0.5000 ± 0.0100")
    assert b.startswith("B       0.4000 ± 0.0200")
    assert legend == (
        "mean ± standard deviation over seeds 0, 1; p: paired t-test against A, recall@20 of 4 "
        "users, Holm's correction for 1"
    )
    assert (empty, outcome) == ("", experiment.outcome)
    assert outcome.startswith("A is best on recall@20: significantly ahead of B (p = .0")
    assert "\033[1m" in screen_text(experiment, ansi=True)


def test_what_is_not_converged_or_missing_is_said_before_the_table(make, table, make_row):
    limited = make_row("C", 0.1, 0.01, users=[0.0, 0.1, 0.1, 0.3], stopped_early=False)
    partial = make_row("D", 0.9, seeds=(1,), missing=(0,), users=[1.0] * 4)
    rows = [*table, limited, partial]
    experiment = make(table=rows, comparisons=compare_rows(rows), not_run={"E seed 0": "no memory"})
    lines = screen_text(experiment, ansi=False).splitlines()
    assert lines[:4] == [
        "Stopped at the limit of epochs (+), perhaps not converged: C",
        "D (1/2 seeds): one run with seed 1 only; no best value, not in the tests",
        "Not run: E seed 0: no memory",
        "",
    ]
    assert "12+ (3)" in "\n".join(lines)


def test_rows_that_are_not_compared_have_no_p_and_no_outcome(make):
    experiment = make(comparisons=None)
    text = screen_text(experiment, ansi=False)
    assert "p (Holm)" not in text
    assert text.endswith("mean ± standard deviation over seeds 0, 1")
    assert experiment.outcome == ""


def test_files_hold_everything(make, tmp_path):
    experiment = make(paper={"A": {"recall@20": 0.25}}, notes=["a note"], title="50 % of it")
    written = write_results(experiment, tmp_path, "two")
    names = ["two.csv", "two.json", "two.md", "two.png", "two.tex"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    saved = json.loads((tmp_path / "two.json").read_text())
    assert [row["name"] for row in saved["rows"]] == ["A", "B"]
    assert saved["rows"][0]["recall@20 over users"]["mean"] == pytest.approx(0.7)
    (comparison,) = saved["comparisons"]
    assert comparison["p_holm"] == experiment.comparisons[0].p_holm
    assert comparison["text"] == str(experiment.comparisons[0])
    assert saved["outcome"] == experiment.outcome
    assert saved["commit"] == "c0ffee"
    with (tmp_path / "two.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines] == ["A", "B", "A"]
    assert float(lines[1]["p (Holm)"]) == experiment.comparisons[0].p_holm
    markdown = (tmp_path / "two.md").read_text()
    for part in (
        "# 50 % of it\n",
        experiment.outcome,
        "**0.5000 ± 0.0100**",
        f"- {experiment.comparisons[0]}",
        "- a note",
        "Table 2 of the AlignRec paper",
        "- commit: c0ffee",
        "data: synthetic",
    ):
        assert part in markdown
    latex = (tmp_path / "two.tex").read_text()
    assert "\\textbf{0.5000 $\\pm$ 0.0100}" in latex
    assert "seconds" not in latex  # a paper's table has no costs
    assert "50 % of it" in latex.splitlines()[0]
    assert latex.startswith("% ")


def test_json_has_no_nan(make, make_row, tmp_path):
    table = [make_row("A"), make_row("B")]  # equal for every user: no p
    experiment = make(table=table, comparisons=compare_rows(table))
    write_results(experiment, tmp_path, "x", lambda path: path.write_bytes(b"drawn"))
    assert json.loads((tmp_path / "x.json").read_text())["comparisons"][0]["p"] is None
    assert (tmp_path / "x.png").read_bytes() == b"drawn"


def test_chart_marks_what_the_table_marks(make, tmp_path, monkeypatch):
    drawn = {}

    def recorded(path, **arguments):
        path.touch()
        drawn.update(arguments)

    monkeypatch.setattr(results, "write_chart", recorded)
    experiment = make(style=TableStyle(unmarked=None))
    write_results(experiment, tmp_path, "x")
    assert drawn["style"] == experiment.style
    assert drawn["table"] == experiment.table


def test_costs_may_be_left_out(make):
    experiment = make(style=TableStyle(costs=False))
    assert experiment.rows[0][-1] == "p (Holm)"
    assert "parameters" in make().rows[0]


def test_origins_say_where_cells_differ():
    assert origins([cell(), cell()])["commit"] == "c0ffee"
    assert origins([cell(), cell(None)])["commit"] == "mixed: c0ffee; not a git checkout"
    assert origins([cell()])["versions"] == "torch 2"


def test_files_that_are_not_written_anew_are_removed_and_no_other(tmp_path):
    ours = [tmp_path / f"run{suffix}" for suffix in (".json", ".csv", ".md", ".tex", ".png")]
    others = [tmp_path / name for name in ("run.txt", "run2.json", "my.json")]
    for path in (*ours, *others):
        path.write_text("old")
    written = write_files(tmp_path, "run", {".json": "new", ".md": "new"})
    assert written == [tmp_path / "run.json", tmp_path / "run.md"]
    assert sorted(tmp_path.iterdir()) == sorted([*written, *others])
    assert {path.read_text() for path in written} == {"new"}
    remove_results(tmp_path, "run")
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_without_matplotlib_no_chart_is_drawn_and_no_old_one_stays(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "run.png").touch()
    assert write_files(tmp_path, "run", {".md": ""}, lambda path: path.touch()) == [
        tmp_path / "run.md"
    ]
    assert not (tmp_path / "run.png").exists()


def test_a_chart_that_fails_leaves_the_files_of_an_earlier_run(tmp_path):
    def failing(path):
        path.write_bytes(b"half")
        raise OSError("no space")

    (tmp_path / "run.md").write_text("old")
    with pytest.raises(OSError, match="no space"):
        write_files(tmp_path, "run", {".md": "new"}, failing)
    assert [path.name for path in tmp_path.iterdir()] == ["run.md"]
    assert (tmp_path / "run.md").read_text() == "old"
