"""Several workers against one that takes their batches itself and averages the gradients."""

from __future__ import annotations

import copy
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

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
from alignrec_pyg.graph import INTERACTS, NeighborSampling, with_links_to_predict
from alignrec_pyg.models import Recommender
from alignrec_pyg.storage import CheckpointError, read_manifest
from alignrec_pyg.training.parallel import WorkerLostError, Workers
from alignrec_pyg.training.row_adam import RowAdam
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator


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
    workers.average_gradients(module)
    assert workers.average(torch.tensor([1.0, 3.0])) == [1.0, 3.0]
    assert torch.equal(module.weight, before)
    assert torch.equal(module.weight.grad, torch.ones(2, 2))
    workers.barrier()


def test_two_processes_add_up_average_agree_and_take_the_first(two_processes):
    def work(rank):
        workers = Workers(torch.device("cpu"))
        module = nn.Linear(1, 2)
        nn.init.constant_(module.weight, 5.0 + rank)
        module.weight.grad = torch.tensor([[1.0], [2.0 + rank]])
        workers.broadcast_parameters(module)
        workers.average_gradients(module)
        return {
            "place": (workers.rank, workers.world_size),
            "sums": workers.all_reduce([1.5, float(rank)]),
            "means": workers.average(torch.tensor([1.5, float(rank)])),
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
            "means": [1.5, 0.5],
            "any": [True, False],
            "equal": [True, False],
            "weight": [5.0, 5.0],
            "gradient": [1.0, 2.5],
            "bias": None,
        }


def test_gradients_that_one_process_lacks_or_has_of_rows_alone(two_processes):
    """Two processes with sparse and with dense gradients, and with one or none.

    Of sparse ones the first process gets the first two rows, the second one the last.
    """

    def work(rank):
        workers = Workers(torch.device("cpu"), 20)
        tables = nn.ParameterList(nn.Parameter(torch.zeros(3, 1)) for _ in range(4))
        rows, values = torch.tensor([[2 * rank, 2]]), torch.tensor([[2.0], [4.0]])
        of_rows = torch.sparse_coo_tensor(rows, values, (3, 1), check_invariants=False)

        def gradients():
            tables[0].grad = of_rows.clone()
            tables[1].grad = of_rows.clone() if rank == 0 else None
            tables[2].grad = of_rows.to_dense() if rank == 0 else of_rows.clone()
            tables[3].grad = None if rank == 0 else of_rows.to_dense()

        gradients()
        workers.average_gradients(tables)
        found = [(p.grad.is_sparse, p.grad.to_dense().flatten().tolist()) for p in tables]
        gradients()
        tables[0].grad = of_rows.to_dense()  # it stays divided
        workers.average_gradients(tables)
        assert tables[0].grad.is_sparse
        before = [table.grad.clone().to_dense() for table in tables]
        workers.clip_gradients(tables, 0.5)
        shares = [(p.grad.to_dense() / x).nanmean() for p, x in zip(tables, before, strict=True)]
        workers.close()
        return found, shares

    (first, shares), (second, other_shares) = two_processes.run(work)
    assert first == [
        (True, [1.0, 0.0, 0.0]),
        (True, [1.0, 0.0, 0.0]),
        (False, [1.0, 0.0, 5.0]),
        (False, [0.0, 0.0, 3.0]),
    ]
    assert second == [
        (True, [0.0, 0.0, 5.0]),
        (True, [0.0, 0.0, 2.0]),
        *first[2:],
    ]
    whole = torch.tensor([1.0, 5.0, 1.0, 2.0, 1.0, 5.0, 3.0])
    expected = 0.5 / whole.norm()
    for share in [*shares, *other_shares]:
        torch.testing.assert_close(share, expected)


def test_rows_that_one_process_owns_reach_the_other(two_processes):
    """Values after a step; what an optimiser keeps of them where it is asked for."""

    def work(rank):
        workers = Workers(torch.device("cpu"), 20)
        table = nn.Parameter(torch.zeros(5, 2))
        optimizer = torch.optim.Adagrad([table], lr=1.0)
        for rows in ([0, 1 + rank], [3 - rank]):
            optimizer.zero_grad()
            read = torch.nn.functional.embedding(torch.tensor(rows), table, sparse=True)
            (read + 1).pow(2).sum().backward()
            workers.average_gradients(nn.ParameterList([table]))
            optimizer.step()
            workers.share_rows()
        workers.gather_rows(optimizer)
        workers.close()
        return table.detach(), optimizer.state[table]["sum"]

    both = two_processes.run(work)
    table = nn.Parameter(torch.zeros(5, 2))
    optimizer = torch.optim.Adagrad([table], lr=1.0)
    for rows in ([0, 0, 1, 2], [3, 2]):
        optimizer.zero_grad()
        ((table[rows] + 1).pow(2).sum() / 2).backward()
        optimizer.step()
    for found in both:
        torch.testing.assert_close(found, (table.detach(), optimizer.state[table]["sum"]))


def test_an_infinite_gradient_of_one_process_is_all_processes(two_processes):
    def work(rank):
        workers = Workers(torch.device("cpu"), 20)
        table, factor = nn.Parameter(torch.zeros(4, 1)), nn.Parameter(torch.ones(1))
        values = torch.tensor([[1.0], [torch.inf if rank == 0 else 1.0]])
        table.grad = torch.sparse_coo_tensor(
            torch.tensor([[0, 3]]), values, (4, 1), check_invariants=False
        )
        factor.grad = torch.ones(1)
        workers.average_gradients(nn.ParameterList([table, factor]), scaled=True)
        workers.close()
        return [bool(p.grad.to_dense().isfinite().all()) for p in (table, factor)]

    assert two_processes.run(work) == [[False, False]] * 2


# in-batch losses, draws of an epoch and of a batch, a graph of the first batch, frozen features
MODELS = [AlignRec, BM3, FREEDOM, LATTICE, LightGCN, SLMRec]


def config(**changes) -> TrainConfig:
    usual = {"lr": 0.01, "batch_size": 250, "max_epochs": 3, "seed": 3}
    return TrainConfig(**{**usual, "eval_every": 1, "patience": 20, **changes})


def trained(model_cls, graphs, seed=0, **options):
    """Final vectors and history; five batches an epoch, so that the last step begins anew."""
    torch.manual_seed(seed)
    model = model_cls(graphs[0], embedding_dim=8)
    result = fit(model, *graphs, options.pop("config", config()), **options)
    with torch.no_grad():
        return {"vectors": model(graphs[0]), "history": result.history, "best": result.best_metrics}


def averaged(model_cls, train, batch_size=250, fan_out=None):
    """Losses of an epoch of steps along the mean gradient of two batches, by hand."""
    torch.manual_seed(0)
    model = model_cls(train, embedding_dim=8)
    other = copy.deepcopy(model)
    for worker in (model, other):
        worker.on_epoch_start(train, seeded_generator(3, 0, 1))
        for table in (part for part in worker.modules() if isinstance(part, nn.Embedding)):
            table.sparse = fan_out is not None
    optimizer = (torch.optim.Adam if fan_out is None else RowAdam)(model.parameters(), lr=0.01)
    sampler = TripletSampler(train, batch_size=batch_size, seed=3)
    losses = []
    for pair in torch.arange(len(sampler) + len(sampler) % 2).view(-1, 2) % len(sampler):
        optimizer.zero_grad()
        other.zero_grad()
        for worker, number in zip((model, other), pair.tolist(), strict=True):
            batch = sampler.batch(0, number)
            if fan_out is not None:
                draws = NeighborSampling(fan_out, seeded_generator(3, 0, 5, number))
                batch = replace(batch, sampling=draws)
            worker.on_batch_start(seeded_generator(3, 0, 2, number))
            loss, _ = worker.loss(train, batch)
            (loss / 2).backward()
            losses.append(loss.item())
        for mine, its in zip(model.parameters(), other.parameters(), strict=True):
            if its.grad is not None:
                mine.grad = its.grad if mine.grad is None else mine.grad + its.grad
        optimizer.step()
        with torch.no_grad():
            for mine, its in zip(model.parameters(), other.parameters(), strict=True):
                its.copy_(mine)
    return torch.tensor(losses).mean().item(), list(model.parameters())


def test_two_processes_step_along_the_mean_of_their_gradients(checkerboard, two_processes):
    """From the first one's initial weights."""

    def work(rank):
        found = []
        for cls in MODELS:
            torch.manual_seed(rank)
            model = cls(checkerboard[0], embedding_dim=8)
            found.append(
                (fit(model, *checkerboard, config(max_epochs=1)), list(model.parameters()))
            )
        return found, sampled(rank)

    some = with_links_to_predict(checkerboard[0], checkerboard[0][INTERACTS].edge_index[:, ::8])

    def sampled(rank):
        """Of sampled neighbourhoods only rows that were read are sent."""
        torch.manual_seed(rank)
        model = LightGCN(some, embedding_dim=8)
        sent = []
        exchanged = torch.distributed.all_to_all_single
        torch.distributed.all_to_all_single = lambda out, x, *sizes, group: (
            sent.append(x.numel()) or exchanged(out, x, *sizes, group=group)
        )
        settings = config(max_epochs=1, fan_out=(2, 1, 1), batch_size=4)
        result = fit(model, some, checkerboard[1], settings)
        torch.distributed.all_to_all_single = exchanged
        return max(sent), result, list(model.parameters())

    (first, (largest, result, tables)), (second, (*_, other_tables)) = two_processes.run(work)
    assert 0 < largest < 0.9 * max(table.numel() for table in tables)
    loss, expected = averaged(LightGCN, some, 4, (2, 1, 1))
    assert result.history[0]["loss"] == pytest.approx(loss, rel=1e-5)
    for one, two, three in zip(tables, other_tables, expected, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-4)
    for cls, (result, parameters), (other, same) in zip(MODELS, first, second, strict=True):
        assert result.history == other.history, cls
        assert result.best_metrics["num_users"] == 50
        loss, expected = averaged(cls, checkerboard[0])
        assert result.history[0]["loss"] == pytest.approx(loss, rel=1e-4), cls
        for one, two, three in zip(parameters, same, expected, strict=True):
            assert torch.equal(one, two), cls
            torch.testing.assert_close(one, three, atol=1e-4, rtol=1e-3)


class Stopped(BM3):
    """Asked to stop in a batch, on the second worker only."""

    batches = 0

    def loss(self, data, batch):
        self.batches += 1
        if self.batches == 7 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(data, batch)


Stopped.__name__ = "BM3"


def test_a_stopped_run_goes_on_exactly(checkerboard, two_processes):
    """Also where each process knows the moments of its rows alone."""
    kinds = {"all": config(), "drawn": config(fan_out=(2,))}

    def whole_and_stopped(rank):
        """All in one go; in a second group until the signal comes, then on to the end."""
        found = []
        for name, settings in kinds.items():
            folder = two_processes.folder / name
            options = {"config": settings, "checkpoint_dir": folder / "stopped"}
            whole = trained(BM3, checkerboard, config=settings)
            with pytest.raises(SystemExit):
                trained(Stopped, checkerboard, **options)
            state = read_manifest(folder / "stopped" / "state.json")["state"]
            found.append((whole, trained(BM3, checkerboard, **options), state))
        return found

    for whole, resumed, state in two_processes.run(whole_and_stopped)[0]:
        assert (state["epoch"], state["step"]) == (2, 1)
        assert resumed["history"] == whole["history"]
        assert all(map(torch.equal, whole["vectors"], resumed["vectors"]))
    with pytest.raises(CheckpointError, match="workers"):
        trained(BM3, checkerboard, checkpoint_dir=two_processes.folder / "all" / "stopped")


class Leaving(BM3):
    """Leaves in a batch of the second epoch, on the second worker only."""

    batches = 0
    leave = staticmethod(lambda: None)

    def loss(self, data, batch):
        self.batches += 1
        if self.batches == 5 and torch.distributed.get_rank() == 1:
            self.leave()
        return super().loss(data, batch)


Leaving.__name__ = "BM3"


def lost(graphs, **options) -> tuple[str, str]:
    """What ``fit`` says of another worker, and what it was told of it."""
    with pytest.raises(WorkerLostError) as error:
        trained(Leaving, graphs, **options)
    return str(error.value), str(error.value.__cause__)


def test_a_worker_that_dies_is_told(checkerboard, two_processes, monkeypatch):
    """At once, and the run goes on from its last save."""
    monkeypatch.setattr(Leaving, "leave", lambda self: os._exit(0))
    options = {"checkpoint_dir": two_processes.folder / "run", "checkpoint_seconds": 0}
    (told, cause), nothing = two_processes.run(lambda _: lost(checkerboard, **options))
    assert nothing is None
    assert told.startswith("worker 0 of 2 lost another one (it died, or did not answer for 600 s)")
    assert "the same call continues from the last save" in told
    assert "losed by peer" in cause or "reset by peer" in cause
    state = read_manifest(two_processes.folder / "run" / "state.json")["state"]
    assert (state["epoch"], state["step"]) == (1, 1)

    resumed, whole = (
        two_processes.run(lambda _, options=options: trained(BM3, checkerboard, **options))[0]
        for options in (options, {})
    )
    assert resumed["history"] == whole["history"]


def test_a_worker_that_hangs_is_given_up(checkerboard, two_processes, monkeypatch):
    given_up = two_processes.folder / "given up"

    def hang(_):
        end = time.monotonic() + 60
        while not given_up.exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert given_up.exists()

    def work(rank):
        told = lost(checkerboard, worker_timeout=2)
        given_up.touch()
        return told

    monkeypatch.setattr(Leaving, "leave", hang)
    (first, cause), (second, _) = two_processes.run(work)
    assert first.startswith("worker 0 of 2 lost another one (it died, or did not answer for 2 s)")
    assert "imed out" in cause
    assert second.startswith("worker 1 of 2 lost another one")


def test_a_timeout_is_positive(checkerboard):
    assert "'worker_timeout'" in refusal(lambda: trained(BM3, checkerboard, worker_timeout=0))


def refusal(work) -> str:
    with pytest.raises(ValueError) as error:
        work()
    return str(error.value)


def test_workers_that_would_differ_are_refused(checkerboard, two_processes):
    train, test = checkerboard
    few = test.clone()
    few[INTERACTS].edge_label_index = test[INTERACTS].edge_label_index[:, :1]

    def work(rank):
        return [
            refusal(lambda: trained(LightGCN, checkerboard, config=config(seed=rank))),
            refusal(lambda: trained(LightGCN, (train, few))),
            refusal(
                lambda: trained(
                    LightGCN,
                    checkerboard,
                    config=config(fan_out=(2, 2, 2)),
                    optimizer=partial(torch.optim.SGD, momentum=0.9),
                )
            ),
        ]

    for settings, users, momentum in two_processes.run(work):
        assert "workers need the same model, graphs and settings" in settings
        assert "a user with links to predict for each of the 2 workers (got 1)" in users
        assert "'optimizer' needs to be without momentum" in momentum


def test_a_folder_of_one_worker_only_is_refused(checkerboard, two_processes):
    """As where machines do not share a disk."""

    def work(rank):
        first, own = (two_processes.folder / name for name in ("0", str(rank)))
        options = {"config": config(max_epochs=1)}
        trained(LightGCN, checkerboard, **options, checkpoint_dir=first)
        return refusal(lambda: trained(LightGCN, checkerboard, **options, checkpoint_dir=own))

    found = two_processes.run(work)
    assert "one folder that all 2 workers see" in found[0]
    assert ["here: 1 epochs and 0 batches" in found[0], "here: 0 epochs" in found[1]] == [True] * 2


def test_one_worker_evaluates_as_ever(checkerboard):
    train, test = checkerboard
    torch.manual_seed(0)
    model: Recommender = LightGCN(train, embedding_dim=8)
    result = fit(model, train, test, config(max_epochs=1))
    assert result.best_metrics == evaluate(model, test)
