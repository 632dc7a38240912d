from __future__ import annotations

import itertools
import math

import pytest

from alignrec_pyg.pretraining import CLIPFinetuneConfig, PretrainConfig


def test_learning_rate_rises_and_falls():
    config = PretrainConfig(lr=1.0, warmup=0.1)
    rates = [config.lr_at(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)  # half-way down
    assert rates[99] == pytest.approx((1 + math.cos(math.pi * 89 / 90)) / 2)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert PretrainConfig(lr=1.0, warmup=0.0).lr_at(0, 5) == 1.0
    assert PretrainConfig(lr=1.0).lr_at(0, 1) == 1.0  # too few steps to rise


def test_the_papers_values_are_the_defaults():
    config = PretrainConfig()
    assert (config.lr, config.batch_size) == (5e-4, 1024)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "'epochs' needs to be 1 or more"),
        ({"batch_size": 8.0}, "'batch_size' needs to be an integer"),
        ({"micro_batch_size": True}, "'micro_batch_size' needs to be an integer"),
        ({"num_workers": -1}, "'num_workers' needs to be 0 or more"),
        ({"lr": 0.0}, "'lr' needs to be finite and positive"),
        ({"eps": math.inf}, "'eps' needs to be finite and positive"),
        ({"clip_norm": math.nan}, "'clip_norm' needs to be finite and positive"),
        ({"weight_decay": -1.0}, "'weight_decay' needs to be finite and 0 or more"),
        ({"betas": (0.9, 1.0)}, r"'betas' needs to be in \[0, 1\)"),
        ({"warmup": 1.0}, r"'warmup' needs to be in \[0, 1\)"),
        ({"max_failures": 1.5}, r"'max_failures' needs to be in \[0, 1\]"),
        ({"precision": "fp16"}, "'precision' needs to be one of"),
    ],
)
def test_rejects_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        PretrainConfig(**arguments)


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
