from __future__ import annotations

from alignrec_pyg import LightGCN, TrainConfig
from benchmarks.performance import worker_gain
from benchmarks.performance.made_up import SHAPES, Shape


def test_every_step_is_measured_but_the_first(monkeypatch, checkerboard):
    """A step takes as many seconds as it has triples; the first step of all takes 1,000."""
    train, _ = checkerboard
    now, sizes = 0.0, []

    def step(model, train, optimizer, batch, number, seed):
        nonlocal now
        sizes.append(batch.user.numel())
        now += 1000.0 if number == 0 else float(batch.user.numel())

    monkeypatch.setattr(worker_gain, "train_step", step)
    monkeypatch.setattr(worker_gain, "process_time", lambda: now)
    config = TrainConfig(batch_size=100)
    assert worker_gain.step_seconds(LightGCN(train), train, config, 3) == [100.0, 50.0, 25.0]
    assert sizes == [100, 50, 25] * 4


def test_the_table_has_shares_of_the_whole(monkeypatch, capsys):
    monkeypatch.setitem(SHAPES, "baby", Shape(30, 40, train=150, val=40, test=45))
    monkeypatch.setattr(worker_gain, "step_seconds", lambda *arguments: [0.2, 0.15, 0.1])
    assert worker_gain.main(["--models", "FREEDOM", "BPR", "--width", "5"]) == 0
    printed = capsys.readouterr().out
    assert "| FREEDOM | 200 | 75% | 50% |" in printed
    assert "batches of 2,048, baby's size, width 5" in printed


def test_a_step_trains(checkerboard):
    train, _ = checkerboard
    model = LightGCN(train)
    before = model.item_embedding.weight.detach().clone()
    seconds = worker_gain.step_seconds(model, train, TrainConfig(batch_size=256), 1)
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert not before.equal(model.item_embedding.weight.detach())
