import argparse
import json

import pytest
import torch

from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.runner import RunOutcome
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import published_settings
from alignrec_pyg.experiments.statistics import Measurement
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.models import BPR

RECALL = {"low": [0.1, 0.2, 0.1, 0.2], "high": [0.9, 0.8, 0.9, 0.7], "mid": [0.5, 0.4, 0.3, 0.5]}


def result(row, seed=0):
    return CellResult(
        row=row,
        model="BPR",
        seed=seed,
        key="k",
        settings={"model": "BPR"},
        metrics=dict.fromkeys(METRICS, sum(RECALL[row]) / 4),
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
        origin=Origin(commit=None, hardware="", versions={}),
    )


def measure(cell):
    return Measurement(cell.metrics, torch.arange(4), torch.tensor(RECALL[cell.row]))


@pytest.fixture
def conclude(synthetic, tmp_path, capsys):
    """Exit status, printed lines and the JSON file of an experiment with these rows."""
    session = Session(
        options=argparse.Namespace(),
        device=torch.device("cpu"),
        models={"BPR": published_settings(BPR, "x")},
        data=synthetic,
        prepare=lambda **changes: synthetic,
        seeds=range(1),
        out=tmp_path,
    )

    def run(rows=tuple(RECALL), failed=None, **arguments):
        outcome = RunOutcome(results=[result(row) for row in rows], failed=failed or {})
        status = session.conclude("x", "rows", outcome, measure=measure, **arguments)
        path = tmp_path / "x.json"
        saved = json.loads(path.read_text()) if path.exists() else None
        return status, capsys.readouterr().out.splitlines(), saved

    return run


def names(saved):
    return [row["name"] for row in saved["rows"]]


def pairs(saved):
    return [(found["reference"], found["other"]) for found in saved["comparisons"]]


def test_the_best_row_is_first_and_compared_with_the_others(conclude, tmp_path):
    status, lines, saved = conclude()
    assert status == 0
    assert names(saved) == ["high", "mid", "low"]
    assert pairs(saved) == [("high", "mid"), ("high", "low")]
    assert saved["title"] == "rows (synthetic)"
    assert saved["settings_unlike_the_published"] == ["BPR: none"]
    assert saved["outcome"].startswith("high is best on recall@20")
    assert lines[-3:-1] == [saved["outcome"], ""]
    assert lines[-1].startswith(f"written: {tmp_path / 'x.csv'}, ")


def test_a_reference_leaves_rows_in_their_order(conclude):
    _, lines, saved = conclude(reference="mid")
    assert names(saved) == ["low", "high", "mid"]
    assert pairs(saved) == [("mid", "low"), ("mid", "high")]
    assert saved["outcome"].startswith("mid is not the best")
    assert saved["outcome"] in lines


def test_pairs_leave_rows_in_their_order(conclude):
    _, _, saved = conclude(pairs=[("mid", "low")])
    assert names(saved) == ["low", "high", "mid"]
    assert pairs(saved) == [("mid", "low")]


def test_rows_may_not_be_compared(conclude):
    _, lines, saved = conclude(compared=False)
    assert names(saved) == ["low", "high", "mid"]
    assert (pairs(saved), saved["outcome"]) == ([], "")
    assert not any("p (Holm)" in line or "best" in line.split(" is ") for line in lines)


def test_failed_cells_are_told_and_decide_the_status(conclude):
    status, lines, saved = conclude(["low", "mid"], failed={("high", 0): "no memory"})
    assert status == 1
    assert "Not run: high seed 0: no memory" in lines
    assert saved["not_run"] == {"high seed 0": "no memory"}


def test_without_results_files_of_an_earlier_run_are_removed(conclude, tmp_path):
    conclude()
    (tmp_path / "notes.md").touch()
    status, _, saved = conclude([], failed={("low", 0): "no memory"})
    assert (status, saved) == (1, None)
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["notes.md"]


def test_another_chart_may_be_drawn(conclude, tmp_path):
    def draw(table, path):
        path.write_text(",".join(row.name for row in table))

    conclude(draw=draw)
    assert (tmp_path / "x.png").read_text() == "high,mid,low"
