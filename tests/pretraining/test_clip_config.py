from __future__ import annotations

import math

import pytest

from alignrec_pyg.pretraining import CLIPFinetuneConfig


def test_rate_rises_and_falls_as_a_half_cosine():
    config = CLIPFinetuneConfig(lr=1.0, warmup=0.2)
    rates = [config.lr_at(step, 10) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.5)  # half way down
    assert rates[9] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_without_warm_up():
    assert CLIPFinetuneConfig(lr=1.0, warmup=0.0).lr_at(0, 10) == 1.0
    assert CLIPFinetuneConfig(lr=1.0, warmup=1.0).lr_at(9, 10) == 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"lr": -1.0},
        {"lr": math.inf},
        {"weight_decay": math.nan},
        {"betas": (0.9, 1.5)},
        {"warmup": 2.0},
        {"val_share": 0.95},
        {"max_failures": -0.1},
        {"batch_size": 1},
        {"epochs": 0},
        {"epochs": 2.5},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=rf"'({next(iter(change))}|beta 1)' needs to be"):
        CLIPFinetuneConfig(**change)
