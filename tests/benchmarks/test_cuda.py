"""Every script on a GPU, from its arguments to its table."""

from __future__ import annotations

import json

import pytest
import torch

from alignrec_pyg.graph import INTERACTS
from benchmarks import features
from benchmarks.performance import speed
from benchmarks.performance.made_up import SHAPES, Shape, make_graphs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

TINY = Shape(num_users=30, num_items=40, train=150, val=40, test=45)


def rows(path):
    return {row["name"]: row["mean"] for row in json.loads(path.read_text())["rows"]}


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("ablation", []),
        ("beyond_accuracy", ["--models", "LightGCN", "AlignRec"]),
        ("cold_items", ["--held-out", "0.3", "--split", "random"]),
        ("compare", ["--models", "BPR", "FREEDOM", "AlignRec"]),
        ("feature_sets", ["--models", "VBPR"]),
        ("groups", ["--models", "LightGCN", "AlignRec"]),
        ("long_tail", ["--models", "LightGCN", "--below", "7"]),
        ("protocols", ["--models", "LightGCN"]),
        ("sensitivity", ["--values", "0.5", "0.01"]),
        ("without_modality", ["--models", "FREEDOM"]),
        ("baseline_alignment", ["--cca", "0.5", "--uia", "0.3", "--reg", "0.2"]),
    ],
)
def test_tables_have_the_rows_they_have_on_the_cpu(
    script, arguments, run_script, timed_folder, tmp_path
):
    found = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        status, _, problems = run_script(
            *(script, "--data", timed_folder, "--out", out, "--seeds", "1", *arguments),
            *("--device", device),
        )
        assert status == 0, problems
        found[device] = rows(out / f"{script}.json")
    assert found["cpu"].keys() == found["cuda"].keys()
    for name, values in found["cpu"].items():
        for column, value in values.items():
            # two epochs on few users: a place or two may change hands
            assert found["cuda"][name][column] == pytest.approx(value, abs=0.1, rel=0.1), column


def test_the_map_of_the_alignment(run_script, tiny_folder, tmp_path):
    arguments = ("--data", tiny_folder, "--out", tmp_path, "--device", "cuda")
    status, _, problems = run_script("alignment_map", *arguments)
    assert status == 0, problems


def test_features(timed_folder, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        arguments = ["--data", timed_folder, "--out", tmp_path / device, "--device", device]
        assert features.main([str(argument) for argument in arguments]) == 0
        found[device] = json.loads((tmp_path / device / "features.json").read_text())
    assert found["cuda"]["protocols"] == found["cpu"]["protocols"]


def test_costs(monkeypatch):
    monkeypatch.setitem(SHAPES, "baby", TINY)
    monkeypatch.setattr(speed, "_WIDTHS", {"image": 5, "text": 7})
    costs = speed.measure("AlignRec", "baby", "cuda", None)
    assert costs.peak_bytes > 10_000
    assert costs.epoch > 0


def test_forms_of_the_graph():
    links = make_graphs(TINY, {})[0][INTERACTS].edge_index.cuda()
    assert max(difference for _, difference in speed.compare_forms(links, 30, 40).values()) < 1e-5
