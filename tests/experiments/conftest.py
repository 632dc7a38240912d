"""Rows of tables, and cells that train in a moment."""

from __future__ import annotations

import pytest
import torch

from alignrec_pyg.experiments.cells import KS, METRICS, Cell, Parts
from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.experiments.reading import SYNTHETIC
from alignrec_pyg.experiments.statistics import Row
from alignrec_pyg.models import BPR, LightGCN
from alignrec_pyg.train_config import TrainConfig


@pytest.fixture(scope="session")
def synthetic():
    """The made-up data set, split."""
    return prepare(SYNTHETIC)


@pytest.fixture(scope="session")
def make_row():
    """Makes a row of a table, whose columns have one value and whose users have others."""

    def make(name, value=0.1, std=None, *, users=(0.0,) * 5, user=None, **others):
        defaults = {
            "name": name,
            "seeds": (0,) if std is None else (0, 1),
            "missing": (),
            "mean": dict.fromkeys(METRICS, value),
            "std": None if std is None else dict.fromkeys(METRICS, std),
            "epochs": 12.4,
            "best_epoch": 3.0,
            "stopped_early": True,
            "still_rising": False,
            "seconds": 1.25,
            "cpu_seconds": 1.5,
            "peak_bytes": None,
            "num_parameters": 1234,
            "compared": "recall@20",
            "user": torch.arange(len(users)) if user is None else torch.tensor(user),
            "user_value": torch.tensor(users, dtype=torch.float64),
        }
        return Row(**{**defaults, **others})

    return make


def trained(**settings):
    """A complete configuration, evaluated after each epoch."""
    usual = {"lr": 1e-3, "batch_size": 2048, "eval_every": 1, "patience": 20}
    return TrainConfig(**{**usual, **settings}).completed(TrainConfig(), num_links=0)


@pytest.fixture
def small_cells():
    """Two models with two seeds each; every epoch takes milliseconds."""

    def make(seeds=(0, 1), models=(BPR, LightGCN), **changes):
        config = {"max_epochs": 3, "batch_size": 64, "ks": KS, **changes}
        return [
            Cell(
                row=model.__name__,
                model=model,
                hparams={"embedding_dim": 4},
                config=trained(seed=seed, **config),
            )
            for model in models
            for seed in seeds
        ]

    return make


@pytest.fixture
def parts(checkerboard):
    """A data set whose right answer is known."""
    train, test = checkerboard
    return Parts(train, test, {"test": test})
