import numpy as np
import pytest

from alignrec_pyg.experiments import charts
from alignrec_pyg.experiments.charts import (
    Curve,
    chart_problem,
    write_chart,
    write_curves,
    write_maps,
    write_scatter,
)
from alignrec_pyg.experiments.paper import PAPER_LABEL
from alignrec_pyg.experiments.result_table import TableStyle


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn."""
    drawn = []
    original = charts.new_figure

    def kept(*size):
        figure, canvas = original(*size)
        drawn.append(figure)
        return figure, canvas

    monkeypatch.setattr(charts, "new_figure", kept)
    return drawn


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG")


def legend(figure):
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def test_chart_has_a_panel_per_column_and_a_named_bar_per_row(tmp_path, figures, make_row):
    table = [make_row("A", 0.25, 0.01), make_row("B", 0.25, 0.02, missing=(2,)), make_row("C", 0.1)]
    write_chart(
        tmp_path / "chart.png", "three models", table, {"A": {"recall@20": 0.3}}, TableStyle()
    )
    assert is_picture(tmp_path / "chart.png")
    (figure,) = figures
    panels = [axes for axes in figure.axes if axes.get_visible()]
    names = [text.get_text() for text in panels[0].get_yticklabels()]
    assert names == ["A", "B (2/3 seeds)", "C"]
    assert panels[0].yaxis_inverted()  # the first row is on top
    assert [axes.get_title("left") for axes in panels] == [
        "recall@10",
        "recall@20",
        "ndcg@10",
        "ndcg@20",
    ]
    for axes in panels:
        assert [bar.get_width() for bar in axes.patches] == [0.25, 0.25, 0.1]
        assert axes.get_xlim()[0] == 0
        assert [text.get_text() for text in axes.texts] == ["0.250", "0.250", "0.100"]
        colours = [bar.get_facecolor() for bar in axes.patches]
        assert colours[0] != colours[1] == colours[2]  # of the complete rows A is the best
    whiskers = panels[0].collections[0].get_segments()
    assert whiskers[0][:, 0].tolist() == pytest.approx([0.24, 0.26])
    assert len(whiskers[2]) == 0  # of a single seed
    (diamonds,) = [line for line in panels[1].lines if line.get_marker() == "D"]
    assert diamonds.get_xdata()[0] == 0.3
    assert not [line for line in panels[0].lines if line.get_marker() == "D"]
    assert sorted(legend(figure)) == sorted(["best", "standard deviation over seeds", PAPER_LABEL])


def test_chart_of_one_seed_has_no_whiskers(tmp_path, figures, make_row):
    write_chart(tmp_path / "chart.png", "one", [make_row("A", 0.5)], {}, TableStyle())
    assert legend(figures[0]) == []
    assert not figures[0].axes[0].collections


def test_no_bar_stands_out_in_a_column_without_a_marked_value(tmp_path, figures, make_row):
    table = [make_row("A", 0.5), make_row("B", 0.1)]
    write_chart(tmp_path / "chart.png", "two", table, {}, TableStyle(unmarked=("ndcg@10",)))
    colours = [{bar.get_facecolor() for bar in axes.patches} for axes in figures[0].axes]
    assert [len(of_panel) for of_panel in colours] == [2, 2, 1, 2]
    best = figures[0].axes[0].patches[0].get_facecolor()
    assert colours[2] == {best}  # none is pale where none is better


def test_many_columns_take_several_lines(tmp_path, figures, make_row):
    row = make_row("A", mean={f"column {n}": 0.1 * n for n in range(6)})
    write_chart(tmp_path / "chart.png", "many", [row], {}, TableStyle())
    shown = [axes for axes in figures[0].axes if axes.get_visible()]
    assert len(shown) == 6
    assert shown[4].get_position().y1 < shown[0].get_position().y0


def test_curves_maps_and_points_are_pictures(tmp_path, figures):
    curve = Curve(x=[0.0, 1e-3, 1.0], mean=[0.1, 0.2, 0.3], std=[0.01, 0.01, 0.01])
    alone = Curve(x=[1.0, 2.0], mean=[0.1, 0.2], std=None)
    write_curves(tmp_path / "a.png", "t", {"alpha": {"test": curve}, "n": {"test": alone}}, "r")
    points = np.arange(8.0).reshape(4, 2)
    write_maps(tmp_path / "b.png", "t", {"left": (points, points + 1), "right": (points, points)})
    write_scatter(tmp_path / "c.png", "t", {"one": (points, np.arange(4.0))}, "links")
    assert all(is_picture(tmp_path / name) for name in ("a.png", "b.png", "c.png"))
    assert [axes.get_xscale() for axes in figures[0].axes] == ["symlog", "linear"]
    assert legend(figures[0]) == ["test"]
    assert legend(figures[1]) == ["content", "ID"]


def test_without_matplotlib_the_way_out_is_said(monkeypatch):
    assert chart_problem() is None
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    problem = chart_problem()
    assert problem.startswith("no chart: ")
    assert "pip install matplotlib" in problem
    assert "\n" not in problem
