from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from alignrec_pyg.training.parallel import Workers


def test_one_process_is_a_group_of_its_own():
    workers = Workers(torch.device("cpu"))
    assert (workers.rank, workers.size) == (0, 1)
    module = nn.Linear(2, 2)
    assert workers.wrap(module) is module
    assert isinstance(workers.accumulating(module), nullcontext)
    assert workers.sums([1, 2.5, True]) == [1.0, 2.5, 1.0]
    assert [workers.any(False), workers.any(True), workers.all_equal("a", "b")] == [
        False,
        True,
        True,
    ]
    module.weight.grad = torch.ones(2, 2)
    before = module.weight.clone()
    workers.broadcast_parameters(module)
    workers.add_gradients(module)
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
        workers.add_gradients(module)
        return {
            "place": (workers.rank, workers.size),
            "sums": workers.sums([1.5, float(rank)]),
            "any": [workers.any(rank == 1), workers.any(False)],
            "agree": [workers.all_equal("same", "facts"), workers.agree(f"{rank}")],
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
            "agree": [True, False],
            "weight": [5.0, 5.0],
            "gradient": [2.0, 5.0],
            "bias": None,
        }
