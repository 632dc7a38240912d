import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alignrec_pyg.cli.arguments import make_parser
from alignrec_pyg.experiments.presets import PAPER
from alignrec_pyg.experiments.runner import METRICS
from alignrec_pyg.experiments.settings import resolve
from alignrec_pyg.training.loop import fit
from alignrec_pyg.tuning.spaces import with_point
from benchmarks import compare

pytest.importorskip("ray", reason="needs Ray ('tune' extra)")

from alignrec_pyg.tuning import final
from alignrec_pyg.tuning.final import Share, by_hand, train_finalists

pytestmark = pytest.mark.tune_extra

POINT = {"lr": 0.00123, "cca_weight": 1e-4, "num_layers": 3, "item_neighbors": 20}


def session(*words, out="here/out"):
    parser = make_parser("", models=["AlignRec"])
    options = parser.parse_args(["--models", "AlignRec", *words])
    presets = resolve(
        ["AlignRec"], PAPER, options.set, max_epochs=options.epochs, patience=options.patience,
        batch_size=options.batch_size, lr=options.lr,
    )  # fmt: skip
    return SimpleNamespace(
        options=options, presets=presets, device=torch.device("cpu"), out=Path(out)
    )


def parsed(line):
    program, script, *words = shlex.split(line)
    assert (program, script) == ("python", "benchmarks/compare.py")
    assert Path(compare.__file__).name == "compare.py"
    return make_parser("").parse_args(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--epochs", "3", "--patience", "2", "--batch-size", "64", "--seeds", "5"],
        ["--features", "a", "b", "--tables", "a=x y.npy", "--feature-scale", "raw"],
        ["--split", "global_time", "--set", "AlignRec.reg_target=frozen", "--data", "some folder"],
    ],
)
def test_the_line_says_all_that_the_sweep_was_told(words):
    asked = session(*words)
    found = parsed(by_hand(asked, POINT))
    for name in ("data", "features", "tables", "neighbors", "feature_scale", "seeds", "split"):
        assert getattr(found, name) == getattr(asked.options, name), name
    assert found.item_neighbors == 20
    assert (found.device, found.threads) == ("cpu", torch.get_num_threads())
    assert found.out == Path("here/out/by_hand")
    (preset,) = resolve(
        found.models, PAPER, found.set, max_epochs=found.epochs, patience=found.patience,
        batch_size=found.batch_size, lr=found.lr,
    ).values()  # fmt: skip
    assert preset == with_point(asked.presets["AlignRec"], POINT)
    assert preset != asked.presets["AlignRec"]


def test_a_learning_rate_that_was_given_and_not_searched_stays():
    asked = session("--lr", "0.005")
    point = {"cca_weight": 0.1}
    found = parsed(by_hand(asked, point))
    (preset,) = resolve(found.models, PAPER, found.set, lr=found.lr).values()
    assert preset == with_point(replace(asked.presets["AlignRec"]), point)
    assert preset.train.lr == 0.005


def test_neighbor_lists_have_their_own_number():
    line = by_hand(session("--neighbors", "text=n.npz"), {"cca_weight": 0.1})
    assert parsed(line).neighbors == ["text=n.npz"]
    assert "--item-neighbors" not in line


class Processes:
    """Stands in for Ray: runs a task when it is waited for, the latest first."""

    def __init__(self):
        self.most = 0

    def remote(self, function):
        return SimpleNamespace(options=lambda **asked: self.task(function, asked))

    def task(self, function, asked):
        self.asked = asked
        return SimpleNamespace(remote=lambda *call: partial(function, *call))

    def put(self, value):
        return value

    def wait(self, running):
        self.most = max(self.most, len(running))
        return running[-1:], running[:-1]

    def get(self, ended):
        return ended()


@pytest.fixture
def processes(monkeypatch):
    found = Processes()
    monkeypatch.setattr(final, "ray", found)
    return found


@pytest.mark.parametrize(("limit", "most"), [(None, 5), (2, 2), (7, 5), (1, 1)])
def test_calls_are_made_once_each_and_no_more_at_a_time_than_allowed(processes, limit, most):
    share = Share(cpus=2, gpus=0.5, max_concurrent=limit)
    ended = list(final._as_they_end(lambda a, b: a + b, [(i, 10) for i in range(5)], share))
    assert sorted(ended) == [(i, i + 10) for i in range(5)]
    assert processes.most == most
    assert processes.asked == {"num_cpus": 2, "num_gpus": 0.5}
    if limit is None:
        assert ended == [(i, i + 10) for i in reversed(range(5))]
    assert list(final._as_they_end(max, [], share)) == []


def test_finalists_train_to_the_end_and_one_that_fails_stops_no_other(job, processes, capsys):
    asked = [
        {"number": 4, "seed": 0, "point": {"lr": 1e-5}},
        {"number": 5, "seed": 0, "point": {"lr": 1e30}},
        {"number": 4, "seed": 1, "point": {"lr": 1e-5}},
    ]
    share = Share(cpus=1, gpus=0, max_concurrent=None)
    first, failed, second = train_finalists(job, asked, share)
    assert [(t.number, t.seed, t.outcome) for t in (first, failed, second)] == [
        (4, 0, "finished"), (5, 0, "failed"), (4, 1, "finished"),
    ]  # fmt: skip
    assert failed.reason.startswith("TrainingDivergedError: ")
    assert "not finite" in failed.reason
    assert (failed.val, failed.epochs) == ({}, 0)
    cell, _ = job.cell(asked[2]["point"], 1)
    fitted = fit(cell.build(job.train), job.train, job.val, cell.config)
    assert second.val == {name: fitted.best_metrics[name] for name in METRICS}
    assert second.val != first.val
    assert (second.best_epoch, second.epochs) == (fitted.best_epoch + 1, 4)
    assert second.seconds > 0
    told = capsys.readouterr().err
    assert "[3/3] configuration 4, seed 0: validation recall@20 1.0000, finished" in told
    assert "configuration 5, seed 0: validation recall@20 none (TrainingDivergedError" in told
