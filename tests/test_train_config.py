import json
import math

import numpy as np
import pytest

from alignrec_pyg import TrainConfig
from alignrec_pyg.train_config import CompleteTrainConfig


def complete(**values):
    """A configuration whose patience and intervals are those of ``values`` alone."""
    usual = {} if "eval_steps" in values else {"eval_every": 1}
    usual |= {} if "patience_steps" in values else {"patience": 20}
    return TrainConfig(**{**usual, **values}).completed(TrainConfig(), num_links=1000)


def test_learning_rate_decays_continuously():
    config = complete(lr=0.01, lr_decay=0.96, lr_decay_epochs=50)
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
        ({"patience_steps": 320}, 5000, 1, 0),
    ],
)
def test_steps_are_counted_in_whole_epochs(changes, epoch_steps, evaluated, stale):
    config = complete(**changes)
    assert config.evaluation_epochs(epoch_steps) == evaluated
    assert config.patience_evaluations(epoch_steps) == stale


def test_numpy_numbers_become_plain_ones():
    config = TrainConfig(lr=np.float32(0.5), batch_size=np.int64(7), ks=np.array([10, 20]))
    assert json.dumps([config.lr, config.batch_size, config.ks]) == "[0.5, 7, [10, 20]]"


@pytest.mark.parametrize(
    "both", [{"eval_every": 2, "eval_steps": 50}, {"patience": 2, "patience_steps": 50}]
)
def test_what_is_counted_twice_is_refused(both):
    with pytest.raises(ValueError, match=f"'{min(both)}' and '{max(both)}' exclude each other"):
        TrainConfig(**both)


@pytest.mark.parametrize(
    ("num_links", "lr", "batch_size", "patience_steps", "min_steps"),
    [
        (1, 3e-3, 256, 667, 1000),
        (12_000, 3e-3, 512, 667, 1000),  # 375 links in each of 32 steps
        (33_073, 3e-3, 1024, 667, 1000),  # 1,034
        (118_551, 1.9e-3, 2048, 1053, 1579),  # at most; 3e-3 * sqrt(50,000 / 118,551)
        (1_250_000, 1e-3, 2048, 3055, 3000),  # five epochs of 611 steps
    ],
)
def test_the_rule_follows_the_number_of_links(num_links, lr, batch_size, patience_steps, min_steps):
    assert TrainConfig.for_links(num_links) == TrainConfig(
        lr=lr,
        batch_size=batch_size,
        eval_steps=50,
        patience_steps=patience_steps,
        min_steps=min_steps,
    )


def test_what_is_open_comes_from_the_model_then_from_the_rule():
    rule = TrainConfig.for_links(12_000)
    model = TrainConfig(lr=0.5, patience=4, weight_decay=0.1)
    found = TrainConfig(max_epochs=7, batch_size=32).completed(model, 12_000)
    assert type(found) is CompleteTrainConfig
    assert (found.max_epochs, found.batch_size, found.lr) == (7, 32, 0.5)
    assert (found.patience, found.patience_steps, found.min_steps) == (4, None, 0)
    assert (found.eval_every, found.eval_steps) == (None, rule.eval_steps)
    assert found.weight_decay == 0.0  # the user's, who gave a configuration
    again = found.completed(TrainConfig(lr=0.1, patience_steps=9), 10**7)
    assert again == found


def test_a_patience_takes_the_place_of_the_other_kind():
    rule = TrainConfig.for_links(12_000)
    changed = rule.with_changes(patience=5)
    assert (changed.patience, changed.patience_steps, changed.min_steps) == (5, None, None)
    least = rule.with_changes(min_steps=7)
    assert (least.patience_steps, least.min_steps) == (rule.patience_steps, 7)
    assert changed.eval_steps == rule.eval_steps
    back = changed.with_changes(patience_steps=90, eval_every=2)
    assert (back.patience, back.patience_steps) == (None, 90)
    assert (back.eval_every, back.eval_steps) == (2, None)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"patience": 3}, "'eval_every' or 'eval_steps' needs a value"),
        ({"eval_steps": 50}, "'patience' or 'patience_steps' needs a value"),
    ],
)
def test_a_complete_configuration_needs_an_interval_and_a_patience(given, missing):
    usual = {"lr": 1e-3, "batch_size": 64, "min_steps": 0}
    with pytest.raises(ValueError, match=missing):
        CompleteTrainConfig(**usual, **given)


def test_the_patience_fits_the_learning_rate_and_the_batches_that_are_given():
    slow = TrainConfig(lr=1e-4).completed(TrainConfig(), 12_000)
    assert (slow.patience_steps, slow.min_steps) == (20_000, 30_000)
    small = TrainConfig(batch_size=256).completed(TrainConfig(), 450_000)
    assert small.patience_steps == 5 * 1758  # epochs
