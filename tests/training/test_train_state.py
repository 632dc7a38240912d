import torch

from alignrec_pyg import BPR
from alignrec_pyg.training.state import TrainState, restore, save


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
