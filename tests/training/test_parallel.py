"""Several workers against one: the same steps, up to rounding."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from alignrec_pyg import (
    BM3,
    FREEDOM,
    LATTICE,
    AlignRec,
    LightGCN,
    SLMRec,
    TrainConfig,
    evaluate,
    fit,
)
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import Recommender
from alignrec_pyg.nn import bpr_loss
from alignrec_pyg.storage import read_manifest
from alignrec_pyg.training.parallel import Workers


def test_one_process_is_a_group_of_its_own():
    workers = Workers(torch.device("cpu"))
    assert (workers.rank, workers.world_size) == (0, 1)
    module = nn.Linear(2, 2)
    assert workers.wrap(module) is module
    assert isinstance(workers.no_sync(module), nullcontext)
    assert workers.all_reduce([1, 2.5, True]) == [1.0, 2.5, 1.0]
    assert [workers.any(False), workers.any(True), workers.all_equal("a", "b")] == [
        False,
        True,
        True,
    ]
    module.weight.grad = torch.ones(2, 2)
    before = module.weight.clone()
    workers.broadcast_parameters(module)
    workers.all_reduce_gradients(module)
    assert torch.equal(module.weight, before)
    assert torch.equal(module.weight.grad, torch.ones(2, 2))
    workers.barrier()


def test_two_processes_add_up_agree_and_take_the_first(two_processes):
    def work(rank):
        workers = Workers(torch.device("cpu"))
        module = nn.Linear(1, 2)
        nn.init.constant_(module.weight, 5.0 + rank)
        module.weight.grad = torch.tensor([[1.0], [2.0 + rank]])
        workers.broadcast_parameters(module)
        workers.all_reduce_gradients(module)
        return {
            "place": (workers.rank, workers.world_size),
            "sums": workers.all_reduce([1.5, float(rank)]),
            "any": [workers.any(rank == 1), workers.any(False)],
            "equal": [workers.all_equal("same", "facts"), workers.all_equal(f"{rank}")],
            "weight": module.weight.detach().flatten().tolist(),
            "gradient": module.weight.grad.flatten().tolist(),
            "bias": module.bias.grad,
        }

    both = two_processes.run(work)
    assert [found.pop("place") for found in both] == [(0, 2), (1, 2)]
    for found in both:
        assert found == {
            "sums": [3.0, 1.0],
            "any": [True, False],
            "equal": [True, False],
            "weight": [5.0, 5.0],
            "gradient": [2.0, 5.0],
            "bias": None,
        }


# in-batch losses, draws of an epoch and of a batch, a graph of the first batch, frozen features
MODELS = [AlignRec, BM3, FREEDOM, LATTICE, LightGCN, SLMRec]


def config(**changes) -> TrainConfig:
    return TrainConfig(**{"lr": 0.01, "batch_size": 250, "max_epochs": 2, "seed": 3, **changes})


def trained(model_cls, graphs, seed=0, **options):
    """Final vectors and history; the last batch of an epoch is shorter."""
    torch.manual_seed(seed)
    model = model_cls(graphs[0], embedding_dim=8)
    result = fit(model, *graphs, options.pop("config", config()), **options)
    with torch.no_grad():
        return {"vectors": model(graphs[0]), "history": result.history, "best": result.best_metrics}


def assert_the_same(found, expected):
    for one, two in zip(expected["vectors"], found["vectors"], strict=True):
        torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-3)
    assert len(found["history"]) == len(expected["history"])
    for one, two in zip(expected["history"], found["history"], strict=True):
        assert two == pytest.approx(one, rel=1e-3, abs=1e-5)


def test_two_processes_do_what_one_does(checkerboard, two_processes):
    """Of all workers the first one's initial weights are taken."""
    expected = {cls: trained(cls, checkerboard) for cls in MODELS}
    both = two_processes.run(lambda rank: [trained(cls, checkerboard, seed=rank) for cls in MODELS])
    for cls, *found in zip(MODELS, *both, strict=True):
        assert found[0]["history"] == found[1]["history"], cls
        for one, two in zip(*(f["vectors"] for f in found), strict=True):
            assert torch.equal(one, two), cls
        assert found[0]["best"]["num_users"] == 50
        assert_the_same(found[0], expected[cls])


class Stopped(BM3):
    """Asked to stop in a batch, on the second worker only."""

    batches = 0

    def loss(self, data, batch):
        self.batches += 1
        if self.batches == 7 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(data, batch)


Stopped.__name__ = "BM3"


def test_a_stopped_run_goes_on_exactly_and_by_one_worker_too(checkerboard, two_processes):
    folder = two_processes.folder

    def whole_and_stopped(rank):
        """All in one go; in a second group until the signal comes, then on to the end."""
        found = [trained(BM3, checkerboard, checkpoint_dir=folder / "whole")]
        for name in ("stopped", "for one"):
            with pytest.raises(SystemExit):
                trained(Stopped, checkerboard, checkpoint_dir=folder / name)
        found.append(trained(BM3, checkerboard, checkpoint_dir=folder / "stopped"))
        return found

    (whole, resumed), _ = two_processes.run(whole_and_stopped)
    state = read_manifest(folder / "for one" / "state.json")["state"]
    assert (state["epoch"], state["step"]) == (1, 2)
    assert resumed["history"] == whole["history"]
    assert all(torch.equal(a, b) for a, b in zip(whole["vectors"], resumed["vectors"], strict=True))
    assert_the_same(trained(BM3, checkerboard, checkpoint_dir=folder / "for one"), whole)


class MeanOfItsOwn(LightGCN):
    """Written as if a batch were always whole: of shares it gives means of their own."""

    def loss_terms(self, data, batch):
        user_x, item_x = self(data)
        user, pos, neg = user_x[batch.user], item_x[batch.pos_item], item_x[batch.neg_item]
        terms = super().loss_terms(data, batch)
        return {**terms, "bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1))}


def refusal(work) -> str:
    with pytest.raises(ValueError) as error:
        work()
    return str(error.value)


def test_what_cannot_be_shared_is_refused_on_all_workers(checkerboard, two_processes):
    train, test = checkerboard
    few = test.clone()
    few[INTERACTS].edge_label_index = test[INTERACTS].edge_label_index[:, :1]

    def work(rank):
        return [
            refusal(lambda: trained(MeanOfItsOwn, checkerboard)),
            refusal(lambda: trained(LightGCN, checkerboard, config=config(seed=rank))),
            refusal(lambda: trained(LightGCN, (train, few))),
        ]

    for shares, settings, users in two_processes.run(work):
        assert "MeanOfItsOwn cannot be trained by 2 workers" in shares
        assert "'bpr': (" in shares
        assert "'reg'" not in shares
        assert "workers need the same model, graphs and settings" in settings
        assert "a user with links to predict for each of the 2 workers (got 1)" in users


def test_a_folder_of_one_worker_only_is_refused(checkerboard, two_processes):
    """As where machines do not share a disk."""
    first = two_processes.folder / "0"
    trained(LightGCN, checkerboard, config=config(max_epochs=1), checkpoint_dir=first)

    def work(rank):
        folder = two_processes.folder / str(rank)
        options = {"config": config(max_epochs=1), "checkpoint_dir": folder}
        return refusal(lambda: trained(LightGCN, checkerboard, **options))

    found = two_processes.run(work)
    assert "one folder that all 2 workers see" in found[0]
    assert ["here: 1 epochs and 0 batches" in found[0], "here: 0 epochs" in found[1]] == [True] * 2


def test_one_worker_evaluates_as_ever(checkerboard):
    train, test = checkerboard
    torch.manual_seed(0)
    model: Recommender = LightGCN(train, embedding_dim=8)
    result = fit(model, train, test, config(max_epochs=1))
    assert result.best_metrics == evaluate(model, test)
