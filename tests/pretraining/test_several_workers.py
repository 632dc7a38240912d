from __future__ import annotations

import pytest
import torch

from alignrec_pyg.pretraining import PretrainConfig, pretrain
from alignrec_pyg.storage import read_manifest


def trained(stage1, folder):
    """Weights after 2 epochs of 22 pairs, of which two workers can share out all."""
    objective = stage1.objective()
    config = PretrainConfig(epochs=2, batch_size=8, micro_batch_size=3, lr=1e-3)
    val = stage1.pairs(7, seed=1)
    result = pretrain(objective, stage1.pairs(22), val, config, checkpoint_dir=folder)
    return {"weights": objective.state_dict(), "history": result.history}


def test_two_processes_do_what_one_does(stage1, tmp_path, two_processes):
    """Up to rounding: they share the batches, and add up gradients, losses and validation."""
    expected = trained(stage1, tmp_path / "one")
    both = two_processes.run(lambda rank: trained(stage1, tmp_path / "two"))
    assert read_manifest(tmp_path / "two" / "state.json")["run"]["workers"] == 2
    for found in both:
        for name, value in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, atol=1e-4, rtol=1e-3)
        assert len(found["history"]) == len(expected["history"])
        for one, two in zip(expected["history"], found["history"], strict=True):
            assert two == pytest.approx(one, rel=1e-3, abs=1e-5)
