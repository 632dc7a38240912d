import csv
import io
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from alignrec_pyg.tuning import report
from alignrec_pyg.tuning.report import configuration_rows, importances, trials_csv
from alignrec_pyg.tuning.spaces import Choice, Interval, random_points
from alignrec_pyg.tuning.trial import collect, ranked

TABLE_SPACE = {"lr": Interval(1e-4, 1e-2), "num_layers": Choice((1, 2))}
SPACE = {
    "reg_weight": Interval(1e-3, 10.0),
    "dropout": Interval(0.0, 1.0, log=False),
    "num_layers": Choice((1, 2, 3)),
}


def test_csv_has_every_trial_unrounded(make_trial):
    point = {"lr": 0.00123456, "num_layers": 1}
    trials = [
        make_trial(0, 0, 0.123456789, point=point),
        make_trial(0, 1, outcome="failed", reason="not finite", point=point),
    ]
    lines = list(csv.DictReader(io.StringIO(trials_csv(collect(trials), TABLE_SPACE))))
    assert [(line["configuration"], line["seed"]) for line in lines] == [("0", "0"), ("0", "1")]
    assert [line["lr"] for line in lines] == ["0.00123456"] * 2
    assert [line["val recall@20"] for line in lines] == ["0.123456789", ""]
    assert [line["best epoch"] for line in lines] == ["3", ""]
    assert [line["why"] for line in lines] == ["", "not finite"]
    assert lines[0]["seconds"] == "1.25"


def test_rows_of_configurations_show_values_and_outcomes(make_trial):
    one, two = ({"lr": 0.00123456, "num_layers": layers} for layers in (1, 2))
    trials = [
        make_trial(0, outcome="failed", reason="not finite", point=one),
        make_trial(1, 0, 0.25, outcome="stopped", point=two),
        make_trial(2, 0, 0.1, point=one),
        make_trial(2, 1, 0.2, point=one),
    ]
    header, *rows = configuration_rows(ranked(collect(trials)), TABLE_SPACE)
    assert header == [
        "configuration", "lr", "num_layers", "validation recall@20", "seeds", "outcome", "epochs",
    ]  # fmt: skip
    assert rows == [
        ["2", "0.00123456", "1", "0.1500 ± 0.0707", "2", "finished", "7, 7"],
        ["1", "0.00123456", "2", "0.2500", "1", "stopped", "7"],
    ]
    (failed,) = configuration_rows(collect(trials)[:1], TABLE_SPACE)[1:]
    assert failed[3:] == ["", "0", "failed (not finite)", "7"]


@pytest.mark.tune_extra
def test_files_have_all_configurations_the_failed_last_and_the_screen_the_best(
    make_trial, tmp_path, capsys
):
    points = [{"lr": 1e-3, "num_layers": 1}, {"lr": 2e-3, "num_layers": 2}]
    trials = [
        make_trial(0, outcome="failed", reason="not finite", point=points[0]),
        make_trial(1, 0, 0.25, point=points[1]),
    ]
    session = SimpleNamespace(
        models={"BPR": None}, data=SimpleNamespace(name="tiny"), out=tmp_path, seeds=range(3),
        options=SimpleNamespace(finalists=2),
    )  # fmt: skip
    written = report.write_report(session, collect(trials), TABLE_SPACE, "alignrec compare")
    printed = capsys.readouterr().out
    text = (tmp_path / "search.md").read_text()
    assert [line[:4] for line in text.splitlines() if line.startswith("| ")][2:] == ["| 1 ", "| 0 "]
    assert "By hand: `alignrec compare`" in text
    for part in (printed, text):
        assert "2 trials: 1 failed, 1 finished; one after another 2 s." in part
        assert "with seeds 0 to 2" in part
    assert "failed (not finite)" not in printed
    assert {path.name for path in written} >= {"search.csv", "search.md"}
    assert all(path.exists() for path in written)


@pytest.fixture
def evaluated(make_trial):
    """Random configurations with a function's values."""
    pytest.importorskip("optuna", reason="needs Optuna ('tune' extra)")

    def make(value, number=40):
        points = random_points(SPACE, number, seed=0)
        return collect([make_trial(i, 0, value(p), point=p) for i, p in enumerate(points)])

    return make


@pytest.mark.parametrize("name", SPACE)
@pytest.mark.tune_extra
def test_the_setting_that_decides_is_the_important_one(name, evaluated):
    noise = random.Random(0)
    shares = importances(evaluated(lambda p: p[name] + 1e-4 * noise.random()), SPACE)
    assert set(shares) == set(SPACE)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert next(iter(shares)) == name
    assert shares[name] > 0.8


@pytest.mark.tune_extra
def test_the_same_trials_give_the_same_importance(evaluated):
    entries = evaluated(lambda p: p["dropout"] * p["reg_weight"])
    assert importances(entries, SPACE) == importances(entries, SPACE)


@pytest.mark.tune_extra
def test_nothing_is_said_of_too_little(evaluated):
    assert importances(evaluated(lambda p: p["dropout"], number=3), SPACE) == {}
    assert importances(evaluated(lambda p: 0.5), SPACE) == {}


@pytest.mark.tune_extra
def test_configurations_without_a_value_say_nothing(evaluated):
    entries = evaluated(lambda p: p["dropout"] * p["reg_weight"])
    (failed,) = collect([replace(entries[0].trials[0], number=99, val={}, outcome="failed")])
    assert importances([*entries, failed], SPACE) == importances(entries, SPACE)


POINTS = [(0.1, 0.5, 1), (10.0, 0.0, 3), (1e-3, 1.0, 1)]


@pytest.fixture
def configurations(make_trial):
    points = [dict(zip(SPACE, values, strict=True)) for values in POINTS]
    trials = [
        make_trial(0, 0, 0.2, point=points[0]),
        make_trial(0, 1, 0.4, point=points[0]),
        make_trial(1, 0, 0.1, point=points[1], outcome="stopped"),
        make_trial(2, 0, 0.25, point=points[2]),
    ]
    return collect(trials)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are made."""
    pytest.importorskip("matplotlib")
    figures, make = [], report.new_figure

    def kept(width):
        figures.append(make(width))
        return figures[-1]

    monkeypatch.setattr(report, "new_figure", kept)
    return figures


def test_parallel_lines_go_through_the_values(configurations, drawn, tmp_path):
    report.write_parallel(tmp_path / "p.png", "title", configurations, SPACE)
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
    report.write_responses(tmp_path / "r.png", "title", configurations, SPACE, {"dropout": 0.75})
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


def test_one_configuration_can_be_drawn(configurations, drawn, tmp_path):
    report.write_parallel(tmp_path / "p.png", "title", configurations[:1], SPACE)
    report.write_responses(tmp_path / "r.png", "title", configurations[:1], SPACE, {})
    assert (tmp_path / "r.png").exists()


def test_response_has_a_panel_for_each_setting_and_no_empty_one(drawn, make_trial, tmp_path):
    space = {f"weight{number}": Interval(0.0, 1.0, log=False) for number in range(5)}
    trial = make_trial(0, 0, 0.3, point=dict.fromkeys(space, 0.5))
    report.write_responses(tmp_path / "r.png", "title", collect([trial]), space, {})
    shown = [axes.get_xlabel() for axes in drawn[0][0].axes if axes.get_visible()]
    assert shown == list(space)
