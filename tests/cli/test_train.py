import csv
import json
import os
import re
import shutil
import signal
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from alignrec_pyg import AlignRec, TrainConfig, fit
from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.cli import main
from alignrec_pyg.cli.runs import load_run
from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.storage import read_manifest
from alignrec_pyg.training.sampling import TripletSampler
from alignrec_pyg.transforms import ConcatFeatures, KNNItemGraph, SplitInteractions

pytestmark = pytest.mark.usefixtures("plain_runs")

TABLES = ["patch_pca", "tfidf"]


def weights(run):
    (file,) = (run / "model").glob("model-*.safetensors")
    return file.name, file.read_bytes()  # the name holds a hash


def last(run):
    """Name, with a hash, of the last weights and the optimiser's state."""
    (file,) = (run / "checkpoint").glob("last-*.safetensors")
    return file.name


def test_equals_the_library_called_by_hand(encoded, run):
    data = MMRecFolder(encoded).data
    for name in ("patch_pca", "tfidf"):
        data["item"][f"x_{name}"] = torch.nn.functional.normalize(data["item"][f"x_{name}"])
    fused = "patch_pca+tfidf"
    data = ConcatFeatures(["patch_pca", "tfidf"], fused, normalize=False)(data)
    data = KNNItemGraph(fused, 5, name=f"cosine+{fused}+k5")(data)
    train, val, _ = SplitInteractions("labels")(data)
    torch.manual_seed(0)
    model = AlignRec(train, features=[fused], item_graph=f"cosine+{fused}+k5")
    result = fit(
        model, train, val, TrainConfig(lr=0.01, batch_size=128, max_epochs=8, eval_every=1)
    )
    trained = AlignRec.from_pretrained(run / "model", train)
    for name, value in model.state_dict().items():
        assert trained.state_dict()[name].equal(value)
    told = json.loads((run / "run.json").read_text())
    assert told["validation"] == result.best_metrics
    assert (told["best_epoch"], told["num_epochs"]) == (result.best_epoch, 8)
    assert told["data"] == str(encoded)


def test_prints_the_validation_metrics_and_nothing_else(train_command, tmp_path, capsys):
    assert main([*train_command(tmp_path / "run"), "--epochs", "1"]) == 0
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    end = "at the limit of epochs, validation still rising"
    assert re.fullmatch(
        rf"AlignRec: best epoch 1 of 1, {end} \(\d+ s, \d+ s of the processor\)", first
    )
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (told["stopped_early"], told["still_rising"]) == (False, True)
    assert (told["seconds"] > 0, told["cpu_seconds"] > 0) == (True, True)
    metrics = told["validation"]
    shown = [f"{k} {metrics[k]:.4f}" for k in ("recall@10", "recall@20", "ndcg@10", "ndcg@20")]
    assert second == "validation: " + "  ".join(shown)
    assert captured.err.splitlines() == [
        "--epochs above 1 goes on from here",
        f"written: {tmp_path / 'run'}",
    ]


def test_learning_curves_are_kept(run):
    told = json.loads((run / "run.json").read_text())
    with (run / "curves.csv").open() as file:
        epochs = list(csv.DictReader(file))
    names = ["epoch", "step", "lr", "loss", "loss/bpr", "loss/cca", "loss/uia", "loss/reg"]
    assert list(epochs[0])[: len(names)] == names
    assert [epoch["epoch"] for epoch in epochs] == [str(number + 1) for number in range(8)]
    best = epochs[told["best_epoch"] - 1]
    assert {name: float(best[name]) for name in told["validation"]} == told["validation"]
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_user_keeps_in_the_folder_stays(train_command, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    names = ("curves.csv", "curves.png", "curves.json")
    for name in names:
        (out / name).write_text(f"mine {name}")
    with pytest.warns(UserWarning, match="is kept as"):
        assert main([*train_command(out), "--epochs", "1"]) == 0
    for name in names:
        assert (out / f"{name}.kept-1").read_text() == f"mine {name}"
    assert main([*train_command(out), "--epochs", "2"]) == 0  # its own are replaced
    assert sorted(path.name for path in out.glob("*.kept-*")) == sorted(
        f"{name}.kept-1" for name in names
    )
    assert len((out / "curves.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", ["run.json", "model/config.json"])
def test_a_folder_with_somebody_elses_manifest_is_refused_before_training(
    train_command, tmp_path, capsys, name
):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}')
    assert main(train_command(tmp_path / "run")) == 1
    assert f"error: {path} is of an earlier format" in capsys.readouterr().err
    assert path.read_text() == '{"mine": 1}'
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_goes_on_after_ctrl_c_to_the_same_weights(
    train_command, run, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    original = TripletSampler.batch

    def batch(self, epoch, step):
        if (epoch, step) == (3, 0):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(TripletSampler, "batch", batch)
        assert main(train_command(out)) == 130
    assert "error: interrupted; " in capsys.readouterr().err
    assert not (out / "run.json").exists()
    assert read_manifest(out / "checkpoint" / "state.json")["state"]["epoch"] == 3
    assert main(train_command(out)) == 0
    assert weights(out) == weights(run)
    assert main(train_command(out)) == 0  # finished: nothing is trained again
    assert weights(out) == weights(run)


def test_a_run_is_prolonged_to_the_same_weights(train_command, run, tmp_path):
    out = tmp_path / "run"
    assert main([*train_command(out), "--epochs", "5", "--patience", "1"]) == 0
    ended = weights(out), last(out)
    assert last(out) != last(run)
    assert json.loads((out / "run.json").read_text())["num_epochs"] < 5  # patience ended it
    assert main([*train_command(out), "--epochs", "7"]) == 0
    assert main(train_command(out)) == 0
    assert (weights(out), last(out)) == (weights(run), last(run))
    assert main([*train_command(out), "--epochs", "5", "--patience", "1"]) == 0
    assert (weights(out), last(out)) != ended  # what was trained is kept
    told, expected = (json.loads((path / "run.json").read_text()) for path in (out, run))
    assert told["num_epochs"] == expected["num_epochs"] == 8


def test_who_else_trains_in_the_folder_is_told(train_command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("alignrec_pyg.cli.train._LOCK_SECONDS", 0.0)
    with folder_lock(tmp_path / "run"):
        assert main(train_command(tmp_path / "run")) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'run'} is in use by process {os.getpid()} on ")


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (
            "FREEDOM",
            {"features": ["patch_pca", "tfidf"], "item_graph": "binary+patch_pca+tfidf+k5"},
        ),
        ("MGCN", {"features": ["patch_pca", "tfidf"], "item_graphs": ["patch_pca+k5", "tfidf+k5"]}),
        ("VBPR", {"features": TABLES}),
        ("LightGCN", {}),
    ],
)
def test_every_kind_of_model_gets_what_it_reads(model, inputs, train_command, tmp_path):
    out = tmp_path / "run"
    command = [*train_command(out), "--model", model, "--epochs", "1"]
    assert main([*command, "--set", "embedding_dim=8"]) == 0
    stored = read_manifest(out / "model" / "config.json")
    assert stored["model"] == model
    hparams = stored["hparams"]
    assert {name: hparams[name] for name in inputs} == inputs
    assert hparams["embedding_dim"] == 8
    assert main(["evaluate", str(out), "--device", "cpu"]) == 0


def test_one_table_alone_and_rows_as_stored(train_command, tmp_path):
    out = tmp_path / "run"
    command = [*train_command(out), "--epochs", "1", "--features", "tfidf"]
    assert main([*command, "--feature-scale", "raw", "--split", "random"]) == 0
    hparams = read_manifest(out / "model" / "config.json")["hparams"]
    assert (hparams["features"], hparams["item_graph"]) == (["tfidf"], "cosine+tfidf+k5")
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert (settings["feature_scale"], settings["split"]) == ("raw", "random")
    assert main(["evaluate", str(out), "--device", "cpu"]) == 0


def test_a_table_that_does_not_fit_can_be_left_out(encoded, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(encoded, folder)
    np.save(folder / "other_feat.npy", np.ones((3, 2), dtype=np.float32))
    command = ["train", str(folder), "--out", str(tmp_path / "run"), "--epochs", "1"]
    assert main(command) == 2
    assert "(got [3, 2]): move it out of the folder, or choose" in capsys.readouterr().err
    assert main([*command, "--features", "tfidf"]) == 0


def test_rules_of_splits_are_the_librarys():
    from alignrec_pyg.cli.options import SplitRule as Rule
    from alignrec_pyg.transforms.split_interactions import SplitRule

    assert get_args(Rule) == get_args(SplitRule)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", {"lr": 3e-3, "patience_steps": 667, "lr_decay": 1.0}),
        ("--settings published", {"lr": 3e-4, "patience": 30, "lr_decay": 0.96}),
        ("--settings published --lr 0.5", {"lr": 0.5, "patience": 30}),
        ("--set lr_decay=0.9 l2_weight=0.5", {"lr": 3e-3, "lr_decay": 0.9}),
    ],
)
def test_settings_are_the_librarys_or_the_published_ones(more, expected, encoded, tmp_path):
    out = tmp_path / "run"
    command = ["train", str(encoded), "--out", str(out), "--epochs", "1", "--device", "cpu"]
    assert main([*command, *more.split()]) == 0
    training = json.loads((out / "run.json").read_text())["training"]
    assert {name: training[name] for name in expected} == expected
    hparams = read_manifest(out / "model" / "config.json")["hparams"]
    assert hparams["l2_weight"] == (0.5 if "l2_weight" in more else 1e-4)


@pytest.mark.parametrize("model", ["AlignRec", "FREEDOM", "MGCN"])
def test_the_model_is_that_of_a_comparison(model, encoded, tmp_path):
    """To the last digit, with the same settings, seed and threads."""
    common = ["--settings", "published", "--epochs", "2", "--threads", "1", "--device", "cpu"]
    out, compared = tmp_path / "run", tmp_path / "compare"
    train = ["train", str(encoded), "--out", str(out), "--model", model, "--seed", "1", *common]
    assert main(train) == 0
    compare = ["compare", str(encoded), "--models", model, "--seeds", "2", "--jobs", "1", *common]
    assert main([*compare, "--out", str(compared)]) == 0
    _, cell = json.loads((compared / "compare.json").read_text())["cells"]
    assert cell["seed"] == 1
    assert cell["val_metrics"] == json.loads((out / "run.json").read_text())["validation"]
    figures = tmp_path / "figures.json"
    assert main(["evaluate", str(out), "--json", str(figures), "--device", "cpu"]) == 0
    metrics = json.loads(figures.read_text())["metrics"]
    for name, value in cell["metrics"].items():
        assert value == pytest.approx(metrics[name], rel=1e-6)  # means in single precision


OWN = """
from alignrec_pyg.models import LightGCN


class Mine(LightGCN):
    \"\"\"LightGCN by another name.\"\"\"
"""


def test_a_class_of_ones_own(encoded, tmp_path, monkeypatch):
    (tmp_path / "my_model_of_train.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    validation = []
    for model in ("LightGCN", "my_model_of_train:Mine"):
        out = tmp_path / model.partition(":")[0]
        command = ["train", str(encoded), "--out", str(out), "--model", model, "--epochs", "2"]
        assert main([*command, "--device", "cpu"]) == 0
        validation.append(json.loads((out / "run.json").read_text())["validation"])
        assert main(["evaluate", str(out), "--device", "cpu"]) == 0
    assert validation[0] == validation[1]
    sys.modules.pop("my_model_of_train")


def test_an_approximate_item_graph(train_command, tmp_path, capsys):
    pytest.importorskip("faiss", reason="faiss (extra 'serving') is missing")
    command = [*train_command(tmp_path), "--epochs", "1", "--neighbor-recall", "0.01"]
    assert main(command) == 0
    assert re.search(r"item graph '.*backend='faiss'.* recall [01]\.\d{4}", capsys.readouterr().err)
    assert load_run(tmp_path, None, "cpu").data.neighbor_recall == 0.01


def test_an_approximate_item_graph_needs_faiss(train_command, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main([*train_command(tmp_path), "--neighbor-recall", "0.95"]) == 1
    assert "--neighbor-recall needs 'faiss'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ("--set cca_wieght=1", 2, "--set cca_wieght=1: argument 'cca_wieght' is unknown: did you"),
        ("--set temperature=0", 2, "AlignRec: 'temperature' needs to be finite and positive"),
        ("--set cca_weight=-1", 2, "AlignRec: 'cca_weight' needs to be finite and 0 or more (got"),
        ("--set temperature=inf", 2, "--set temperature=inf: needs to be a number (got 'inf')"),
        ("--set embedding_dim=1000000000", 2, "'embedding_dim' needs to be in [1, 65536] (got 10"),
        ("--model AlignRek", 2, "model 'AlignRek' is unknown: did you mean 'AlignRec'?"),
        ("--features tfdif", 2, "--features: feature 'tfdif' is unknown: did you mean 'tfidf'?"),
        ("--lr -1", 2, "AlignRec: --lr needs to be finite and positive (got -1.0)"),
        ("--item-neighbors 61", 2, "--item-neighbors: 'k' needs to be in [1, 60] (got 61)"),
        ("--lr 1e30", 1, "the loss is not finite in epoch"),
        ("--out {run} --lr 0.5", 1, "checkpoint holds another run: choose another folder or delete "
         "this one\nerror:   config.lr 0.5 (saved 0.01)\n"),
    ],
)  # fmt: skip
def test_errors(more, code, message, train_command, run, tmp_path, capsys):
    command = [*train_command(tmp_path / "run"), *more.format(run=run).split()]
    assert main(command) == code
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message.format() in told
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_folder_without_data(tmp_path, capsys):
    assert main(["train", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert (
        f"error: {tmp_path}: 'path' needs to contain a file <name>.inter" in capsys.readouterr().err
    )


def test_sampling_reaches_training(train_command, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--epochs", "1", "--fan-out", "3", "-1", "--eval-users", "7"]
    options += ["--known-negatives", "0.5"]
    assert main([*train_command(out), *options]) == 0
    training = json.loads((out / "run.json").read_text())["training"]
    assert (training["fan_out"], training["eval_users"]) == ([3, -1], 7)
    assert training["known_negatives"] == 0.5
    assert main([*train_command(tmp_path / "other"), "--fan-out", "0"]) == 2
    assert "--fan-out needs to be a list of positive integers" in capsys.readouterr().err
