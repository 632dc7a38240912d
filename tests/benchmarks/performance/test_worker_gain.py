from __future__ import annotations

import pytest
import torch

from alignrec_pyg import TrainConfig
from benchmarks.performance import worker_gain
from benchmarks.performance.memory_slope import make_large_graphs


def test_the_table_holds_the_ratio_of_runs_in_turn(monkeypatch, capsys):
    asked = []

    def speed(num_workers, name, config, num_steps, threads, folder):
        train, _ = torch.load(folder / "graphs.pt", weights_only=False)
        assert train["user", "interacts", "item"].edge_index.shape == (2, 2000)
        assert (config.batch_size, config.fan_out, num_steps, threads) == (16, (3, 2), 7, 1)
        asked.append((name, num_workers))
        clock = {1: 1000.0, 2: 1500.0}[num_workers] + 100 * len(asked) * (num_workers == 2)
        return worker_gain.Speed(clock, 1250.0 * num_workers**0.5)

    monkeypatch.setattr(worker_gain, "links_per_second", speed)
    options = ["--links", "2000", "--batch-size", "16", "--steps", "7", "--repeats", "2"]
    assert worker_gain.main([*options, "--fan-out", "3", "2", "--width", "4"]) == 0
    assert asked == [("LightGCN", 1), ("LightGCN", 2)] * 2
    assert "| LightGCN | 1,000 | 1,800 | 1.80 | 1.41 |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["LightGCN", "AlignRec"])
def test_each_step_of_a_short_epoch_is_clocked(name):
    train, val = make_large_graphs(50, 60, links=8, width=8)
    config = TrainConfig(batch_size=16, fan_out=(3, 3, 3), max_epochs=1, eval_users=10)
    config = config.completed(TrainConfig(), num_links=0)
    moments = worker_gain.step_moments(name, train, val, config, num_batches=7)
    assert len(moments) == 7
    for clock in zip(*moments, strict=True):
        assert list(clock) == sorted(clock)
