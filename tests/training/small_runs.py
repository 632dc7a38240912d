"""Short runs of small models, which the tests of training share."""

from __future__ import annotations

import torch

from alignrec_pyg import BPR, TrainConfig


def small_config(**changes) -> TrainConfig:
    usual = {"lr": 0.01, "batch_size": 256, "max_epochs": 4, "seed": 3}
    counted = {"eval_every": 1, "patience": 20, "min_steps": 0}
    return TrainConfig(**usual).with_changes(**counted).with_changes(**changes)


def build(train, model_cls=BPR, **hparams):
    torch.manual_seed(0)
    return model_cls(train, embedding_dim=8, **hparams)


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
