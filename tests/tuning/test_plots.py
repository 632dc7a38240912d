import pytest

from alignrec_pyg.experiments.runner import METRICS
from alignrec_pyg.tuning import plots
from alignrec_pyg.tuning.configurations import Trial, collect
from alignrec_pyg.tuning.spaces import Choice, Interval

pytest.importorskip("matplotlib")

SPACE = {
    "reg_weight": Interval(1e-3, 10.0),
    "dropout": Interval(0.0, 1.0, log=False),
    "num_layers": Choice((1, 2, 3)),
}
POINTS = [(0.1, 0.5, 1), (10.0, 0.0, 3), (1e-3, 1.0, 1)]


@pytest.fixture
def configurations():
    values = {(0, 0): 0.2, (0, 1): 0.4, (1, 0): 0.1, (2, 0): 0.25}
    outcomes = {1: "stopped"}
    return collect(
        [
            Trial(
                number=number, seed=seed, point=dict(zip(SPACE, POINTS[number], strict=True)),
                outcome=outcomes.get(number, "finished"), reason="", epochs=1, best_epoch=1,
                val=dict.fromkeys(METRICS, value), seconds=1.0,
            )
            for (number, seed), value in values.items()
        ]
    )  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are made."""
    figures, make = [], plots.new_figure

    def kept(width):
        figures.append(make(width))
        return figures[-1]

    monkeypatch.setattr(plots, "new_figure", kept)
    return figures


def test_parallel_lines_go_through_the_values(configurations, drawn, tmp_path):
    plots.write_parallel(tmp_path / "p.png", "title", configurations, SPACE)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = drawn[0][0].axes
    best, *_ = sorted(axes.lines, key=lambda line: -line.get_linewidth())
    assert list(best.get_xdata()) == [0, 1, 2, 3]
    assert list(best.get_ydata()) == pytest.approx([0.5, 0.5, 0.0, 1.0])  # 0.1 of 1e-3 .. 10
    found = [pytest.approx(list(line.get_ydata())) for line in axes.lines]
    assert [1.0, 0.0, 1.0, 0.0] in found
    assert [0.0, 1.0, 0.0, 0.75] in found  # 0.25 between 0.1 and 0.3
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels == [*SPACE, "validation\nrecall@20"]


def test_responses_have_a_panel_per_setting_with_spread_over_seeds(configurations, drawn, tmp_path):
    plots.write_responses(tmp_path / "r.png", "title", configurations, SPACE, {"dropout": 0.75})
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    panels = [axes for axes in drawn[0][0].axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in panels] == [
        "reg_weight", "dropout (importance 0.75)", "num_layers",
    ]  # fmt: skip
    assert [axes.get_xscale() for axes in panels] == ["log", "linear", "linear"]
    for axes, place in zip(panels, range(3), strict=True):
        by_label = {c.get_label(): c for c in axes.containers}
        points = {
            label: (list(c.lines[0].get_xdata()), list(c.lines[0].get_ydata()))
            for label, c in by_label.items()
        }
        assert points["chosen"] == ([POINTS[0][place]], [pytest.approx(0.3)])
        assert points["stopped early"] == ([POINTS[1][place]], [0.1])
        assert points["trained to the end"] == ([POINTS[2][place]], [0.25])
        (segment,) = by_label["chosen"].lines[2][0].get_segments()
        low, high = segment[:, 1]
        assert high - low == pytest.approx(2 * 0.02**0.5)
    joined = {line.get_label(): line for line in panels[2].lines}["best of each value"]
    assert list(joined.get_xdata()) == [1, 3]  # none has 2
    assert list(joined.get_ydata()) == pytest.approx([0.3, 0.1])


def test_one_configuration_can_be_drawn(configurations, tmp_path):
    plots.write_parallel(tmp_path / "p.png", "title", configurations[:1], SPACE)
    plots.write_responses(tmp_path / "r.png", "title", configurations[:1], SPACE, {})
    assert (tmp_path / "r.png").exists()


def test_response_has_a_panel_for_each_setting_and_no_empty_one(drawn, tmp_path):
    space = {f"weight{number}": Interval(0.0, 1.0, log=False) for number in range(5)}
    trial = Trial(
        number=0, seed=0, point=dict.fromkeys(space, 0.5), outcome="finished", reason="",
        epochs=1, best_epoch=1, val=dict.fromkeys(METRICS, 0.3), seconds=1.0,
    )  # fmt: skip
    plots.write_responses(tmp_path / "r.png", "title", collect([trial]), space, {})
    shown = [axes.get_xlabel() for axes in drawn[0][0].axes if axes.get_visible()]
    assert shown == list(space)
