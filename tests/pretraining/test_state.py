from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from alignrec_pyg.checkpoint import CheckpointError
from alignrec_pyg.pretraining import state as module
from alignrec_pyg.pretraining.state import PretrainState, restore, save


def trained(seed=0):
    torch.manual_seed(seed)
    objective = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1)
    objective(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    return objective, optimizer


def test_round_trip(tmp_path):
    objective, optimizer = trained()
    state = PretrainState(
        epoch=2, step=5, sums={"mlm": 0.1 + 0.2, "steps": 3}, seconds=1.5, history=[{"loss": 0.3}]
    )
    save(tmp_path, {"run": 1}, state, objective, optimizer)
    other, other_optimizer = trained(seed=1)
    assert restore(tmp_path, {"run": 1}, other, other_optimizer) == state
    assert torch.equal(other.weight, objective.weight)
    for a, b in zip(
        optimizer.state_dict()["state"].values(),
        other_optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert json.loads((tmp_path / "history.jsonl").read_text()) == {"loss": 0.3}


def test_nothing_saved_changes_nothing(tmp_path):
    objective, optimizer = trained()
    before = objective.weight.clone()
    assert restore(tmp_path, {}, objective, optimizer) == PretrainState()
    assert torch.equal(objective.weight, before)


def test_another_run_is_refused(tmp_path):
    objective, optimizer = trained()
    save(tmp_path, {"lr": 1, "seed": 2}, PretrainState(), objective, optimizer)
    with pytest.raises(CheckpointError, match=r"holds another run .*\{'lr': \(1, 3\)\}"):
        restore(tmp_path, {"lr": 3, "seed": 2}, objective, optimizer)


@pytest.mark.parametrize("step", ["write_tensors", "write_manifest", "write_records"])
def test_interruption_leaves_a_whole_state(tmp_path, monkeypatch, step):
    objective, optimizer = trained()
    save(tmp_path, {}, PretrainState(epoch=1), objective, optimizer)
    with monkeypatch.context() as patched:
        patched.setattr(module, step, lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, {}, PretrainState(epoch=2), objective, optimizer)
    (tmp_path / "last-000009-000000.safetensors.1.part").write_bytes(b"half")
    found = restore(tmp_path, {}, objective, optimizer)
    assert found.epoch == (2 if step == "write_records" else 1)
    save(tmp_path, {}, PretrainState(epoch=3), objective, optimizer)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "history.jsonl",
        "last-000003-000000.safetensors",
        "state.json",
    ]
