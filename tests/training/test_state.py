from __future__ import annotations

import pytest
import torch

from alignrec_pyg import CheckpointError
from alignrec_pyg.storage import read_manifest, write_manifest
from alignrec_pyg.training.state import (
    RunClock,
    TrainState,
    discard,
    restore,
    run_lock,
    save,
)


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
        (best,) = tmp_path.glob("best-*.safetensors")
        written = best.stat().st_mtime_ns
        if epoch < 3:
            first = written
        assert (written == first) == (epoch < 3)
    assert sorted(path.name[:5] for path in tmp_path.iterdir()) == ["best-", "last-", "state"]


def test_interruption_leaves_the_previous_state(tmp_path, monkeypatch):
    model, optimizer = trained()
    save(tmp_path, {}, TrainState(epoch=1), model, optimizer)

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("alignrec_pyg.storage.listed_files.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, {}, TrainState(epoch=2), model, optimizer)
    found = TrainState()
    restore(tmp_path, {}, found, model, optimizer)
    assert found.epoch == 1
    assert sorted(path.name[:5] for path in tmp_path.iterdir()) == ["last-", "state"]


def test_what_a_killed_process_left_goes_when_a_run_goes_on(tmp_path, monkeypatch):
    model, optimizer = trained()
    save(tmp_path, {}, TrainState(epoch=1), model, optimizer)
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patched:  # a killed process does not clear away
        patched.setattr("alignrec_pyg.storage.listed_files.clear_replaced", lambda path: None)
        save(tmp_path, {}, TrainState(epoch=2), *trained())
        model.weight.data += 1
        save(tmp_path, {}, TrainState(epoch=3), model, optimizer)
    assert len(list(tmp_path.iterdir())) > len(before)
    with run_lock(tmp_path):
        names = sorted(path.name[:5] for path in tmp_path.glob("[!.]*"))
        assert names == ["last-", "state"]
        assert not list(tmp_path.glob("*.pending"))


def test_somebody_else_s_files_stay(tmp_path):
    """As those of a model that was saved into the folder of its run."""
    others = ["my_features.safetensors", "model-0123456789abcdef.safetensors", "thesis.part"]
    for name in others:
        (tmp_path / name).write_text("mine")
    model, optimizer = trained()
    for epoch in (1, 2):
        with run_lock(tmp_path):
            restore(tmp_path, {}, TrainState(), model, optimizer)
            save(tmp_path, {}, TrainState(epoch=epoch), model, optimizer)
    assert all((tmp_path / name).read_text() == "mine" for name in others)
    with pytest.warns(UserWarning, match="is left: nobody here wrote"):
        discard(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == sorted(others)


@pytest.mark.parametrize(
    "change",
    [
        {"run": []},
        {"state": {}},
        {"state": {"epoch": "2"}},
        {"files": {}},
        {"files": {"../last-0123456789abcdef.safetensors": "0123456789abcdef"}},
        {"files": 5},
    ],
)
def test_a_state_that_holds_something_else_is_refused_and_nothing_removed(tmp_path, change):
    model, optimizer = trained()
    save(tmp_path, {}, TrainState(), model, optimizer)
    manifest = read_manifest(tmp_path / "state.json")
    if change.get("state"):
        change = {"state": {**manifest["state"], **change["state"]}}
    write_manifest(tmp_path / "state.json", {**manifest, **change})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError), run_lock(tmp_path):
        restore(tmp_path, {}, TrainState(), model, optimizer)
    assert sorted(tmp_path.glob("[!.]*")) == before


def test_a_flipped_file_name_costs_nothing(tmp_path):
    model, optimizer = trained()
    save(tmp_path, {}, TrainState(), model, optimizer)
    path = tmp_path / "state.json"
    good, before = path.read_bytes(), sorted(tmp_path.iterdir())
    path.write_bytes(good.replace(b'"last-', b'"lasu-'))
    with pytest.raises(CheckpointError, match="is damaged or was edited"), run_lock(tmp_path):
        restore(tmp_path, {}, TrainState(), model, optimizer)
    assert sorted(tmp_path.glob("[!.]*")) == before
    path.write_bytes(good)
    restore(tmp_path, {}, TrainState(), model, optimizer)


def test_a_state_of_another_model_is_refused(tmp_path):
    model, optimizer = trained()
    save(tmp_path, {}, TrainState(), model, optimizer)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        restore(tmp_path, {}, TrainState(), torch.nn.Linear(4, 2), None)


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ({"format": 2, "config": {"lr": 1}}, r"it is of format 1, this one of format 2\)"),
        (
            {"format": 1, "config": {"lr": 1, "new": 0}},
            r"format 1, this one of format 1, of only one of them are the settings new\)",
        ),
    ],
)
def test_a_run_of_another_version_is_refused_by_it(tmp_path, run, told):
    model, optimizer = trained()
    save(tmp_path, {"format": 1, "config": {"lr": 1}}, TrainState(), model, optimizer)
    with pytest.raises(CheckpointError, match=f"of another version of alignrec_pyg .*{told}"):
        restore(tmp_path, run, TrainState(), model, optimizer)


def test_another_run_and_damage_are_refused(tmp_path):
    model, optimizer = trained()
    save(tmp_path, {"lr": 1, "seed": 0}, TrainState(), model, optimizer)
    with pytest.raises(CheckpointError, match=r"another run: .*\n  lr 2 \(saved 1\)$"):
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
    with pytest.raises(CheckpointError, match=r"delete this one\n  config.lr 2 \(saved 1\)$"):
        restore(tmp_path, other, TrainState(), model, optimizer)
    with pytest.raises(CheckpointError, match=r"\n  config.lr None \(saved 1\)\n"):
        restore(tmp_path, {"graphs": "a"}, TrainState(), model, optimizer)


def test_a_state_of_an_earlier_version_is_read(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    save(tmp_path, {}, TrainState(epoch=3, cpu_seconds=5.0), model, optimizer)
    manifest = read_manifest(tmp_path / "state.json")
    del manifest["state"]["cpu_seconds"]
    write_manifest(tmp_path / "state.json", manifest)
    found = TrainState()
    restore(tmp_path, {}, found, model, optimizer)
    assert (found.epoch, found.cpu_seconds) == (3, 0.0)


def test_time_goes_on_from_what_was_spent(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.process_time", lambda: now / 2)
    state = TrainState(seconds=7.0, cpu_seconds=3.0)
    clock = RunClock(state, save_every=10.0)
    now = 109.0
    clock.stamp()
    assert (state.seconds, state.cpu_seconds) == pytest.approx((16.0, 7.5))
    assert not clock.save_is_due()
    now = 110.0
    assert clock.save_is_due()
    with clock.saving():
        now = 110.25
    assert not clock.save_is_due()
    now = 119.0
    assert not clock.save_is_due()
    clock.stamp()
    assert (state.seconds, state.cpu_seconds) == pytest.approx((26.0, 12.5))


def test_saving_takes_a_twentieth_of_the_time_at_most(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock, always = (RunClock(TrainState(), save_every=every) for every in (10.0, 0.0))
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
