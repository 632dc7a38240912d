from __future__ import annotations

import pytest
import torch
from torch import nn

from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.pretraining import PretrainConfig
from alignrec_pyg.pretraining.step import PretrainState, Trainer, _parts, autocast, validate
from alignrec_pyg.training.parallel import Workers
from alignrec_pyg.training.run import TrainingDivergedError
from alignrec_pyg.training.state import restore, save


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
    with pytest.raises(TrainingDivergedError, match="epoch 1, step 1: loss, grad_norm, mim; "):
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


def test_round_trip(tmp_path):
    objective = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=0.1)
    state = PretrainState(epoch=2, step=5, sums={"mlm": 0.1 + 0.2}, history=[{"loss": 0.3}])
    save(tmp_path, {"run": 1}, state, objective, optimizer)
    found = PretrainState()
    restore(tmp_path, {"run": 1}, found, objective, optimizer)
    assert found == state


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_products_on_the_cpu(precision, dtype):
    with autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("supported", [True, False])
def test_bfloat16_where_the_gpu_has_it(monkeypatch, supported):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch, "autocast", lambda *args, enabled: asked.append((*args, enabled)))
    autocast(torch.device("cuda"), "auto")
    assert asked == [("cuda", torch.bfloat16, supported)]


@pytest.mark.parametrize("micro_batch_size", [1, 4, 100])
def test_means_over_all_pairs(stage1, micro_batch_size):
    """Against one batch of everything; the control depends on who is beside whom."""
    objective, pairs = stage1.objective(), stage1.pairs(9)
    config = PretrainConfig(micro_batch_size=micro_batch_size)
    metrics = validate(objective, pairs, config, Workers(torch.device("cpu")))
    batch = pairs[None, range(9)]
    with torch.no_grad():
        sums, counts = objective(batch), objective.counts(batch)
        control = objective(objective.control(batch))
        alone = objective.alone(batch)
    for term in ("mlm", "mim"):
        assert metrics[f"val_{term}"] == pytest.approx(float(sums[term]) / counts[term], rel=1e-4)
        correct = int(sums[f"{term}_correct"]) / counts[term]
        assert metrics[f"val_{term}_accuracy"] == pytest.approx(correct)
        expected = float(alone[term]) / counts[term]
        assert metrics[f"val_{term}_alone"] == pytest.approx(expected, rel=1e-4)
        if micro_batch_size == 100:
            expected = float(control[term]) / counts[term]
            assert metrics[f"val_{term}_control"] == pytest.approx(expected, rel=1e-4)
    assert metrics["val_loss"] == pytest.approx(metrics["val_mlm"] + metrics["val_mim"])
    assert {name.removesuffix("_accuracy") for name in metrics} == {
        "val_loss",
        "val_mlm",
        "val_mim",
        "val_mlm_control",
        "val_mim_control",
        "val_mlm_alone",
        "val_mim_alone",
    }
    assert objective.training


class OneOfThree(Workers):
    """A worker whose sums are noted instead of shared."""

    def __init__(self, rank):
        super().__init__(torch.device("cpu"))
        self.rank, self.world_size, self.seen = rank, 3, None

    def all_reduce(self, values):
        self.seen = torch.tensor(values)
        return list(values)


@pytest.mark.parametrize("count", [4, 13])
def test_workers_share_the_pairs(stage1, count):
    """Also where there are fewer parts than workers: the sums add up to those of one."""
    objective, pairs = stage1.objective(), stage1.pairs(count)
    config = PretrainConfig(micro_batch_size=2)
    alone = OneOfThree(0)
    alone.world_size = 1
    validate(objective, pairs, config, alone)
    shared = [OneOfThree(rank) for rank in range(3)]
    for worker in shared:
        validate(objective, pairs, config, worker)
    torch.testing.assert_close(sum(worker.seen for worker in shared), alone.seen)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (7, 3), (9, 4), (8, 4), (3, 2), (5, 100)])
def test_no_part_is_a_single_pair(count, size):
    parts = _parts(count, size)
    assert [pair for part in parts for pair in part] == list(range(count))
    assert all(2 <= len(part) <= max(2, size) + 1 for part in parts)


def test_one_pair_has_no_other_partner(stage1):
    with pytest.raises(ValueError, match="'val' needs two pairs or more"):
        validate(
            stage1.objective(), stage1.pairs(1), PretrainConfig(), Workers(torch.device("cpu"))
        )
