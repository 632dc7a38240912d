import csv
import io

import pytest

from alignrec_pyg.experiments import learning_curves
from alignrec_pyg.experiments.cells import METRICS
from alignrec_pyg.experiments.learning_curves import (
    curves_csv,
    write_curves,
    write_run_curves,
    write_validation_curves,
)
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.store import CellResult


def history(recalls):
    """An epoch for each recall, without validation where it is ``None``."""
    return [
        {"epoch": float(n), "step": 3.0 * n, "lr": 1e-3, "loss": 1 / n, "loss/bpr": 2 / n}
        | ({} if recall is None else dict.fromkeys(METRICS, recall) | {"num_users": 4.0})
        for n, recall in enumerate(recalls, start=1)
    ]


def cell(row, seed, recalls):
    best = max(value for value in recalls if value is not None)
    return CellResult(
        row=row,
        model="BPR",
        seed=seed,
        key="k",
        settings={"model": "BPR"},
        metrics={},
        val_metrics=dict.fromkeys(METRICS, best),
        best_epoch=recalls.index(best) + 1,
        num_epochs=len(recalls),
        stopped_early=True,
        still_rising=False,
        seconds=1.0,
        cpu_seconds=1.0,
        peak_bytes=None,
        content_bytes=0,
        num_parameters=3,
        rankings={},
        history=history(recalls),
        origin=Origin(commit=None, hardware="", versions={}),
    )


@pytest.fixture
def figures(monkeypatch):
    """The figures drawn."""
    drawn = []
    original = learning_curves.new_figure

    def noted(*size):
        drawn.append(original(*size))
        return drawn[-1]

    monkeypatch.setattr(learning_curves, "new_figure", noted)
    return drawn


def test_csv_has_a_row_per_epoch_and_columns_of_all_runs():
    first = history([0.1, None, 1 / 3])
    other = [{"epoch": 1.0, "step": 5.0, "lr": 0.1, "loss": 0.5, "loss/uia": 0.25}]
    text = curves_csv([({"model": "A", "seed": 0}, first), ({"model": "B", "seed": 1}, other)])
    rows = list(csv.DictReader(io.StringIO(text)))
    names = ["model", "seed", "epoch", "step", "lr", "loss", "loss/bpr", "loss/uia"]
    assert list(rows[0]) == [*names, *METRICS, "num_users"]
    assert [(row["model"], row["epoch"], row["step"]) for row in rows] == [
        ("A", "1", "3"), ("A", "2", "6"), ("A", "3", "9"), ("B", "1", "5"),
    ]  # fmt: skip
    assert [row["recall@20"] for row in rows] == ["0.1", "", repr(1 / 3), ""]
    assert (rows[0]["loss/uia"], rows[3]["loss/uia"]) == ("", "0.25")


def test_a_run_is_drawn_with_its_losses_and_its_best_epoch(tmp_path, figures):
    write_run_curves(tmp_path / "a.png", "BPR", history([0.1, None, 0.3, 0.2]), 3)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    losses, metrics = figures[0][0].axes
    assert [line.get_label() for line in losses.lines] == ["all, weighted", "bpr"]
    assert list(losses.lines[0].get_ydata()) == [1, 1 / 2, 1 / 3, 1 / 4]
    assert losses.get_yscale() == "log"
    recall = metrics.lines[METRICS.index("recall@20")]
    assert (list(recall.get_xdata()), list(recall.get_ydata())) == ([1, 3, 4], [0.1, 0.3, 0.2])
    assert list(metrics.lines[-1].get_xdata()) == [3, 3]
    below = [{**entry, "loss": -1.0} for entry in history([0.1])]
    write_run_curves(tmp_path / "b.png", "BPR", below, 1)
    assert figures[1][0].axes[0].get_yscale() == "linear"
    solved = [{"epoch": 1.0, "step": 1.0, **dict.fromkeys(METRICS, 0.1)}]
    write_run_curves(tmp_path / "c.png", "EASE", solved, 1)
    assert list(figures[2][0].axes[0].lines) == []


def test_a_model_in_closed_form_is_drawn_as_points(tmp_path, figures):
    entry = {
        name: v for name, v in history([0.1])[0].items() if name != "lr" and name[:4] != "loss"
    }
    write_run_curves(tmp_path / "a.png", "EASE", [entry], 1)
    losses, metrics = figures[0][0].axes
    assert not losses.lines
    assert [line.get_marker() for line in metrics.lines[:-1]] == ["o"] * len(METRICS)


def test_rows_are_drawn_as_means_over_the_epochs_of_all_seeds(tmp_path, figures):
    cells = [
        cell("A", 0, [0.2, 0.4, 0.6, 0.1]),
        cell("B", 0, [0.5, 0.4]),
        cell("A", 1, [0.1, 0.3, 0.2]),
    ]
    write_validation_curves(tmp_path / "a.png", "three", cells)
    (axes,) = figures[0][0].axes
    named = {line.get_label(): line for line in axes.lines if line.get_label()[0] != "_"}
    assert list(named) == ["B (0.5000)", "A (0.4500)"]  # the best first
    mean = named["A (0.4500)"]
    assert list(mean.get_xdata()) == [1, 2, 3]
    assert list(mean.get_ydata()) == pytest.approx([0.15, 0.35, 0.4])
    assert len(axes.lines) == 2 * 3 + 2  # a curve and a dot for each seed
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in dots] == [
        (1, 0.5), (3, 0.6), (2, 0.3),
    ]  # fmt: skip


def test_thirteen_rows_look_different(tmp_path, figures):
    cells = [cell(f"row {n}", 0, [0.1, 0.1 + n / 100] * (1 + 5 * n)) for n in range(13)]
    write_validation_curves(tmp_path / "a.png", "thirteen", cells)
    (axes,) = figures[0][0].axes
    lines = [line for line in axes.lines if line.get_label()[0] != "_"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 13
    assert axes.get_xscale() == "log"  # 2 to 122 epochs
    cells = [cell("A", 0, [0.1] * 20), cell("B", 0, [0.1] * 30), cell("solved", 0, [0.2])]
    write_validation_curves(tmp_path / "b.png", "three", cells)
    assert figures[1][0].axes[0].get_xscale() == "linear"


def test_files_of_cells_are_listed_and_nothing_is_written_without_training(tmp_path):
    untrained = cell("A", 0, [0.1]).__class__(**{**vars(cell("A", 0, [0.1])), "history": []})
    assert write_curves(tmp_path, "some", [untrained]) == []
    written = write_curves(tmp_path, "some", [untrained, cell("B", 0, [0.1, 0.2])])
    assert [path.name for path in written] == ["curves.csv", "curves.json", "curves.png"]
    assert (tmp_path / "curves.csv").read_text().count("\n") == 3
