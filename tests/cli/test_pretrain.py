from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alignrec_pyg.cli import main
from alignrec_pyg.pretraining import PretrainConfig, job
from alignrec_pyg.pretraining.step import Trainer


@pytest.fixture
def started(monkeypatch):
    """Replaces the run: a list of the jobs, with the device or the workers they were started on."""
    runs = []

    def run_job(asked, *, device, log):
        log("on its way")
        runs.append((asked, device))
        return asked.out / "encoder"

    def run_job_with_ray(asked, num_workers, *, use_gpu):
        runs.append((asked, num_workers, use_gpu))
        return asked.out / "encoder"

    monkeypatch.setattr(job, "run_job", run_job)
    monkeypatch.setattr(job, "run_job_with_ray", run_job_with_ray)
    return runs


def test_defaults_with_a_table_are_those_of_the_library(started):
    assert main(["pretrain", "--items", "items.csv", "--images", "images", "--device", "cpu"]) == 0
    expected = job.PretrainJob(out=Path("stage1"), data=Path("items.csv"), images=Path("images"))
    assert started == [(expected, "cpu")]


def test_without_a_table_a_tiny_encoder(started):
    for options in ((), ("--epochs", "2", "--config", "base")):
        assert main(["pretrain", *options]) == 0
    (first, _), (second, _) = started
    assert (first.data, first.size, first.vocab_size, first.num_codes) == (None, "tiny", 600, 64)
    assert first.config == PretrainConfig(epochs=12, lr=2e-3, batch_size=64, micro_batch_size=64)
    assert (second.size, second.config.epochs, second.config.batch_size) == ("base", 2, 64)


def test_every_option_reaches_its_place(started):
    command = (
        "pretrain --items t.csv --items-id sku --text name plot --image photo --images i.zip "
        "--out o --config large --layers 16 --image-size 384 --weights w.pth --spm s.spm "
        "--vocab-size 9 --vqkd v.pth --codes 7 --max-tokens 64 --mask-image 0.5 --mask-text 0.2 "
        "--joint-masking --val-share 0.3 --epochs 3 --lr 0.1 --batch-size 6 --micro-batch-size 2 "
        "--precision float32 --loaders 4 --seed 8 --max-failures 0.3 --encode --device cpu"
    )
    assert main(command.split()) == 0
    ((found, _),) = started
    assert found == job.PretrainJob(
        data=Path("t.csv"), id="sku", fields=("name", "plot"), image="photo", images=Path("i.zip"),
        out=Path("o"), size="large", num_layers=16, image_size=384, weights=Path("w.pth"),
        spm=Path("s.spm"), vocab_size=9, vqkd=Path("v.pth"), num_codes=7, max_tokens=64,
        mask_image=0.5, mask_text=0.2, joint_masking=True, val_share=0.3, encode=True,
        config=PretrainConfig(
            epochs=3, lr=0.1, batch_size=6, micro_batch_size=2, precision="float32", num_workers=4,
            seed=8, max_failures=0.3,
        ),
    )  # fmt: skip
    assert found.sizes(500).num_layers == 16
    assert found.sizes(500).image_size == 384


def test_prints_where_the_encoder_and_its_tables_are(started, capsys, tmp_path, monkeypatch):
    command = ["pretrain", "--out", str(tmp_path), "--device", "cpu", "--encode"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.err == "on its way\n"
    assert f"from_pretrained('{tmp_path / 'encoder'}')" in printed.out
    assert f"alignrec compare FOLDER --tables mm={tmp_path / 'features.npy'}\n" in printed.out
    assert "alignrec encode" not in printed.out  # the items are synthetic
    assert f"mm_of_text={tmp_path / 'features_of_text'}.npy" in printed.out
    assert "--replace mm:image=mm_of_text mm:text=mm_of_image" in printed.out
    monkeypatch.setenv("RANK", "1")  # another process of torchrun has printed it
    assert main(command) == 0
    assert capsys.readouterr().out == ""


def test_prints_the_command_that_encodes_the_items(started, capsys, tmp_path):
    items = ["--items", "my items.csv", "--items-id", "sku", "--text", "title", "plot"]
    command = ["pretrain", *items, "--images", "images", "--out", str(tmp_path), "--device", "cpu"]
    assert main(command) == 0
    assert (
        "alignrec encode RATINGS --items 'my items.csv' --items-id sku --images images "
        f"--text title plot --encoder mm={tmp_path / 'encoder'} --out NEW\n"
    ) in capsys.readouterr().out


def test_several_workers(started, monkeypatch):
    def use_gpu(*device):
        assert main(["pretrain", "--workers", "3", *device]) == 0
        assert started[-1][1] == 3
        return started[-1][2]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [use_gpu(), use_gpu("--device", "cuda"), use_gpu("--device", "cpu")] == [
        True, True, False,
    ]  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # the machines of a cluster may have the GPUs that this one lacks
    assert [use_gpu(), use_gpu("--device", "cuda")] == [False, True]


def test_help_names_the_defaults_of_the_library(capsys):
    assert main(["pretrain", "--help"]) == 0
    described = re.split(r"\n  (?=--)", capsys.readouterr().out)
    texts = {text.split()[0]: " ".join(text.split()) for text in described}
    library = job.PretrainJob(out=Path("stage1"))
    for option, value in {
        "--text": f"({' '.join(library.fields)})",
        "--config": f"({library.size};",
        "--vocab-size": f"({library.vocab_size};",
        "--max-tokens": library.max_tokens,
        "--mask-image": library.mask_image,
        "--mask-text": library.mask_text,
        "--val-share": f"({library.val_share};",
        "--epochs": f"({library.config.epochs};",
        "--lr": f"({library.config.lr};",
        "--max-failures": library.config.max_failures,
    }.items():
        assert f"[default: {value}" in texts[option]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "huge"], "'huge' is not one of 'base', 'large', 'tiny'"),
        (["--epochs", "two"], "needs to be a whole number of 1 or more (got 'two')"),
        (["--lr", "0"], "error: --lr: needs to be finite and positive (got 0.0)"),
        (["--val-share", "0"], "'--val-share': needs to be between 0 and 1 (got '0')"),
        (["--images", "images"], "error: --items-id, --text, --image, --images: name"),
        (["--items-id", "sku"], "error: --items-id, --text, --image, --images: name the table"),
        (["--fields", "title"], "No such option: --fields"),
    ],
)
def test_options_that_do_not_fit(options, message, capsys):
    assert main(["pretrain", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_loss_that_is_not_finite_names_the_option(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(job, "run_job", lambda asked, **_: step_that_diverges(asked.config))
    assert main(["pretrain", "--out", str(tmp_path), "--device", "cpu", "--lr", "0.5"]) == 1
    assert capsys.readouterr().err == (
        "error: not finite in epoch 1, step 1: loss; lower --lr 0.5\n"
    )


def step_that_diverges(config):
    step = object.__new__(Trainer)
    step._state, step._config = SimpleNamespace(epoch=0, step=0), config
    step._check_finite({"loss": math.inf, "grad_norm": 1.0})


def test_a_missing_gpu(started, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["pretrain", "--device", "cuda"]) == 2
    assert "error: --device cuda: torch finds no GPU" in capsys.readouterr().err
    assert started == []


def test_unusable_data(tmp_path, capsys):
    command = ["pretrain", "--items", str(tmp_path / "x.csv"), "--images", str(tmp_path)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert (
        "error: a table of items needs to be a .csv, .tsv, .parquet file" in capsys.readouterr().err
    )
