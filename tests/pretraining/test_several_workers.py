from __future__ import annotations

import os
import sys
import traceback
import warnings
from contextlib import nullcontext
from datetime import timedelta

import pytest
import torch
from torch import distributed, nn

from alignrec_pyg.checkpoint import read_manifest
from alignrec_pyg.pretraining import PretrainConfig, pretrain
from alignrec_pyg.pretraining.workers import Workers


def test_one_process_is_a_group_of_its_own():
    workers = Workers(torch.device("cpu"))
    assert (workers.rank, workers.size) == (0, 1)
    module = nn.Linear(2, 2)
    assert workers.wrap(module) is module
    assert isinstance(workers.accumulating(module), nullcontext)
    assert workers.sums([1, 2.5, True]) == [1.0, 2.5, 1.0]
    workers.barrier()


def trained(stage1, folder):
    """Weights after 2 epochs of 22 pairs, of which two workers can share out all."""
    objective = stage1.objective()
    config = PretrainConfig(epochs=2, batch_size=8, micro_batch_size=3, lr=1e-3)
    val = stage1.pairs(7, seed=1)
    result = pretrain(objective, stage1.pairs(22), val, config, checkpoint_dir=folder)
    return {"weights": objective.state_dict(), "history": result.history}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_two_processes_do_what_one_does(stage1, tmp_path):
    """Up to rounding: they share the batches, and add up gradients, losses and validation."""
    expected = trained(stage1, tmp_path / "one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python >= 3.12, if threads are about
        children = []
        for rank in range(2):
            child = os.fork()
            if child == 0:
                _work(stage1, tmp_path, rank)
            children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert read_manifest(tmp_path / "two" / "state.json")["run"]["workers"] == 2
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in expected["weights"].items():
            torch.testing.assert_close(found["weights"][name], value, atol=1e-4, rtol=1e-3)
        assert len(found["history"]) == len(expected["history"])
        for one, two in zip(expected["history"], found["history"], strict=True):
            assert two == pytest.approx(one, rel=1e-3, abs=1e-5)


def _work(stage1, folder, rank):
    """Never returns: the process ends here."""
    try:
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/group",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=120),
        )
        found = trained(stage1, folder / "two")
        torch.save(found, folder / f"{rank}.pt")
        distributed.destroy_process_group()
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)
