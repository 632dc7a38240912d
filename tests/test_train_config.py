import json
import math

import numpy as np
import pytest

from alignrec_pyg import TrainConfig


def test_learning_rate_decays_continuously():
    config = TrainConfig(lr=0.01, lr_decay=0.96, lr_decay_epochs=50)
    assert config.lr_at(1) == pytest.approx(0.01)
    assert config.lr_at(26) == pytest.approx(0.01 * math.sqrt(0.96))
    assert config.lr_at(51) == pytest.approx(0.01 * 0.96)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr_decay": -1.0},
        {"lr_decay_epochs": 0},
        {"batch_size": 0},
        {"max_epochs": 0},
        {"eval_every": 0},
        {"eval_steps": 0},
        {"patience": -1},
        {"patience_steps": -1},
        {"min_steps": 1.5},
        {"weight_decay": -0.1},
        {"seed": -1},
        {"monitor": "recall@50"},
        {"monitor": "accuracy@10"},
        {"lr": "1e-3"},
        {"weight_decay": math.nan},
        {"batch_size": 10.5},
        {"max_epochs": math.inf},
        {"ks": 20.0},
        {"ks": (20, 0)},
        {"ks": ()},
        {"clip_grad_norm": 0.0},
        {"num_negatives": 0},
        {"eval_users": 0},
        {"fan_out": ()},
        {"fan_out": (10, 0)},
        {"fan_out": (10.0,)},
        {"fan_out": 10},
        {"autocast": "float64"},
    ],
)
def test_bad_settings_are_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=f"'{name}' needs to"):
        TrainConfig(**change)


@pytest.mark.parametrize(
    ("changes", "epoch_steps", "evaluated", "stale"),
    [
        ({"eval_every": 3, "patience": 7}, 16, 3, 7),
        ({"eval_steps": 50, "patience": 7}, 16, 4, 7),  # 64 steps
        ({"eval_steps": 64}, 16, 4, 20),
        ({"eval_steps": 50}, 5000, 1, 20),
        ({"patience_steps": 320}, 16, 1, 20),  # 336 steps are more
        ({"patience_steps": 335}, 16, 1, 20),
        ({"patience_steps": 336}, 16, 1, 21),
        ({"eval_steps": 50, "patience_steps": 320}, 16, 4, 5),
        ({"eval_steps": 50, "patience_steps": 320, "eval_every": 9, "patience": 9}, 16, 4, 5),
        ({"patience_steps": 320}, 5000, 1, 0),
    ],
)
def test_steps_are_counted_in_whole_epochs(changes, epoch_steps, evaluated, stale):
    config = TrainConfig(**changes)
    assert config.evaluation_epochs(epoch_steps) == evaluated
    assert config.patience_evaluations(epoch_steps) == stale


def test_numpy_numbers_become_plain_ones():
    config = TrainConfig(lr=np.float32(0.5), batch_size=np.int64(7), ks=np.array([10, 20]))
    assert json.dumps([config.lr, config.batch_size, config.ks]) == "[0.5, 7, [10, 20]]"
