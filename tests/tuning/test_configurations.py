import csv
import io
from statistics import stdev

import pytest

from alignrec_pyg.experiments.runner import METRICS
from alignrec_pyg.tuning.configurations import (
    Trial,
    collect,
    configurations_table,
    ranked,
    trials_csv,
)
from alignrec_pyg.tuning.spaces import Choice, Interval

SPACE = {"lr": Interval(1e-4, 1e-2), "num_layers": Choice((1, 2))}


def trial(number, seed=0, recall=None, outcome="finished", reason="", layers=1):
    return Trial(
        number=number,
        seed=seed,
        point={"lr": 0.00123456, "num_layers": layers},
        outcome=outcome,
        reason=reason,
        val={} if recall is None else {**dict.fromkeys(METRICS, 0.5), "recall@20": recall},
        best_epoch=0 if recall is None else 3,
        epochs=7,
        seconds=1.25,
    )


def test_trials_are_put_together_over_seeds():
    found = collect([trial(1, 0, 0.1), trial(0, 0, 0.2), trial(0, 2, 0.4), trial(0, 1, 0.3)])
    assert [entry.number for entry in found] == [0, 1]
    assert [t.seed for t in found[0].trials] == [0, 1, 2]
    assert found[0].values == [0.2, 0.3, 0.4]
    assert found[0].mean == pytest.approx(0.3)
    assert found[0].std == pytest.approx(stdev([0.2, 0.3, 0.4]))
    assert (found[1].mean, found[1].std) == (0.1, None)


def test_a_trial_that_went_on_takes_the_place_of_the_stopped_one():
    (found,) = collect([trial(0, 0, 0.2, outcome="stopped"), trial(0, 0, 0.3)])
    assert (found.values, found.finished) == ([0.3], True)


def test_more_seeds_come_first_then_the_mean_then_the_number():
    trials = [
        *(trial(0, seed, value) for seed, value in enumerate((0.1, 0.2))),
        *(trial(1, seed, value) for seed, value in enumerate((0.3, 0.2))),
        trial(2, 0, 0.9),
        trial(3, 0, 0.9),
        trial(4, 0, 0.7, outcome="stopped"),
    ]
    assert [entry.number for entry in ranked(collect(trials))] == [1, 0, 2, 3, 4]


def test_what_failed_or_has_no_value_is_not_chosen():
    trials = [
        trial(0, 0, 0.9),
        trial(0, 1, 0.9, outcome="failed", reason="not finite"),
        trial(1, outcome="stopped"),
        trial(2, outcome="failed"),
        trial(3, 0, 0.1),
    ]
    assert [entry.number for entry in ranked(collect(trials))] == [3]


def test_csv_has_every_trial_unrounded():
    trials = [trial(0, 0, 0.123456789), trial(0, 1, outcome="failed", reason="not finite")]
    lines = list(csv.DictReader(io.StringIO(trials_csv(collect(trials), SPACE))))
    assert [(line["configuration"], line["seed"]) for line in lines] == [("0", "0"), ("0", "1")]
    assert [line["lr"] for line in lines] == ["0.00123456"] * 2
    assert [line["val recall@20"] for line in lines] == ["0.123456789", ""]
    assert [line["best epoch"] for line in lines] == ["3", ""]
    assert [line["why"] for line in lines] == ["", "not finite"]
    assert lines[0]["seconds"] == "1.25"


def test_table_has_the_best_first_and_the_failed_last():
    trials = [
        trial(0, outcome="failed", reason="not finite"),
        trial(1, 0, 0.25, outcome="stopped", layers=2),
        trial(2, 0, 0.1),
        trial(2, 1, 0.2),
    ]
    table = configurations_table(collect(trials), SPACE)
    head, rule, *body = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    assert {len(line) for line in (head, rule, *body)} == {len(SPACE) + 5}
    assert [line[0] for line in body] == ["2", "1", "0"]
    assert body[0][1:] == ["0.00123456", "1", "0.1500 ± 0.0707", "2", "finished", "7, 7"]
    assert body[1][2:] == ["2", "0.2500", "1", "stopped", "7"]
    assert body[2][3:] == ["", "0", "failed (not finite)", "7"]
