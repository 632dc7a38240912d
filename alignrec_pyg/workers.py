"""The processes that train together: one, or those of torch.distributed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from alignrec_pyg.graph import content_hash


class Workers:
    """One process, or all of the process group that ``torchrun`` or Ray Train has set up.

    Args:
        device: The device of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.size = distributed.get_world_size() if together else 1

    def wrap(self, module: nn.Module) -> nn.Module:
        """``module``, with gradients averaged over the workers after a backward pass."""
        if self.size == 1:
            return module
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids)

    def accumulating(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within it, gradients of a wrapped module stay with the worker."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def sums(self, values: Sequence[float] | Tensor) -> list[float]:
        """Each value added up over the workers, the same everywhere."""
        numbers = values.tolist() if isinstance(values, Tensor) else list(map(float, values))
        if self.size == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is up anywhere."""
        return flag if self.size == 1 else self.sums([float(flag)])[0] > 0

    def agree(self, *facts: str) -> bool:
        """Whether all workers have the same facts."""
        if self.size == 1:
            return True
        number = int(content_hash(*facts)[:12], 16)  # 48 bits: a double holds them exactly
        ends = torch.tensor([number, -number], dtype=torch.float64, device=self.device)
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
        return bool(ends.sum() == 0)

    def take_first(self, module: nn.Module) -> None:
        """Gives all workers the first one's parameters and buffers."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, 0)

    def add_gradients(self, module: nn.Module) -> None:
        """Adds up every parameter's gradient over the workers."""
        if self.size > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)

    def barrier(self) -> None:
        """Waits until all are here."""
        if self.size > 1:
            distributed.barrier()
