import copy
import math
import os
import signal

import pytest
import torch

import alignrec_pyg
from alignrec_pyg import (
    BPR,
    GRCN,
    VBPR,
    LightGCN,
    TrainingDivergedError,
    fit,
)
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.storage import read_manifest
from alignrec_pyg.training import run
from alignrec_pyg.training.sampling import TripletSampler
from tests.training.small_runs import build, small_config


def test_what_cannot_draw_neighbourhoods_says_so(checkerboard):
    train, test = checkerboard
    config = small_config(fan_out=(5, 5))
    with pytest.raises(ValueError, match="'fan_out' needs to be None for GRCN"):
        fit(GRCN(train), train, test, config)
    with pytest.raises(ValueError, match="an entry for each of the model's layers"):
        fit(LightGCN(train, num_layers=3), train, test, config)


def test_an_optimiser_that_fit_cannot_use_is_refused(checkerboard, tmp_path):
    train, test = checkerboard
    decayed = small_config(weight_decay=0.1)
    with pytest.raises(ValueError, match="'weight_decay' needs to be 0 where 'optimizer' is given"):
        fit(build(train), train, test, decayed, optimizer=torch.optim.AdamW)

    class Counting(torch.optim.SGD):
        def step(self):
            super().step()
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["count"] = 1

    with pytest.raises(ValueError, match=r"state of tensors .*Counting has optimizer.0.count = 1"):
        fit(
            build(train), train, test, small_config(),
            optimizer=Counting, checkpoint_dir=tmp_path, checkpoint_seconds=0,
        )  # fmt: skip


@pytest.mark.parametrize("autocast", ["bfloat16", "float16"])
def test_autocast_lowers_the_precision_of_the_forward_pass_alone(checkerboard, autocast):
    train, test = checkerboard
    seen, scored = [], []

    class Spy(VBPR):
        def loss_terms(self, data, batch):
            seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else 0)
            return super().loss_terms(data, batch)

        def forward(self, data):
            if not self.training:
                scored.append(torch.is_autocast_enabled("cpu"))
            return super().forward(data)

    def moved(cls, **changes):
        model = build(train, cls)
        before = [p.detach().clone() for p in model.parameters()]
        config = small_config(max_epochs=2, lr=1.0, clip_grad_norm=10.0, **changes)
        fit(model, train, test, config, optimizer=torch.optim.SGD)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        return torch.cat(
            [(a - b).flatten() for a, b in zip(model.parameters(), before, strict=True)]
        )

    lower = moved(Spy, autocast=autocast)
    assert set(seen) == {getattr(torch, autocast)}
    assert set(scored) == {False}
    exact = moved(VBPR)
    assert 0 < (lower - exact).norm() < 0.05 * exact.norm()


def test_the_scale_of_a_float16_loss_is_part_of_the_state(checkerboard, tmp_path):
    train, test = checkerboard

    def interrupt(epoch, metrics):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def run(**options):
        config = small_config(autocast="float16", max_epochs=2)
        fit(build(train), train, test, config, checkpoint_dir=tmp_path, **options)

    with pytest.raises(KeyboardInterrupt):
        run(report=interrupt)
    run()
    scale = read_manifest(tmp_path / "state.json")["state"]["loss_scale"]
    assert scale["_growth_tracker"] == 2 * 5  # batches without an infinite gradient


def test_a_surrounding_autocast_stays(checkerboard):
    train, test = checkerboard
    seen = []

    class Spy(BPR):
        def loss_terms(self, data, batch):
            seen.append(torch.is_autocast_enabled("cpu"))
            return super().loss_terms(data, batch)

    with torch.autocast("cpu", torch.bfloat16):
        fit(build(train, Spy), train, test, small_config(max_epochs=1))
    assert set(seen) == {True}


def test_validation_on_a_sample_of_users(checkerboard, monkeypatch):
    train, test = checkerboard
    labels = []
    original = run.evaluate_distributed

    def evaluate_noting(model, data, ks, workers):
        labels.append(data[INTERACTS].edge_label_index)
        return original(model, data, ks, workers)

    monkeypatch.setattr(run, "evaluate_distributed", evaluate_noting)

    def history(**changes):
        config = small_config(max_epochs=2, **changes)
        return fit(build(train), train, test, config).history

    assert [entry["num_users"] for entry in history(eval_users=13)] == [13, 13]
    assert history(eval_users=60)[0]["num_users"] == 50
    history(eval_users=13, seed=4)
    first, second, _, everyone, other, _ = labels
    assert torch.equal(first, second)
    assert torch.equal(everyone, test[INTERACTS].edge_label_index)
    assert first[0].unique().numel() == 13
    assert not torch.equal(first[0].unique(), other[0].unique())
    kept = torch.isin(everyone[0], first[0])
    assert torch.equal(first, everyone[:, kept])  # all links of each


def test_what_a_model_draws_depends_on_seed_epoch_and_batch(checkerboard):
    train, test = checkerboard
    drawn = []

    class Drawing(BPR):
        def on_epoch_start(self, data, generator) -> None:
            drawn.append(torch.rand(1, generator=generator).item())

        def on_batch_start(self, generator) -> None:
            drawn.append(torch.rand(1, generator=generator).item())

    for seed in (3, 4, 3):
        fit(build(train, Drawing), train, test, small_config(max_epochs=2, seed=seed))
    assert len(drawn) == 3 * 2 * (1 + 5)  # of 2 epochs with 5 batches
    assert drawn[:12] == drawn[24:]
    assert len(set(drawn)) == 24


def test_loss_that_is_not_finite_names_epoch_batch_and_term(checkerboard):
    train, test = checkerboard

    class Poisoned(BPR):
        calls = 0

        def loss_terms(self, data, batch):
            self.calls += 1
            terms = super().loss_terms(data, batch)
            if self.calls == 7:
                terms["reg"] = terms["reg"] * math.inf
            return terms

    num_batches = len(TripletSampler(train, batch_size=256))
    assert num_batches == 5
    with pytest.raises(TrainingDivergedError, match=r"epoch 2, batch 2: loss, loss/reg"):
        fit(build(train, Poisoned), train, test, small_config())


def test_term_of_weight_zero_may_be_infinite(checkerboard):
    train, test = checkerboard

    class Unweighted(BPR):
        def loss_terms(self, data, batch):
            terms = super().loss_terms(data, batch)
            return {**terms, "reg": terms["reg"] * math.inf}

    result = fit(build(train, Unweighted, reg_weight=0.0), train, test, small_config(max_epochs=1))
    assert math.isinf(result.history[0]["loss/reg"])


def test_diverged_parameters_are_not_saved(checkerboard, tmp_path):
    train, test = checkerboard

    class Poisoned(BPR):
        def on_batch_start(self, generator):
            self.item_embedding.weight.register_hook(lambda grad: grad * math.nan)

    with pytest.raises(TrainingDivergedError, match="item_embedding.weight is not finite after"):
        fit(
            build(train, Poisoned),
            train,
            test,
            small_config(batch_size=10_000, eval_every=3),
            checkpoint_dir=tmp_path,
            checkpoint_seconds=0,
        )
    assert [path.name for path in tmp_path.iterdir()] == [".alignrec.lock"]


def test_graphs_are_checked_before_training(checkerboard):
    train, test = checkerboard
    model = build(train)
    unsplit = copy.copy(test)
    del unsplit[INTERACTS].edge_label_index
    with pytest.raises(ValueError, match="'val' needs links to predict"):
        fit(model, train, unsplit)
    smaller = copy.copy(test)
    smaller["user"].num_nodes = 40
    with pytest.raises(ValueError, match=r"'val' needs the 50 users .* \(got 40 and 50\)"):
        fit(model, train, smaller)
    with pytest.raises(ValueError, match=r"'train' needs to be a HeteroData .* pass the \.data"):
        fit(model, [train], test)
    with pytest.raises(ValueError, match="'train' and the model need to be on one device"):
        fit(model.to("meta"), train, test)


def test_a_graph_is_prepared_once_for_each_part(checkerboard, monkeypatch):
    train, test = checkerboard
    test = test.clone()  # as .to("cuda") does: equal tensors, no longer shared
    builds = []
    build_graph = alignrec_pyg.models.base.user_item_adjacency

    def counting(*args):
        builds.append(args)
        return build_graph(*args)

    monkeypatch.setattr("alignrec_pyg.models.base.user_item_adjacency", counting)
    fit(build(train, LightGCN), train, test, small_config(max_epochs=5))
    assert len(builds) == 2
