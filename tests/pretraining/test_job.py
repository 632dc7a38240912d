from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.encoders import BEiT3Config, BEiT3Encoder, BEiT3Model
from alignrec_pyg.pretraining import PretrainConfig
from alignrec_pyg.pretraining.job import (
    PretrainJob,
    _join_group,
    run_job,
    run_job_with_ray,
)
from alignrec_pyg.transforms import EncodeItems

pytest.importorskip("torchscale", exc_type=ImportError)
pytest.importorskip("sentencepiece")
image_module = pytest.importorskip("PIL.Image")

CONFIG = PretrainConfig(epochs=1, batch_size=64, micro_batch_size=32, lr=2e-3)
EPOCH_STEPS = 9  # of 540 pairs


def job(out, **arguments):
    settings = {"size": "tiny", "vocab_size": 600, "num_codes": 32, "val_share": 0.1}
    return PretrainJob(out=out, **settings | {"config": CONFIG} | arguments)


def test_synthetic_items_end_to_end(tmp_path):
    """An encoder that EncodeItems takes, and its rows in features.npy."""
    lines = []
    folder = run_job(job(tmp_path, encode=True), device="cpu", log=lines.append)
    assert folder == tmp_path / "encoder"
    assert lines[0] == "600 synthetic items, all with text and image"
    assert (
        f"540 pairs to train on, 60 to validate on: {CONFIG.epochs} epochs of {EPOCH_STEPS} steps, "
        f"each of at most {CONFIG.batch_size} pairs, over 1 worker"
    ) in lines
    last = [line for line in lines if line.startswith(f"epoch {CONFIG.epochs} of {CONFIG.epochs}")]
    steps = CONFIG.epochs * EPOCH_STEPS
    assert f", step {steps} of {steps}: lr " in last[-2]
    assert f", step {steps} of {steps}: val_" in last[-1]
    assert not any(re.search(r"\w+\(\w+=", line) for line in lines)  # no objects of Python
    encoder = BEiT3Encoder.from_pretrained(folder)
    data = EncodeItems(encoder, name="mm")(Synthetic(seed=0).data)
    table = np.load(tmp_path / "features.npy")
    assert table.shape == (600, 64)
    np.testing.assert_allclose(table, data["item"].x_mm.numpy(), atol=1e-5)
    assert "feature 'features': 600 of 600 items have a row (0 from the cache)" in "\n".join(lines)
    notes = json.loads((folder / "beit3.json").read_text())["notes"]
    assert notes["metrics"]["val_mlm"] > 0
    assert json.loads((tmp_path / "features.json").read_text())["encoder"] == encoder.cache_key

    again = []
    run_job(job(tmp_path), device="cpu", log=again.append)  # nothing is left to do
    assert not any("codebook:" in line or line.startswith("epoch ") for line in again)
    assert BEiT3Encoder.from_pretrained(folder).cache_key == encoder.cache_key


@pytest.fixture
def catalogue(tmp_path):
    """8 items: a damaged image, one without, one without text."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(8):
        pixels = rng.integers(0, 256, size=(40, 36, 3), dtype=np.uint8)
        image_module.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "2.png").write_bytes(b"damaged")
    (tmp_path / "images" / "3.png").unlink()
    titles = [f"shoe number {n}" if n != 5 else "" for n in range(8)]
    pd.DataFrame({"id": range(8), "title": titles}).to_csv(tmp_path / "items.csv", index=False)
    return tmp_path


def on_table(folder, **arguments):
    settings = {"data": folder / "items.csv", "fields": ("title",), "images": folder / "images"}
    return job(folder / "out", **settings | {"num_codes": 4, "vocab_size": 30} | arguments)


@pytest.mark.parametrize("asked", [None, "cuda", "cuda:1"])
def test_each_worker_takes_a_gpu_of_its_own(asked, monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    device = torch.device("cuda", 1 if asked == "cuda:1" else 3)
    assert _join_group(asked) == device
    assert taken == [device]


def test_a_table_with_gaps(catalogue):
    lines = []
    config = replace(CONFIG, max_failures=0.3)
    run_job(on_table(catalogue, encode=True, config=config), device="cpu", log=lines.append)
    assert lines[0] == ("8 items in items.csv: 7 with a text (title), 7 with an image, 6 pairs")
    assert sum("left out of the codebook" in line for line in lines) == 1
    table = np.load(catalogue / "out" / "features.npy")
    assert table.any(axis=1).all()  # each has one of both
    about = json.loads((catalogue / "out" / "features.json").read_text())
    assert about["id"] == [str(n) for n in range(8)]
    assert any("1 no JPEG" in line for line in about["report"])


def test_too_many_bad_images_stop_the_run_before_it_starts(catalogue):
    with pytest.raises(ValueError, match=r"1 of 6 cannot be read \(such as .*2\.png"):
        run_job(on_table(catalogue), device="cpu")
    assert not (catalogue / "out" / "run").exists()


def test_released_weights_and_tokenizers(catalogue, stage1, vqkd_weights):
    """With beit3.spm everything is taken over; with another vocabulary all but the text's."""
    sizes = BEiT3Config.tiny(vocab_size=64_010)
    model = BEiT3Model(sizes, seed=5)
    weights = {**model.state_dict(), "mlm_head.weight": torch.ones(64_010, 64)}
    weights |= {"mlm_head.bias": torch.zeros(64_010), "mim_head.weight": torch.zeros(9, 64)}
    torch.save({"model": weights}, catalogue / "beit3.pth")
    stage1.tokenizer.save(catalogue / "beit3.spm")
    torch.save({"model": vqkd_weights()}, catalogue / "vqkd.pth")
    lines = []
    run_job(
        on_table(
            catalogue, weights=catalogue / "beit3.pth", spm=catalogue / "beit3.spm",
            vqkd=catalogue / "vqkd.pth", config=replace(CONFIG, max_failures=0.5),
        ),
        device="cpu",
        log=lines.append,
    )  # fmt: skip
    assert "the head for text tokens starts from the released weights" in lines
    encoder = BEiT3Encoder.from_pretrained(catalogue / "out" / "encoder")
    assert encoder.model.config == sizes
    assert encoder.tokenizer.fingerprint == stage1.tokenizer.fingerprint
    trained = encoder.model.beit3.text_embed.weight.detach()
    moved = (trained - model.beit3.text_embed.weight.detach()).abs().max()
    assert 0 < float(moved) < 0.01  # one step from where it was

    lines.clear()
    other = on_table(
        catalogue, weights=catalogue / "beit3.pth", num_layers=3,
        config=replace(CONFIG, max_failures=0.5),
    )  # fmt: skip
    run_job(replace(other, out=catalogue / "other"), device="cpu", log=lines.append)
    assert any("text_embed.weight is new" in line for line in lines)
    assert any("2 layers are stored, 3 are built" in line for line in lines)
    encoder = BEiT3Encoder.from_pretrained(catalogue / "other" / "encoder")
    assert encoder.model.config.vocab_size < 100


def test_an_encoder_that_cannot_be_built_is_an_error_before_training(catalogue):
    config = replace(CONFIG, max_failures=0.5)
    with pytest.raises(ValueError, match=r"'max_tokens' needs to be in \[3, 1022\]"):
        run_job(on_table(catalogue, max_tokens=1023, config=config), device="cpu")
    assert not (catalogue / "out" / "run").exists()


def test_too_few_pairs(catalogue):
    frame = pd.DataFrame({"id": [0, 1], "title": ["a", "b"]})
    frame.to_csv(catalogue / "items.csv", index=False)
    with pytest.raises(ValueError, match="needs 3 items or more with text and image"):
        run_job(on_table(catalogue), device="cpu")


def test_paths_hold_in_another_working_directory(monkeypatch):
    given = []
    monkeypatch.setattr(
        "alignrec_pyg.pretraining.job.run_with_ray", lambda run, job, out, **_: given.append(job)
    )
    job = PretrainJob(out=Path("o"), data=Path("d.csv"), spm=Path("s.spm"))
    assert run_job_with_ray(job, 2, use_gpu=False) == Path.cwd() / "o" / "encoder"
    (found,) = given
    assert (found.out, found.data, found.spm) == tuple(
        Path.cwd() / name for name in ("o", "d.csv", "s.spm")
    )
    assert found.images is None


def test_missing_ray_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray.train", None)
    with pytest.raises(ImportError, match=r"pip install 'ray\[tune\]'"):
        run_job_with_ray(PretrainJob(out=tmp_path), 2, use_gpu=False)


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # Ray warns about itself
def test_two_workers_on_one_machine(tmp_path, monkeypatch):
    import ray

    pytest.importorskip("torchscale", exc_type=ImportError)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")  # on a busy machine
    ray.init("local", num_cpus=3, include_dashboard=False)
    try:
        job = PretrainJob(
            out=tmp_path, size="tiny", vocab_size=600, num_codes=32,
            config=PretrainConfig(epochs=1, batch_size=64, micro_batch_size=32, lr=2e-3),
        )  # fmt: skip
        folder = run_job_with_ray(job, 2, use_gpu=False)
    finally:
        ray.shutdown()
    notes = json.loads((folder / "beit3.json").read_text())["notes"]
    assert notes["metrics"]["val_loss"] > 0
    assert json.loads((tmp_path / "run" / "state.json").read_text())["run"]["workers"] == 2
