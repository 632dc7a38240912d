import csv
import json
import sys
from dataclasses import replace

import pytest
import torch

from alignrec_pyg.atomic import publish
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
from alignrec_pyg.storage import read_manifest


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
        still_rising=False,
        seconds=1.0,
        cpu_seconds=2.5,
        peak_bytes=None,
        content_bytes=0,
        num_parameters=3,
        rankings={},
        history=[],
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
    rising = [
        replace(limited, name="F", still_rising=True),
        replace(limited, name="G", still_rising=True, stopped_early=True),
    ]
    rows = [*table, limited, partial, *rising]
    history = [{"epoch": float(n), "recall@20": 0.1} for n in range(1, 5)] + [{"epoch": 5.0}]
    cells = [replace(cell(), row="G", best_epoch=best, history=history) for best in (2, 1)]
    experiment = make(
        table=rows,
        cells=cells,
        comparisons=compare_rows(rows),
        not_run={"E seed 0": "no memory"},
    )
    lines = screen_text(experiment, ansi=False).splitlines()
    assert lines[:6] == [
        "At the limit of epochs (+), validation still rising (↑); a larger --epochs trains them "
        "longer: F",
        "At the limit of epochs (+), perhaps not converged: C",
        "Stopped early with validation still rising (↑); --patience 3 (evaluations) or more trains "
        "them longer: G",
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
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == names
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


def _there(folder):
    return {path.name: path.read_text() for path in folder.glob("[!.]*") if path.suffix != ".json"}


def test_files_that_are_not_written_anew_are_removed_and_no_other(tmp_path):
    others = {name: "mine" for name in ("run.txt", "run2.md", "my.csv")}
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    write_files(tmp_path, "run", {"a": 1}, {".csv": "first", ".md": "first"})
    written = write_files(tmp_path, "run", {"a": 2}, {".md": "new"})
    assert written == [tmp_path / "run.json", tmp_path / "run.md"]
    assert _there(tmp_path) == {**others, "run.md": "new"}
    assert read_manifest(tmp_path / "run.json")["a"] == 2
    remove_results(tmp_path, "run")
    assert _there(tmp_path) == others


def test_what_somebody_else_wrote_or_edited_is_kept_under_another_name(tmp_path):
    (tmp_path / "run.md").write_text("mine")
    (tmp_path / "run.json").write_text("mine, too")
    with pytest.warns(UserWarning, match=r"run\.(md|json) is kept as run\.(md|json)\.kept-1"):
        write_files(tmp_path, "run", {}, {".md": "first", ".csv": "first"})
    (tmp_path / "run.md").write_text("edited")
    (tmp_path / "run.csv").write_text("edited")
    with pytest.warns(UserWarning, match="run.csv is left|run.md is kept as run.md.kept-2"):
        write_files(tmp_path, "run", {}, {".md": "second"})
    assert _there(tmp_path) == {
        "run.csv": "edited",
        "run.json.kept-1": "mine, too",
        "run.md": "second",
        "run.md.kept-1": "mine",
        "run.md.kept-2": "edited",
    }
    remove_results(tmp_path, "run")
    assert "run.md" not in _there(tmp_path)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_what_a_killed_process_wrote_is_nobody_else_s(tmp_path, monkeypatch, call):
    """Killed between two of the files; a warning would be an error."""
    write_files(tmp_path, "run", {}, {".md": "first", ".csv": "first", ".tex": "first"})
    calls = iter(range(1, 9))

    def killed(file, path):
        if next(calls) == call:
            raise KeyboardInterrupt
        publish(file, path)

    with monkeypatch.context() as patch:
        patch.setattr("alignrec_pyg.experiments.results.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            write_files(tmp_path, "run", {}, {".md": "2", ".csv": "2", ".tex": "2"})
    write_files(tmp_path, "run", {}, {".md": "third"})
    assert _there(tmp_path) == {"run.md": "third"}


def test_without_matplotlib_no_chart_is_drawn_and_no_old_one_stays(tmp_path, monkeypatch):
    write_files(tmp_path, "run", {}, {".md": ""}, lambda path: path.touch())
    assert (tmp_path / "run.png").exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    write_files(tmp_path, "run", {}, {".md": ""}, lambda path: path.touch())
    assert not (tmp_path / "run.png").exists()


def test_a_chart_that_fails_leaves_the_files_of_an_earlier_run(tmp_path):
    def failing(path):
        path.write_bytes(b"half")
        raise OSError("no space")

    write_files(tmp_path, "run", {}, {".md": "old"})
    with pytest.raises(OSError, match="no space"):
        write_files(tmp_path, "run", {}, {".md": "new"}, failing)
    assert _there(tmp_path) == {"run.md": "old"}
