import copy
import os
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from alignrec_pyg import (
    BM3,
    BPR,
    FREEDOM,
    CheckpointError,
    LightGCN,
    TrainConfig,
    evaluate,
    fit,
)
from alignrec_pyg.graph import INTERACTS, NeighborSampling
from alignrec_pyg.nn.features import sparse_gradients
from alignrec_pyg.training.row_adam import RowAdam
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator
from tests.training.small_runs import build, same_weights, small_config


@pytest.mark.parametrize("interrupted", [False, True])
def test_fit_equals_a_plain_loop(checkerboard, tmp_path, interrupted):
    """Decay, weight decay and early stopping, also of a run that is stopped in its third epoch."""
    train, test = checkerboard
    config = TrainConfig(
        lr=0.01, lr_decay=0.5, lr_decay_epochs=3, weight_decay=0.01, batch_size=256, max_epochs=50,
        eval_every=1, patience=2, ks=(1,), monitor="recall@1", seed=3,
    )  # fmt: skip
    plain = build(train, LightGCN)
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, weight_decay=0.01)
    sampler = TripletSampler(train, batch_size=256, seed=3)
    best, num_stale, num_epochs = -1.0, 0, 0
    while num_stale <= 2:
        optimizer.param_groups[0]["lr"] = 0.01 * 0.5 ** (num_epochs / 3)
        for step in range(len(sampler)):
            optimizer.zero_grad()
            plain.loss(train, sampler.batch(num_epochs, step))[0].backward()
            optimizer.step()
        num_epochs += 1
        recall = evaluate(plain, test, ks=(1,))["recall@1"]
        num_stale += 1
        if recall > best:
            best, num_stale, weights = recall, 0, copy.deepcopy(plain.state_dict())
    assert 5 < num_epochs < 50

    class Interrupted(LightGCN):
        batches = 0

        def loss(self, data, batch):
            self.batches += 1
            if self.batches == 13:
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(data, batch)

    Interrupted.__name__ = "LightGCN"
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            fit(build(train, Interrupted), train, test, config, checkpoint_dir=tmp_path)
    model = build(train, LightGCN)
    result = fit(model, train, test, config, checkpoint_dir=tmp_path)
    assert result.num_epochs == num_epochs
    assert result.best_metrics["recall@1"] == pytest.approx(best)
    torch.testing.assert_close(dict(model.state_dict()), dict(weights), rtol=1e-4, atol=1e-4)


def test_sampled_steps_are_those_of_a_plain_loop(checkerboard):
    """Neighbourhoods by seed, epoch and batch; Adam on the rows that a step reads."""
    train, test = checkerboard
    config = small_config(fan_out=(3, 2, 2), max_epochs=2, eval_every=2, weight_decay=0.01)
    plain = build(train, LightGCN)
    optimizer = RowAdam(plain.parameters(), lr=0.01, weight_decay=0.01)
    sampler = TripletSampler(train, batch_size=256, seed=3)
    for epoch in range(2):
        for step in range(len(sampler)):
            draws = NeighborSampling((3, 2, 2), seeded_generator(3, epoch, 5, step))
            with sparse_gradients(plain):
                batch = replace(sampler.batch(epoch, step), sampling=draws)
                optimizer.zero_grad()
                plain.loss(train, batch)[0].backward()
            assert plain.user_embedding.weight.grad.is_sparse
            optimizer.step()
    model = build(train, LightGCN)
    fit(model, train, test, config)
    torch.testing.assert_close(list(model.parameters()), list(plain.parameters()))
    assert not model.user_embedding.sparse
    exact = build(train, LightGCN)
    fit(exact, train, test, replace(config, fan_out=None))
    assert not same_weights(exact, model)


def plain_steps(model, train, make_optimizer, num_epochs, *, clip=None, num_negatives=1):
    """Training as :func:`fit` does it, in float32 and without validation."""
    sampler = TripletSampler(train, batch_size=256, num_negatives=num_negatives, seed=3)
    optimizer = make_optimizer(model.parameters())
    for epoch in range(num_epochs):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * 0.5**epoch
        for step in range(len(sampler)):
            optimizer.zero_grad()
            model.loss(train, sampler.batch(epoch, step))[0].backward()
            if clip is not None:
                norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
                for p in model.parameters():
                    p.grad *= min(1.0, clip / float(norm))
            optimizer.step()
    return model


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"clip_grad_norm": 1e-4}, {}),
        ({"num_negatives": 3}, {}),
        ({}, {"optimizer": partial(torch.optim.SGD, momentum=0.9)}),
        ({"clip_grad_norm": 1e-4, "num_negatives": 2}, {"optimizer": torch.optim.Adagrad}),
    ],
)
def test_fit_equals_a_plain_loop_with_other_steps(checkerboard, tmp_path, changes, options):
    train, test = checkerboard
    config = small_config(max_epochs=3, eval_every=3, lr_decay=0.5, lr_decay_epochs=1, **changes)
    plain = plain_steps(
        build(train), train, options.get("optimizer", torch.optim.Adam), 3,
        clip=config.clip_grad_norm, num_negatives=config.num_negatives,
    )  # fmt: skip
    model = build(train)
    stopped = []

    def stop(epoch, metrics):
        stopped.append(epoch)

    result = fit(model, train, test, config, report=[stop], checkpoint_dir=tmp_path, **options)
    torch.testing.assert_close(list(model.parameters()), list(plain.parameters()))
    assert stopped == [3]
    again = build(train)
    found = fit(again, train, test, config, checkpoint_dir=tmp_path, **options)
    assert found.history == result.history
    assert same_weights(again, model)
    with pytest.raises(CheckpointError, match="(?m)^  optimizer AdamW .*saved"):
        fit(build(train), train, test, config, checkpoint_dir=tmp_path, optimizer=torch.optim.AdamW)


def test_an_optimiser_of_ones_own_continues_to_the_same_bits(checkerboard, tmp_path):
    train, test = checkerboard
    make = partial(torch.optim.SGD, momentum=0.9)
    whole = build(train)
    expected = fit(whole, train, test, small_config(), optimizer=make)

    def interrupt(epoch, metrics):
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    options = {"optimizer": make, "checkpoint_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        fit(build(train), train, test, small_config(), report=interrupt, **options)
    model = build(train)
    assert fit(model, train, test, small_config(), **options).history == expected.history
    assert same_weights(model, whole)


class Scripted(BPR):
    """Embeddings that reach a given recall@1 in each epoch, whatever the optimiser does."""

    recalls = ()
    epoch = -1

    def on_epoch_start(self, data, generator) -> None:
        self.epoch += 1

    def forward(self, data):
        right = torch.arange(50) < 50 * self.recalls[self.epoch]
        scores = torch.eye(50)
        scores[~right] *= -1
        return scores, torch.eye(50)


def scripted(train, recalls):
    model = build(train, Scripted)
    model.recalls = recalls
    return model


def test_stops_after_patience_plus_one_evaluations_without_improvement(checkerboard):
    train, test = checkerboard
    recalls = [0.2, 0.4, 0.4, 0.3, 0.4, 1.0]  # equal is no improvement
    config = small_config(max_epochs=6, patience=2, ks=(1,), monitor="recall@1")
    result = fit(scripted(train, recalls), train, test, config)
    assert result.num_epochs == 5  # stale at 3, 4, 5: three is more than two
    assert result.best_epoch == 2
    assert result.best_metrics["recall@1"] == pytest.approx(0.4)
    result = fit(
        scripted(train, recalls),
        train,
        test,
        small_config(max_epochs=6, patience=3, ks=(1,), monitor="recall@1"),
    )
    assert (result.num_epochs, result.best_epoch) == (6, 6)


def test_model_ends_with_the_weights_of_the_best_epoch(checkerboard):
    train, test = checkerboard
    config = small_config(lr=0.05, max_epochs=12, patience=20, ks=(1,), monitor="recall@1")
    model = build(train)
    result = fit(model, train, test, config)
    best = max(entry["recall@1"] for entry in result.history)
    assert result.best_metrics["recall@1"] == best
    assert evaluate(model, test, ks=(1,))["recall@1"] == best
    first = next(e["epoch"] for e in result.history if e["recall@1"] == best)
    assert result.best_epoch == first


def test_history_and_report(checkerboard):
    train, test = checkerboard
    reported = []
    result = fit(
        build(train),
        train,
        test,
        small_config(max_epochs=5, eval_every=2),
        report=lambda epoch, metrics: reported.append((epoch, metrics)),
    )
    assert [epoch for epoch, _ in reported] == [2, 4, 5]  # the last epoch is always evaluated
    assert [entry["epoch"] for entry in result.history] == [1, 2, 3, 4, 5]
    assert {"loss", "loss/bpr", "loss/reg", "lr"} <= result.history[0].keys()
    assert "recall@20" not in result.history[0]
    assert reported[0][1]["recall@20"] == result.history[1]["recall@20"]


def test_the_best_up_to_now_is_reported_also_after_an_interruption(
    checkerboard, tmp_path, monkeypatch
):
    train, test = checkerboard
    values = [0.1, 0.5, 0.3, 0.2, 0.6, 0.4, 0.1, 0.2]
    evaluations = iter([*values[:3], *values[2:]])  # the third epoch is trained again
    monkeypatch.setattr(
        "alignrec_pyg.training.run.evaluate_distributed",
        lambda *_: {"recall@1": next(evaluations), "recall@20": float(len(reported))},
    )
    reported = []

    def report(epoch, metrics):
        reported.append(metrics)
        if len(reported) == 3:
            raise RuntimeError("interrupted")

    def run():
        config = small_config(max_epochs=8, ks=(1, 20), monitor="recall@1", patience=8)
        return fit(
            build(train), train, test, config,
            report=report, checkpoint_dir=tmp_path, checkpoint_seconds=0,
        )  # fmt: skip

    with pytest.raises(RuntimeError, match="interrupted"):
        run()
    result = run()
    seen = {}
    for told in reported:
        seen[told["epoch"]] = told
    assert len(reported) == 9
    assert [seen[epoch]["recall@1"] for epoch in range(1, 9)] == values
    for epoch, told in seen.items():
        best = max(values[: int(epoch)])
        assert told["best_recall@1"] == best
        assert told["best_epoch"] == values.index(best) + 1
        assert told["best_recall@20"] == seen[told["best_epoch"]]["recall@20"]
    assert reported[-1]["best_recall@1"] == result.best_metrics["recall@1"]
    assert not any(name.startswith("best_") for entry in result.history for name in entry)


def test_history_holds_the_mean_of_the_terms(checkerboard):
    train, test = checkerboard
    seen = []

    class Spy(BPR):
        def loss(self, data, batch):
            total, terms = super().loss(data, batch)
            seen.append(terms["bpr"].item())
            return total, terms

    result = fit(build(train, Spy), train, test, small_config(max_epochs=1))
    assert result.history[0]["loss/bpr"] == pytest.approx(sum(seen) / len(seen))


def test_model_ends_in_evaluation_mode(checkerboard):
    train, test = checkerboard
    model = build(train, FREEDOM)
    fit(model, train, test, small_config(max_epochs=1))
    user = model(train)[0]
    assert torch.equal(user, model.eval()(train)[0])
    assert not torch.equal(user, model.train()(train)[0])  # the links of the last epoch only


def test_without_validation_the_model_ends_with_the_weights_of_the_last_epoch(
    checkerboard, tmp_path
):
    train, test = checkerboard
    config = small_config(lr=0.05, max_epochs=6, eval_every=6, patience=0)
    plain, model = build(train, BM3), build(train, BM3)
    expected = fit(plain, train, test, config)  # one evaluation, of the last epoch
    reported = []
    found = fit(model, train, None, config, report=lambda *told: reported.append(told))
    assert same_weights(model, plain)
    assert (found.num_epochs, found.best_epoch, found.best_metrics, reported) == (6, 6, {}, [])
    assert [e["loss"] for e in found.history] == [e["loss"] for e in expected.history]
    assert not model.training
    first = build(train, BM3)
    fit(first, train, None, replace(config, max_epochs=4), checkpoint_dir=tmp_path)
    longer = build(train, BM3)
    assert fit(longer, train, None, config, checkpoint_dir=tmp_path).num_epochs == 6
    assert same_weights(longer, plain)


def test_without_a_configuration_all_of_the_models_counts(checkerboard):
    class Own(BPR):
        @classmethod
        def train_config(cls, data):
            return TrainConfig(max_epochs=2, weight_decay=0.1, lr=0.5)

    train, test = checkerboard
    model = build(train, Own)
    taken = fit(model, train, test).config
    assert (taken.max_epochs, taken.weight_decay, taken.lr) == (2, 0.1, 0.5)
    rule = TrainConfig.for_links(train[INTERACTS].edge_index.size(1), lr=0.5)
    assert (taken.batch_size, taken.patience_steps) == (rule.batch_size, rule.patience_steps)
    given = fit(model, train, test, TrainConfig(max_epochs=1)).config
    assert (given.max_epochs, given.weight_decay, given.lr) == (1, 0.0, 0.5)
