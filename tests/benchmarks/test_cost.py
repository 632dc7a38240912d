import json

import pytest
import torch

from alignrec_pyg.graph import INTERACTS
from benchmarks import cost
from benchmarks.generated import Shape

TINY = Shape(num_users=30, num_items=40, train=150, val=40, test=40)


@pytest.fixture
def tiny_shape(monkeypatch):
    monkeypatch.setitem(cost.SHAPES, "baby", TINY)
    return ["--threads", "1", "--widths", "image=5", "text=7"]


@pytest.mark.parametrize("model", ["BPR", "AlignRec", "MGCN", "FREEDOM"])
def test_measures_a_model(tiny_shape, model):
    options = cost._parser().parse_args(tiny_shape)
    found = cost.measure(model, options)
    assert set(found) == set(cost.COLUMNS)
    differences = {"graphs", "scoring"}  # of two times, which on tiny data may be of either sign
    assert all(value >= 0 for name, value in found.items() if name not in differences)
    assert found["parameters"] > 70 * 64 - 1
    if model == "FREEDOM":
        assert found["parameters"] == 70 * 64 + 40 * 12 + (5 + 7 + 2) * 64


def test_data_of_the_shape_with_features_of_the_widths(tiny_shape):
    options = cost._parser().parse_args(tiny_shape)
    data = cost.load(options, cost._widths(options))
    assert data.features == ["image", "text"]
    assert data.train["item"].x_text.shape == (40, 7)
    assert data.train[INTERACTS].edge_index.size(1) == 150
    assert data.val[INTERACTS].edge_label_index.size(1) == 40
    assert not torch.equal(data.train["item"].x_text[:, :5], data.train["item"].x_image)


def test_each_model_runs_in_a_process_and_failures_are_told(tmp_path, tiny_folder, capsys):
    out = tmp_path / "out"
    arguments = ["--data", str(tiny_folder), "--models", "BPR", "--threads", "1"]
    arguments += ["--widths", "text=4", "--out", str(out)]
    assert cost.main(arguments) == 0
    saved = json.loads((out / "cost.json").read_text())
    assert saved["models"]["BPR"]["parameters"] == (24 + 30) * 64
    assert "| BPR |" in (out / "cost.md").read_text()
    assert "text 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "Lightgcn"], "did you mean 'LightGCN'?"),
        (["--widths", "text"], "needs the form NAME=NUMBER"),
        (["--data", "nowhere"], "needs to be a folder"),
    ],
)
def test_unfit_arguments_exit_with_2(arguments, message, capsys):
    assert cost.main(arguments) == 2
    assert message in capsys.readouterr().err
