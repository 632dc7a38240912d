from __future__ import annotations

import torch

from alignrec_pyg.encoders.weights import weights_hash


def test_follows_every_bit_and_not_the_order():
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1.5)}
    key = weights_hash(weights)
    assert key == weights_hash({"b": weights["b"], "a": weights["a"].clone()})
    changed = weights["a"].clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    others = [
        {**weights, "a": changed},
        {**weights, "a": weights["a"].view(3, 2)},
        {**weights, "a": weights["a"].to(torch.float64)},
        {**weights, "c": weights["b"]},
        {"a": weights["a"], "c": weights["b"]},
    ]
    assert len({key, *map(weights_hash, others)}) == 6


def test_takes_any_type_and_views():
    half = torch.arange(6.0).bfloat16()
    assert weights_hash({"a": half[::2]}) == weights_hash({"a": half[::2].clone()})
    assert weights_hash({"a": half}) != weights_hash({"a": half.half()})
    assert weights_hash({}) == weights_hash({})
