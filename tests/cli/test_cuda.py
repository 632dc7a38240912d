"""The commands on a GPU."""

from __future__ import annotations

import json

import pytest
import torch

from alignrec_pyg.cli import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GPU = ("--device", "cuda")


def test_train_evaluate_and_recommend(train_command, run, shop, tmp_path, capsys):
    """Trained on the GPU, read on both devices."""
    out = tmp_path / "run"
    assert main([*train_command(out), *GPU]) == 0
    expected = json.loads((run / "run.json").read_text())["validation"]
    for name, value in json.loads((out / "run.json").read_text())["validation"].items():
        assert value == pytest.approx(expected[name], abs=0.05)
    printed = []
    for device in ("cpu", "cuda"):
        capsys.readouterr()
        assert main(["evaluate", str(out), "--groups", "--device", device]) == 0
        for command in (
            ["--users", "u7", "u2", "--k", "3"],
            ["--all", "--k", "2", "--explain"],
            ["--similar", "103", "--k", "3"],
        ):
            assert main(["recommend", str(out), *command, "--device", device]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_encode_and_features(encode_command, tmp_path, capsys):
    out = tmp_path / "films"
    assert main([*encode_command(out), *GPU]) == 0
    printed = []
    for device in ("cpu", "cuda"):
        capsys.readouterr()
        assert main(["features", str(out), "--device", device]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_pretrain(tmp_path):
    pytest.importorskip("torchscale", exc_type=ImportError)
    pytest.importorskip("sentencepiece")
    assert main(["pretrain", "--out", str(tmp_path), "--epochs", "1", *GPU]) == 0
    assert (tmp_path / "encoder").is_dir()
