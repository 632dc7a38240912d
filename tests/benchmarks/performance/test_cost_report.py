import csv
import json

import pytest

from alignrec_pyg.experiments import charts as chart
from benchmarks.performance import cost_report
from benchmarks.performance.cost_report import COLUMNS, CostReport

WIDE = {"a": 384, "b": 4096}
FUSED = {"image": 384, "text": 384}


def make(names=("AlignRec", "BM3", "MGCN"), widths=FUSED, paper_data="baby", made_up=False):
    costs = {
        name: {key: number + 0.25 * place for place, key in enumerate(COLUMNS)}
        for number, name in enumerate(names, 1)
    }
    return CostReport(
        models=costs,
        widths=widths,
        paper_data=paper_data,
        made_up=made_up,
        about={"data": "some", "threads": 1},
    )


@pytest.mark.parametrize(
    ("widths", "models"),
    [
        (FUSED, ["AlignRec"]),
        ({"mm": 768}, ["AlignRec"]),
        (WIDE, ["BM3", "MGCN"]),
        ({"text": 4096, "image": 384}, ["BM3", "MGCN"]),
        ({"image": 384}, []),
        ({"image": 4096}, []),
        ({"image": 4096, "text": 384, "more": 384}, []),
    ],
)
def test_papers_figures_stand_only_where_widths_are_its_own(widths, models):
    assert list(cost_report.published(make(widths=widths))) == models
    text = "\n".join(cost_report.notes(make(widths=widths)))
    left_out = ", ".join(name for name in ("AlignRec", "BM3", "MGCN") if name not in models)
    assert f"no figures of the paper for {left_out}: " in text
    assert ("million parameters" in text) == bool(models)


def test_figures_are_those_of_the_data_set():
    assert cost_report.published(make(widths=WIDE)) == {"BM3": (31.57, 2.32), "MGCN": (35.58, 2.4)}
    sports = cost_report.notes(make(("AlignRec",), paper_data="sports"))
    assert "paper (Table 9, Sports), million parameters: AlignRec 17.60" in sports
    assert sports[-1] == (
        "paper (Table 9, Sports), seconds of inference over the test set, hardware unstated: "
        "AlignRec 4.04"
    )
    made_up = cost_report.notes(make(("AlignRec",), made_up=True))
    assert any(
        note.startswith("paper (Table 9, Baby; links here are made up, of its shape), ")
        for note in made_up
    )
    for unknown in (None, "electronics"):
        assert not any("paper" in n for n in cost_report.notes(make(paper_data=unknown)))


def test_paper_and_code_that_differ_are_told():
    note = "MMGCN, DualGNN: as the paper of each intends, not as the published code"
    assert note in cost_report.notes(make(("DualGNN", "BPR", "MMGCN")))
    assert not any("intends" in line for line in cost_report.notes(make()))
    differ = "the paper's counts of BM3 and MGCN differ from what their published code allocates"
    assert differ in cost_report.notes(make(("BM3",), WIDE))
    assert differ not in cost_report.notes(make(("FREEDOM",), WIDE))


def test_table_and_files_hold_every_value(tmp_path):
    report = make(("AlignRec", "BPR"))
    lines = cost_report.table(report)
    assert lines[0].startswith("| model | parameters | set-up s | epoch s |")
    assert lines[3] == "| BPR | 2 | 2.25 | 2.50 | 2.75 | 3.00 | 3.25 | 3.50 | 4 |"
    written = cost_report.write(report, tmp_path)
    assert {path.name for path in written} >= {"cost.csv", "cost.json", "cost.md"}
    assert sorted(tmp_path.iterdir()) == written
    rows = list(csv.DictReader((tmp_path / "cost.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["AlignRec", "BPR"]
    assert [float(rows[1][title]) for title in COLUMNS.values()] == list(
        report.models["BPR"].values()
    )
    saved = json.loads((tmp_path / "cost.json").read_text())
    assert saved["models"] == report.models
    assert saved["widths"] == FUSED
    assert list(saved["paper"]) == ["AlignRec"]
    assert list(saved["paper"]["AlignRec"].values()) == [7.17, 2.15]
    text = (tmp_path / "cost.md").read_text()
    assert all(line in text for line in (*lines, *cost_report.notes(report)))


def test_memory_that_is_not_measured(tmp_path):
    report = make(("BPR",))
    report.models["BPR"]["memory"] = None
    assert cost_report.table(report)[2].endswith("| not measured |")
    cost_report.write(report, tmp_path)
    assert json.loads((tmp_path / "cost.json").read_text())["models"]["BPR"]["memory"] is None
    (row,) = csv.DictReader((tmp_path / "cost.csv").read_text().splitlines())
    assert row["peak MB"] == ""


def test_no_picture_without_matplotlib(tmp_path, monkeypatch):
    (tmp_path / "cost.png").touch()  # of earlier results
    monkeypatch.setattr(cost_report, "chart_possible", lambda: False)
    cost_report.write(make(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost.csv", "cost.json", "cost.md"]


def test_picture_has_a_bar_per_model_and_quantity(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    figures, make_figure = [], chart.new_figure

    def kept(width):
        figures.append(make_figure(width))
        return figures[-1]

    monkeypatch.setattr(chart, "new_figure", kept)
    report = make(("AlignRec", "BPR", "VBPR"))
    report.models["AlignRec"]["epoch"] = 300.0
    report.models["BPR"]["epoch"] = 1.0
    report.models["BPR"]["memory"] = None
    cost_report.write(report, tmp_path)
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    ((figure, _),) = figures
    epoch, memory = figure.axes
    assert [label.get_text() for label in epoch.get_yticklabels()] == ["AlignRec", "BPR", "VBPR"]
    assert epoch.yaxis_inverted()
    assert [bar.get_width() for bar in epoch.patches] == [300.0, 1.0, 3.5]
    assert [text.get_text() for text in epoch.texts] == ["300", "1", "3.5"]
    assert epoch.get_xscale() == "log"
    assert epoch.get_xlim()[0] == pytest.approx(0.1)
    assert epoch.get_xlabel() == "seconds per epoch (logarithmic)"
    assert [bar.get_width() for bar in memory.patches] == [2.75, 4.75]
    assert [round(bar.get_y() + bar.get_height() / 2) for bar in memory.patches] == [0, 2]
    assert memory.get_xscale() == "linear"
    assert memory.get_xlabel() == "peak memory, MB"
    assert figure.get_suptitle() == "What the models cost: some"


def test_picture_leaves_out_what_was_not_measured(tmp_path):
    pytest.importorskip("matplotlib")
    chart.write_bars(tmp_path / "bars.png", "title", {"time": {"BPR": 1.0}, "memory": {}})
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
