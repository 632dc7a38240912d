"""Stage 1 on a GPU gives what it gives on the CPU, up to rounding."""

from __future__ import annotations

import pytest
import torch

from alignrec_pyg.pretraining import PretrainConfig, pretrain
from alignrec_pyg.pretraining.vqkd import VQKDTokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def losses(result) -> list[float]:
    return [entry["loss"] for entry in result.history if "loss" in entry]


def test_stage_1_takes_the_same_steps(stage1):
    config = {"epochs": 2, "batch_size": 8, "micro_batch_size": 4, "log_every": 1, "lr": 1e-3}
    runs = {}
    for device, precision in (("cpu", "float32"), ("cuda", "float32"), ("cuda", "auto")):
        parts = stage1.objective(), stage1.pairs(20), stage1.pairs(4, seed=1)
        settings = PretrainConfig(precision=precision, **config)
        runs[device, precision] = losses(pretrain(*parts, settings, device=device))
    assert runs["cuda", "float32"] == pytest.approx(runs["cpu", "float32"], rel=1e-3)
    assert runs["cuda", "auto"] == pytest.approx(runs["cpu", "float32"], rel=0.05)
    assert runs["cuda", "auto"] != runs["cuda", "float32"]


def test_interrupted_stage_1_continues(stage1, tmp_path):
    """Its masks and its order come from the seed, so the run ends as if it had not stopped."""
    config = PretrainConfig(
        epochs=3, batch_size=8, micro_batch_size=4, log_every=1, lr=1e-3, precision="float32"
    )

    def run(folder=None, stop_at=None):
        def report(step, entry):
            if step == stop_at:
                raise KeyboardInterrupt

        options = {"device": "cuda", "report": report, "checkpoint_dir": folder}
        parts = stage1.objective(), stage1.pairs(20), stage1.pairs(4, seed=1)
        return losses(pretrain(*parts, config, **options))

    expected = run()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_at=5)
    assert run(tmp_path) == pytest.approx(expected, rel=1e-4)


def test_visual_tokens(stage1, tmp_path, vqkd_weights):
    images = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    images = images.byte()
    torch.save({"model": vqkd_weights()}, tmp_path / "vqkd.pth")
    learned = VQKDTokenizer(tmp_path / "vqkd.pth")
    for tokens in (learned, lambda pictures: stage1.visual_tokens(pictures[..., :16, :16])):
        here = tokens(images)
        there = tokens(images.cuda())
        assert there.is_cuda
        assert (there.cpu() == here).float().mean() > 0.99
