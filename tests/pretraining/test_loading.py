from __future__ import annotations

import pytest
import torch

from alignrec_pyg.pretraining import PretrainConfig
from alignrec_pyg.pretraining.loading import load

KEYS = [(0, [1, 2]), (None, range(3)), (1, [2])]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_in_the_order_asked_for(stage1, num_workers):
    pairs = stage1.pairs(5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded = list(load(pairs, KEYS, PretrainConfig(num_workers=num_workers), torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(loaded) == 3
    for batch, key in zip(loaded, KEYS, strict=True):
        for part, expected in zip(batch, pairs[key], strict=True):
            assert torch.equal(part, expected)
