from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from alignrec_pyg.pretraining.workers import Workers


def test_one_process_is_a_group_of_its_own():
    workers = Workers(torch.device("cpu"))
    assert (workers.rank, workers.size) == (0, 1)
    module = nn.Linear(2, 2)
    assert workers.wrap(module) is module
    assert isinstance(workers.accumulating(module), nullcontext)
    assert workers.sums([1, 2.5, True]) == [1.0, 2.5, 1.0]
    workers.barrier()
