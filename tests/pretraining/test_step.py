from __future__ import annotations

import pytest
import torch

from alignrec_pyg.pretraining import PretrainConfig
from alignrec_pyg.pretraining.state import PretrainState
from alignrec_pyg.pretraining.step import Trainer
from alignrec_pyg.training.loop import StopRequest, TrainingDivergedError
from alignrec_pyg.training.parallel import Workers


def trainer(objective, **config):
    optimizer = torch.optim.SGD(objective.parameters(), lr=1.0)
    state = PretrainState()
    workers = Workers(torch.device("cpu"))
    return Trainer(objective, optimizer, PretrainConfig(**config), workers, state), state


def step(taken, parts, lr=0.1):
    return taken.step(parts, lr, StopRequest(active=False))


def long_and_short(stage1):
    """Pairs with very different numbers of hidden tokens."""
    pairs = stage1.pairs(6, mask_text=0.5)
    pairs.texts[0] = "red green blue grey red green"
    pairs.texts[4] = ""
    return pairs


@pytest.mark.parametrize("sizes", [(6,), (1, 2, 3), (1,) * 6])
def test_parts_give_the_gradient_of_the_whole_batch(stage1, sizes):
    pairs = long_and_short(stage1)
    whole = pairs[0, range(6)]
    objective = stage1.objective()
    sums, counts = objective(whole), objective.counts(whole)
    loss = sums["mlm"] / counts["mlm"] + sums["mim"] / counts["mim"]
    loss.backward()
    expected = [parameter.grad.clone() for parameter in objective.parameters()]

    start = 0
    parts = []
    for size in sizes:
        parts.append(pairs[0, range(start, start + size)])
        start += size
    taken, state = trainer(objective, clip_norm=1e6)
    assert step(taken, parts) is False
    for parameter, gradient in zip(objective.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
    means = taken.means()
    assert means["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert means["mlm"] == pytest.approx(float(sums["mlm"].detach()) / counts["mlm"], rel=1e-5)
    correct = int(sums["mim_correct"]) / counts["mim"]
    assert means["mim_accuracy"] == pytest.approx(correct)
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm()
    assert means["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert state.sums == {}


def test_long_gradients_are_shortened_and_the_rate_is_set(stage1):
    objective = stage1.objective()
    before = [parameter.detach().clone() for parameter in objective.parameters()]
    taken, _ = trainer(objective, clip_norm=0.01)
    step(taken, [stage1.pairs(4)[0, range(4)]], lr=0.5)
    moved = torch.cat(
        [(a - b).flatten() for a, b in zip(objective.parameters(), before, strict=True)]
    )
    assert float(moved.detach().norm()) == pytest.approx(0.5 * 0.01, rel=1e-3)
    assert taken.means()["grad_norm"] > 0.01


def test_means_are_over_steps(stage1):
    objective, pairs = stage1.objective(), stage1.pairs(8)
    taken, state = trainer(objective)
    losses = []
    for number in range(2):
        step(taken, [pairs[0, range(4 * number, 4 * number + 4)]], lr=0.0)
        losses.append(state.sums["loss"] - sum(losses))
    assert taken.means()["loss"] == pytest.approx(sum(losses) / 2)


def test_a_request_to_stop_is_passed_on(stage1):
    taken, _ = trainer(stage1.objective())
    stop = StopRequest(active=False)
    stop._received = 2
    assert taken.step([stage1.pairs(2)[0, range(2)]], 0.1, stop) is True


def test_what_is_not_finite_is_named_before_the_step(stage1):
    objective = stage1.objective()
    with torch.no_grad():
        objective.mim_head.bias[0] = float("nan")
    before = objective.mlm_head.weight.clone()
    taken, _ = trainer(objective)
    with pytest.raises(TrainingDivergedError, match="epoch 0, step 0: loss, grad_norm, mim "):
        step(taken, [stage1.pairs(2)[0, range(2)]])
    assert torch.equal(objective.mlm_head.weight, before)


def test_half_precision_is_close(stage1):
    objective, batch = stage1.objective(), stage1.pairs(6)[0, range(6)]
    losses = []
    for precision in ("float32", "bfloat16"):
        taken, _ = trainer(objective, precision=precision)
        step(taken, [batch], lr=0.0)
        losses.append(taken.means()["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in objective.parameters())
