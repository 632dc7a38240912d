from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.training.loop import fit
from benchmarks.performance import measuring, speed
from benchmarks.performance.made_up import SHAPES, Shape, make_graphs

TINY = Shape(num_users=30, num_items=40, train=150, val=40, test=45)
BATCH_SIZE = 32  # five batches of 150 links


@pytest.fixture
def tiny_shape(monkeypatch):
    monkeypatch.setitem(SHAPES, "baby", TINY)
    monkeypatch.setattr(speed, "_WIDTHS", {"image": 5, "text": 7})


def build(name):
    model, config, data = measuring.build(name, *make_graphs(TINY, {"image": 5, "text": 7}))
    return model, replace(config, batch_size=BATCH_SIZE), data


@pytest.mark.parametrize("name", ["FREEDOM", "BM3", "SLMRec", "AlignRec"])
def test_an_epoch_trains_as_fit_does(name):
    (ours, config, data), (theirs, *_), (initial, *_) = build(name), build(name), build(name)
    step, epoch = speed.train_epoch(ours, data.train, config)
    assert 0 < step < epoch
    fit(theirs, data.train, data.val, replace(config, max_epochs=1))
    for parameter, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[parameter], value), parameter
    first = initial.state_dict()
    assert any(not torch.equal(ours.state_dict()[key], first[key]) for key in first)


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (None, (3.0, 1 + 10 + 2 + 3 + 3 + 4)),  # all: the epoch's start and five steps
        (3, (2.5, 1 + 10 + 2 + 3 + 2 * 2.5)),  # three, two more are estimated
        (1, (10.0, 1 + 10 + 4 * 10.0)),
    ],
)
def test_the_median_step_and_the_epoch(monkeypatch, num_steps, expected):
    """The first step, which prepares graphs, is no part of the median."""
    now = 0.0
    durations = iter([10.0, 2.0, 3.0, 3.0, 4.0])

    def step(*arguments):
        nonlocal now
        now += next(durations)

    def start(train, generator):
        nonlocal now
        now += 1.0

    model, config, data = build("BPR")
    monkeypatch.setattr(speed, "perf_counter", lambda: now)
    monkeypatch.setattr(speed, "train_step", step)
    monkeypatch.setattr(model, "on_epoch_start", start)
    assert speed.train_epoch(model, data.train, config, num_steps) == expected


def test_what_is_measured_of_a_model(tiny_shape):
    costs = speed.measure("FREEDOM", "baby", "cpu", None)
    assert costs.parameters == 70 * 64 + 40 * 12 + (5 + 7 + 2) * 64
    assert min(costs.setup, costs.step, costs.epoch, costs.evaluation) > 0


def test_a_wider_table_takes_more_memory(tiny_shape, monkeypatch):
    if speed.measure("FREEDOM", "baby", "cpu", 1).peak_bytes is None:
        pytest.skip("memory is not measured on this system")
    monkeypatch.setattr(speed, "_WIDTHS", {"image": 5, "text": 20_000})
    costs = speed.measure("FREEDOM", "baby", "cpu", 1)
    assert costs.peak_bytes > 9.6e6  # a table, its copy, gradient and two moments: 3.2 MB each


def test_a_row_for_each_model_and_form(tiny_shape, monkeypatch, capsys):
    calls = []

    def here(threads, function, *arguments):
        calls.append((threads, function.__name__, *arguments))
        return function(*arguments)

    monkeypatch.setattr(speed, "in_new_process", here)
    arguments = ["--models", "BPR", "BPR", "LightGCN", "--threads", "1", "--steps", "1"]
    assert speed.main(arguments) == 0
    assert calls == [
        (1, "measure", "BPR", "baby", "cpu", 1),
        (1, "measure", "LightGCN", "baby", "cpu", 1),
        (1, "propagation", "baby", "cpu"),
    ]
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert [row[0] for row in rows[2:4]] == ["| BPR", "| LightGCN"]
    assert rows[2][1] == "4,480"
    assert rows[2][4].startswith("~")
    assert {row[0] for row in rows[6:]} >= {"| plain", "| edge_index", "| prepared Adjacency"}


def test_forms_that_differ_are_named(monkeypatch, capsys):
    costs = speed.Costs(10, 1.0, 0.5, 2.0, 3.0, None)
    forms = {"plain": (0.2, 0.0), "edge_index": (0.1, 1e-6), "torch CSR": (0.1, float("nan"))}
    monkeypatch.setattr(
        speed,
        "in_new_process",
        lambda threads, function, *arguments: costs if function is speed.measure else forms,
    )
    assert speed.main(["--models", "BPR", "--threads", "1"]) == 1
    printed = capsys.readouterr()
    assert "| BPR | 10 | 1.00 | 500.0 | 2.00 | 3.00 | not measured |" in printed.out
    assert "| edge_index | 100.0 | 2.0 | 1e-06 |" in printed.out
    assert "torch CSR: differs from the plain propagation by up to nan" in printed.err
    assert "edge_index: differs" not in printed.err


def test_every_form_gives_the_mean_over_layers():
    links = make_graphs(TINY, {})[0][INTERACTS].edge_index
    found = speed.compare_forms(links, 30, 40)
    assert len(found) >= 4
    assert all(seconds > 0 and difference < 1e-5 for seconds, difference in found.values())


def test_plain_propagation_by_hand():
    """A user and an item that are linked: each layer swaps their vectors."""
    x, edge_index = torch.tensor([[3.0], [6.0]]), torch.tensor([[0, 1], [1, 0]])
    out = speed.plain_propagation(x, edge_index, torch.tensor([1.0, 1.0]))
    assert out.tolist() == [[4.0], [5.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "Lightgcn"], "invalid choice: 'Lightgcn'"),
        (["--steps", "0"], "--steps: needs to be an integer of 1 or more (got '0')"),
        (["--threads", "two"], "--threads: needs to be an integer of 1 or more (got 'two')"),
        (["--thread", "1"], "unrecognized arguments: --thread"),
        (["--device", "cuda"], "--device cuda: torch finds no GPU"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(speed, "in_new_process", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as stop:
        speed.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
