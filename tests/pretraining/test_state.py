from __future__ import annotations

import torch
from torch import nn

from alignrec_pyg.pretraining.state import PretrainState
from alignrec_pyg.training.state import restore, save


def test_round_trip(tmp_path):
    objective = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1)
    state = PretrainState(epoch=2, step=5, sums={"mlm": 0.1 + 0.2}, history=[{"loss": 0.3}])
    save(tmp_path, {"run": 1}, state, objective, optimizer)
    found = PretrainState()
    restore(tmp_path, {"run": 1}, found, objective, optimizer)
    assert found == state
