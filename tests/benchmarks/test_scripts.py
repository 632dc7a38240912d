"""The command line that all scripts share, and what each of them refuses."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from alignrec_pyg.cli import experiment_options
from alignrec_pyg.experiments import cells
from alignrec_pyg.models import model_names

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    "ablation",
    "alignment_map",
    "beyond_accuracy",
    "compare",
    "feature_sets",
    "groups",
    "long_tail",
    "protocols",
    "sensitivity",
    "tuned_comparison",
    "without_modality",
    "baseline_alignment",
]


@pytest.fixture
def _nothing_trains(monkeypatch):
    monkeypatch.setattr(cells, "fit", lambda *_, **__: pytest.fail("something was trained"))


@pytest.mark.parametrize("script", [*SCRIPTS, "cold_items", "features"])
def test_help_says_what_is_asked(script, capsys):
    module = importlib.import_module(f"benchmarks.{script}")
    assert module.main(["--help"]) == 0
    text = capsys.readouterr().out
    is_command = script in ("compare", "features")
    door = f"alignrec {script}" if is_command else f"python benchmarks/{script}.py"
    assert f"      {door}\n" in text
    assert "\nData:\n  --data PATH " in text
    assert "\nOutput:\n  --out DIR " in text


def test_help_imports_no_torch():
    script = """
import importlib, sys
from pathlib import Path
for path in sorted(Path("benchmarks").glob("*.py")):
    if path.stem != "__init__":
        assert importlib.import_module(f"benchmarks.{path.stem}").main(["--help"]) == 0
print({"numpy", "pandas", "torch"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("set()\n")


@pytest.mark.usefixtures("_nothing_trains")
@pytest.mark.parametrize("script", SCRIPTS)
def test_out_below_a_file_is_refused_before_training(script, tiny_folder, tmp_path, run_script):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "folder"
    status, text, problems = run_script(script, "--data", tiny_folder, "--out", out)
    assert (status, text) == (2, "")
    assert problems.count("error: ") == 1
    assert f"error: --out {out}: needs to be a folder ({tmp_path / 'file'} is a file)" in problems


@pytest.mark.usefixtures("_nothing_trains")
def test_out_that_cannot_be_made_is_refused(tiny_folder, tmp_path, run_script):
    out = tmp_path / "link"
    out.symlink_to(tmp_path / "nowhere")  # in the way of a folder, for whomever
    status, text, problems = run_script("compare", "--data", tiny_folder, "--out", out)
    assert (status, text) == (2, "")
    assert f"--out {out}: needs to be a folder that can be written to" in problems


@pytest.mark.usefixtures("_nothing_trains")
def test_out_that_cannot_be_written_to_is_refused(tiny_folder, tmp_path, run_script, monkeypatch):
    def refused(*, dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(experiment_options.tempfile, "TemporaryFile", refused)
    status, text, problems = run_script("compare", "--data", tiny_folder, "--out", tmp_path)
    assert (status, text) == (2, "")
    assert "that can be written to ([Errno 13] Permission denied" in problems


@pytest.mark.usefixtures("_nothing_trains")
@pytest.mark.parametrize(
    ("script", "arguments", "messages"),
    [
        (
            "tuned_comparison",
            ["--models", "BPR", "LightGCN", "--lr", "0.05"],
            ["--lr: the grid of BPR decides it", "--lr: the grid of LightGCN decides it"],
        ),
        (
            "tuned_comparison",
            ["--models", "LightGCN", "--set", "LightGCN.num_layers=1"],
            ["--set LightGCN.num_layers: the grid decides it"],
        ),
        (
            "tuned_comparison",
            ["--models", "BPR", "ContentLightGCN", "--grid", "published"],
            ["ContentLightGCN has no published grid"],
        ),
        ("protocols", ["--split", "random"], ["--split: this script runs all splits"]),
        ("alignment_map", ["--seeds", "3"], ["--seeds: a picture shows one run"]),
        (
            "compare",
            ["--models", "BPR", "--aligned", "MGCN"],
            ["MGCN is not among the models to run"],
        ),
        (
            "compare",
            ["--models", "BPR", "--aligned", "BPR"],
            ["BPR has no separate content and ID vectors"],
        ),
        ("compare", ["--models", "all", "BPR"], ["model 'all' is unknown"]),
        (
            "compare",
            ["--neighbors", "text=n.npz", "--item-neighbors", "5"],
            ["--item-neighbors: the lists of --neighbors have their own number"],
        ),
        (
            "compare",
            ["--neighbors", "text=n.npz", "--neighbor-recall", "0.9"],
            ["--neighbor-recall: the lists of --neighbors are ready"],
        ),
    ],
)
def test_refusals_tell_the_reason(script, arguments, messages, tiny_folder, tmp_path, run_script):
    status, _, problems = run_script(
        script, "--data", tiny_folder, "--out", tmp_path, "--seeds", 1, *arguments
    )
    assert status == 2
    assert problems.count("error: ") == len(messages)
    for message in messages:
        assert f"error: {message}" in problems


@pytest.mark.usefixtures("_nothing_trains")
@pytest.mark.parametrize("script", ["ablation", "sensitivity", "alignment_map", "feature_sets"])
def test_scripts_about_features_need_a_table(script, bare_folder, tmp_path, run_script):
    status, _, problems = run_script(script, "--data", bare_folder, "--out", tmp_path)
    assert status == 2
    assert " needs a feature table, and the data has none" in problems
    assert not (tmp_path / "cells").exists()


@pytest.mark.usefixtures("_nothing_trains")
def test_leaving_one_out_needs_two_tables(tmp_path, write_folder, run_script):
    folder = write_folder(tmp_path / "one", features=("text",))
    status, _, problems = run_script("without_modality", "--data", folder, "--out", tmp_path)
    assert status == 2
    assert "needs two feature sets to leave one out (got ['text'])" in problems


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_weights_are_finite_numbers(value, capsys):
    sensitivity = importlib.import_module("benchmarks.sensitivity")
    assert sensitivity.main(["--values", "0.1", value]) == 2
    told = capsys.readouterr().err
    assert "Invalid value for '--values': needs to be " in told
    assert f"(got '{value}')" in told


def test_all_models_are_those_that_can_run(bare_folder, tmp_path, run_script):
    status, text, problems = run_script(
        "compare", "--data", bare_folder, "--out", tmp_path, "--seeds", 1, "--models", "all"
    )
    assert status == 0, problems
    saved = json.loads((tmp_path / "compare.json").read_text())
    of_links = {"ALS", "BPR", "EASE", "ItemKNN", "LightGCN", "Popularity"}
    assert {row["name"] for row in saved["rows"]} == of_links
    assert list(saved["not_run"]) == [name for name in model_names() if name not in of_links]
    assert "Not run: SLMRec: needs a feature table" in text
