from __future__ import annotations

import pytest
import torch

from alignrec_pyg import CheckpointError
from alignrec_pyg.training.state import RunClock, TrainState, restore, save


def trained():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    model.register_buffer("count", torch.tensor(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_round_trip(tmp_path):
    model, optimizer = trained()
    state = TrainState(epoch=2, step=1, best_epoch=1, num_stale=1, seconds=1.5)
    state.loss_sums, state.best_metrics = {"loss": 1 / 3}, {"recall@20": 0.1 + 0.2}
    state.best_weights = weights(model)
    state.history = [{"epoch": 1.0, "loss": 1 / 7}]
    save(tmp_path, {"run": 1}, state, model, optimizer)
    other = torch.nn.Linear(3, 2)
    other.register_buffer("count", torch.tensor(0))
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.1)
    found = TrainState()
    restore(tmp_path, {"run": 1}, found, other, other_optimizer)
    for name, value in weights(model).items():
        assert torch.equal(other.state_dict()[name], value)
        assert torch.equal(found.best_weights[name], value)
    found.best_weights = state.best_weights
    assert found == state
    for a, b in zip(
        optimizer.state_dict()["state"].values(),
        other_optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_nothing_saved_changes_nothing(tmp_path):
    model, optimizer = trained()
    before, state = weights(model), TrainState()
    restore(tmp_path, {}, state, model, optimizer)
    assert state == TrainState()
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_only_the_last_and_the_best_are_kept_and_the_best_is_written_once(tmp_path):
    model, optimizer = trained()
    for epoch, best_epoch in ((1, 1), (2, 1), (3, 3)):
        state = TrainState(epoch=epoch, best_epoch=best_epoch, best_weights=weights(model))
        save(tmp_path, {}, state, model, optimizer)
        if epoch == 1:
            written = (tmp_path / "best-000001.safetensors").stat().st_mtime_ns
        if epoch == 2:
            assert (tmp_path / "best-000001.safetensors").stat().st_mtime_ns == written
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-000003.safetensors",
        "last-000003-000000.safetensors",
        "state.json",
    ]


@pytest.mark.parametrize("moment", ["write_tensors", "write_manifest"])
def test_interruption_leaves_the_previous_state(tmp_path, monkeypatch, moment):
    model, optimizer = trained()
    save(tmp_path, {}, TrainState(epoch=1), model, optimizer)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"alignrec_pyg.training.state.{moment}", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, {}, TrainState(epoch=2), model, optimizer)
    (tmp_path / ".alignrec-123-abc.part").write_bytes(b"half")
    found = TrainState()
    restore(tmp_path, {}, found, model, optimizer)
    assert found.epoch == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last-000001-000000.safetensors",
        "state.json",
    ]


def test_another_run_and_damage_are_refused(tmp_path):
    model, optimizer = trained()
    save(tmp_path, {"lr": 1, "seed": 0}, TrainState(), model, optimizer)
    with pytest.raises(CheckpointError, match=r"another run .*\{'lr': \(1, 2\)\}.*checkpoint_dir"):
        restore(tmp_path, {"lr": 2, "seed": 0}, TrainState(), model, optimizer)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        restore(tmp_path, {"lr": 1, "seed": 0}, TrainState(), model, optimizer)


def test_of_another_run_only_what_differs_is_told(tmp_path):
    model, optimizer = trained()
    run = {"config": {"lr": 1, "seed": 0}, "graphs": "a"}
    save(tmp_path, run, TrainState(), model, optimizer)
    other = {"config": {"lr": 2, "seed": 0}, "graphs": "a"}
    with pytest.raises(CheckpointError, match=r"asked for\): \{'config': \{'lr': \(1, 2\)\}\}; "):
        restore(tmp_path, other, TrainState(), model, optimizer)
    with pytest.raises(CheckpointError, match=r"\{'config': \(\{.*\}, None\)\}; "):
        restore(tmp_path, {"graphs": "a"}, TrainState(), model, optimizer)


def test_time_goes_on_from_what_was_spent(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock = RunClock(before=7.0, save_every=10.0)
    now = 109.0
    assert clock.elapsed() == pytest.approx(16.0)
    assert not clock.save_is_due()
    now = 110.0
    assert clock.save_is_due()
    with clock.saving():
        now = 110.25
    assert not clock.save_is_due()
    now = 119.0
    assert not clock.save_is_due()
    assert clock.elapsed() == pytest.approx(26.0)


def test_saving_takes_a_twentieth_of_the_time_at_most(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock, always = RunClock(0.0, save_every=10.0), RunClock(0.0, save_every=0.0)
    for begin, seconds, due in [(10.0, 3.0, 73.0), (80.0, 0.1, 90.1)]:
        for each in (clock, always):
            now = begin
            with each.saving():
                now = begin + seconds
        assert always.save_is_due()
        now = due - 0.01
        assert not clock.save_is_due()
        now = due
        assert clock.save_is_due()
