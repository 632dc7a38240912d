import random
from dataclasses import replace

import pytest

from alignrec_pyg.experiments.runner import METRICS
from alignrec_pyg.tuning.configurations import Trial, collect
from alignrec_pyg.tuning.spaces import Choice, Interval, random_points

pytest.importorskip("optuna", reason="needs Optuna ('tune' extra)")

from alignrec_pyg.tuning.importance import importances

pytestmark = pytest.mark.tune_extra

SPACE = {
    "lr": Interval(1e-4, 1e-2),
    "dropout": Interval(0.1, 0.9, log=False),
    "num_layers": Choice((1, 2, 3)),
}


def configurations(value, number=40):
    return collect(
        [
            Trial(
                number=i, seed=0, point=point, outcome="finished", reason="", epochs=1,
                val=dict.fromkeys(METRICS, value(point)), best_epoch=1, seconds=1.0,
            )
            for i, point in enumerate(random_points(SPACE, number, seed=0))
        ]
    )  # fmt: skip


@pytest.mark.parametrize("name", SPACE)
def test_the_setting_that_decides_is_the_important_one(name):
    noise = random.Random(0)
    shares = importances(configurations(lambda p: p[name] + 1e-4 * noise.random()), SPACE)
    assert set(shares) == set(SPACE)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert next(iter(shares)) == name
    assert shares[name] > 0.8


def test_the_same_trials_give_the_same_importance():
    entries = configurations(lambda p: p["dropout"] * p["lr"])
    assert importances(entries, SPACE) == importances(entries, SPACE)


def test_nothing_is_said_of_too_little():
    assert importances(configurations(lambda p: p["lr"], number=3), SPACE) == {}
    assert importances(configurations(lambda p: 0.5), SPACE) == {}


def test_configurations_without_a_value_say_nothing():
    entries = configurations(lambda p: p["dropout"] * p["lr"])
    (failed,) = collect([replace(entries[0].trials[0], number=99, val={}, outcome="failed")])
    assert importances([*entries, failed], SPACE) == importances(entries, SPACE)
