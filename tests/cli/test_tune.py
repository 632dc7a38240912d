import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer

from alignrec_pyg.cli import app, entry_points, tune
from alignrec_pyg.cli.compare import CompareOptions
from alignrec_pyg.cli.tune import TuneOptions, by_hand, duration, resource
from alignrec_pyg.storage import write_manifest
from alignrec_pyg.tuning import search
from alignrec_pyg.tuning.search import DEFINITION
from alignrec_pyg.tuning.spaces import with_point
from tuning import search as script

POINT = {"lr": 0.00123, "cca_weight": 1e-4, "num_layers": 3, "item_neighbors": 20}
OWN_MODEL = """
from alignrec_pyg.models import LightGCN

class OwnLightGCN(LightGCN):
    pass
"""


def parsed(options, words, *complete):
    """The options that a command line means."""
    got = []
    main = entry_points.script(options, got.append, "", *complete)
    assert main([str(word) for word in words]) == 0
    return got[0]


def test_the_script_is_the_command():
    assert script.main is tune.main


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2d", 172800)]
)
def test_times_have_a_unit(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "0m", "m", "1 h", "-1h"])
def test_times_without_one_are_refused(text):
    with pytest.raises(typer.BadParameter, match="needs a form like 90s, 30m"):
        duration(text)


def test_resources_are_parts_of_one_or_whole():
    assert [resource(text) for text in ("0", "0.25", "1", "3")] == [0, 0.25, 1, 3]
    for text in ("1.5", "-1", "x", "inf"):
        with pytest.raises(typer.BadParameter, match="needs to be"):
            resource(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--time-budget", "30"], "needs a form like 90s, 30m"),
        (["--gpus-per-trial", "1.5"], "needs to be up to 1 or a whole number"),
        (["--model", "BPR", "LightGCN"], "--model: needs to be one model (got BPR LightGCN)"),
        (["--model", "all"], "--model: needs to be one model"),
        (["--model", "BPRR"], "model 'BPRR' is unknown: did you mean 'BPR'?"),
        (["--resume"], "holds no sweep (sweep.json is missing)"),
    ],
)
def test_words_are_checked(words, message, tmp_path, capsys):
    assert app.main(["tune", "--out", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


def test_results_lie_by_data_and_model():
    folder = Path("results").resolve()
    assert TuneOptions().sweep_folder() == folder / "synthetic" / "tuning" / "AlignRec"
    own = TuneOptions(path="some/baby", models=("mine:Own",))
    assert own.sweep_folder() == folder / "baby" / "tuning" / "Own"
    assert TuneOptions(out=Path("x")).sweep_folder() == Path("x").resolve()


def test_a_sweep_resumes_with_its_options_and_those_given_now(tmp_path):
    stored = {"data": "old", "models": ["BPR"], "axes": ["lr"], "num_samples": 3, "finalists": 7}
    write_manifest(tmp_path / DEFINITION, {"options": {**stored, "seeds": 9}, "context": {}})
    # one of them at its default, which is not what the sweep was started with
    words = ["new", "--resume", "--out", tmp_path, "--num-samples", 5, "--seeds", 3]
    assert parsed(TuneOptions, words, TuneOptions.with_those_stored) == TuneOptions(
        data="new", models=("BPR",), axes=("lr",), num_samples=5, finalists=7, seeds=3,
        resume=True, out=tmp_path,
    )  # fmt: skip
    words = ["--num-samples", 5, "--out", tmp_path]
    fresh = parsed(TuneOptions, words, TuneOptions.with_those_stored)
    assert fresh == TuneOptions(num_samples=5, out=tmp_path)


def session_of(words, point=None):
    """What ``by_hand`` reads of the session of a sweep."""
    options = parsed(TuneOptions, words)
    models = options._model_settings([], None)
    return SimpleNamespace(
        options=options, models=models, device=torch.device("cpu"), out=Path("here/out")
    )


def compared(line):
    program, command, *words = shlex.split(line)
    assert (program, command) == ("alignrec", "compare")
    return parsed(CompareOptions, words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--epochs", 3, "--patience", 2, "--batch-size", 64, "--seeds", 5, "--max-concurrent", 2],
        ["--features", "a", "b", "--tables", "a=x y.npy", "--feature-scale", "raw"],
        ["--split", "global_time", "--set", "AlignRec.reg_target=frozen", "--settings", "default"],
        ["some folder", "--set", "AlignRec.reg_target=frozen", "AlignRec.patience=7"],
        ["--neighbor-recall", 0.9],
        ["--exclude-known-pairs", "--known-negatives", 0.5, "--val-from-train", 0.1],
    ],
)
def test_the_line_says_all_that_the_sweep_was_given(words):
    sweep = session_of(words)
    found = compared(by_hand(sweep, POINT))
    for name in ("data", "features", "tables", "neighbors", "feature_scale", "split", "settings"):
        assert getattr(found, name) == getattr(sweep.options, name), name
    assert (found.seeds, found.item_neighbors) == (sweep.options.seeds, 20)
    assert (found.device, found.threads or 1) == ("cpu", torch.get_num_threads())
    assert (found.jobs, found.out) == (None, Path("here/out/by_hand"))
    for name in ("exclude_known_pairs", "val_from_train", "neighbor_recall"):
        assert getattr(found, name) == getattr(sweep.options, name), name
    (settings,) = found._model_settings([], None).values()
    assert settings == with_point(sweep.models["AlignRec"], POINT)
    assert settings != sweep.models["AlignRec"]


def test_a_learning_rate_that_was_given_and_not_searched_stays():
    sweep = session_of(["--lr", "0.005"])
    point = {"cca_weight": 0.1}
    found = compared(by_hand(sweep, point))
    (settings,) = found._model_settings([], None).values()
    assert settings == with_point(sweep.models["AlignRec"], point)
    assert settings.config.lr == 0.005


def test_neighbor_lists_have_their_own_number():
    line = by_hand(session_of(["--neighbors", "text=n.npz"]), {"cca_weight": 0.1})
    assert compared(line).neighbors == ("text=n.npz",)
    assert "--item-neighbors" not in line


def test_a_model_of_ones_own_is_named_by_its_module(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(OWN_MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sweep = session_of(["--model", "own_models:OwnLightGCN"])
    found = compared(by_hand(sweep, {"lr": 0.5, "reg_weight": 2.0}))
    assert found.models == ("own_models:OwnLightGCN",)
    (settings,) = found._model_settings([], None).values()
    assert (settings.config.lr, settings.hparams["reg_weight"]) == (0.5, 2.0)


def test_missing_ray_gives_the_line_that_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert app.main(["tune", "--model", "BPR", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "pip install 'ray[tune]' optuna`, or in a checkout `uv sync --extra tune`" in err
    assert not (tmp_path / DEFINITION).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--search", "grid", "--space", "wide"], "needs lists of values, and lr, reg_weight"),
        (["--search", "grid", "--num-samples", 3], "--num-samples: a grid determines the number"),
        (["--model", "ContentLightGCN", "--space", "paper"], "--space paper: there is no publ"),
        (["--axes", "lr", "reg_wight"], "setting 'reg_wight' is unknown: did you mean"),
        (["--set", "BPR.reg_weight=0.1"], "--set BPR.reg_weight: the space decides it"),
        (["--set", "reg_weight=0.1"], "--set BPR.reg_weight: the space decides it"),
        (["--lr", "0.1"], "--lr: the space decides it"),
        (["--model", "LATTICE", "--item-neighbors", 7], "--item-neighbors: the space decides it"),
        (["--gpus-per-trial", "0.5", "--device", "cpu"], "leave one of the two out"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(search, "_ray", lambda *_: pytest.fail("Ray was started"))
    words = ["--model", "BPR", "--out", tmp_path, "--epochs", 1, *words]
    if words.count("--model") == 2:
        words = words[2:]
    assert app.main(["tune", *map(str, words)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / DEFINITION).exists()
