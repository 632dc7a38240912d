import pytest
import torch

from alignrec_pyg import BPR
from alignrec_pyg.train_state import TrainState, restore, save


def trained(toy):
    torch.manual_seed(0)
    model = BPR(toy)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.user_embedding.weight.sum().backward()
    model.item_embedding.weight.square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_round_trip(toy, tmp_path):
    model, optimizer = trained(toy)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = TrainState(epoch=3, step=1, best_epoch=2, best_metrics={"recall@20": 0.1 + 0.2})
    state.best_weights = weights
    save(tmp_path, {"run": 1}, state, model, optimizer)

    found = TrainState()
    other = BPR(toy)
    other_optimizer = torch.optim.Adam(other.parameters(), lr=0.1)
    restore(tmp_path, {"run": 1}, found, other, other_optimizer)
    assert found.epoch == 3
    assert found.best_metrics == state.best_metrics
    for name, value in weights.items():
        assert torch.equal(found.best_weights[name], value)
        assert torch.equal(other.state_dict()[name], value)
    for a, b in zip(
        optimizer.state_dict()["state"].values(),
        other_optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert torch.equal(value, b[name])


def test_nothing_saved_changes_nothing(toy, tmp_path):
    model, optimizer = trained(toy)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = TrainState()
    restore(tmp_path, {}, state, model, optimizer)
    assert state == TrainState()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_the_last_and_the_best_are_kept_and_the_best_is_written_once(toy, tmp_path):
    model, optimizer = trained(toy)
    weights = dict(model.state_dict())
    for epoch, best_epoch in ((1, 0), (2, 0), (3, 2)):
        state = TrainState(epoch=epoch, best_epoch=best_epoch, best_weights=weights)
        save(tmp_path, {}, state, model, optimizer)
        if epoch == 1:
            written = (tmp_path / "best-000000.safetensors").stat().st_mtime_ns
        if epoch == 2:
            assert (tmp_path / "best-000000.safetensors").stat().st_mtime_ns == written
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-000002.safetensors",
        "last-000003-000000.safetensors",
        "state.json",
    ]


def test_interruption_before_the_manifest_leaves_the_previous_state(toy, tmp_path, monkeypatch):
    model, optimizer = trained(toy)
    save(tmp_path, {}, TrainState(epoch=1), model, optimizer)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("alignrec_pyg.train_state.write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, {}, TrainState(epoch=2), model, optimizer)
    assert (tmp_path / "last-000002-000000.safetensors").exists()
    (tmp_path / "last-000009-000000.safetensors.123.part").write_bytes(b"half")
    found = TrainState()
    restore(tmp_path, {}, found, model, optimizer)
    assert found.epoch == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last-000001-000000.safetensors",
        "state.json",
    ]
