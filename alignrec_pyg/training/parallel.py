"""Data-parallel training: the processes of a group, which train one model together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.metrics import evaluate
from alignrec_pyg.graph import content_hash, links_to_predict, with_links_to_predict
from alignrec_pyg.models import Recommender
from alignrec_pyg.training.state import TrainState


class WorkerLostError(RuntimeError):
    """Another worker of the process group has died, or does not answer."""


class Workers:
    """One process, or all of the process group that ``torchrun`` or Ray Train has set up.

    Args:
        device: Device of this worker.
        timeout: Seconds after which a worker that does not answer is given up (``None``: those
            that the process group was set up with). A worker waits for the others in each method;
            with the backend ``nccl`` torch then ends the process, with ``gloo`` the method raises
            :class:`WorkerLostError`, as it does, whatever the time, for a worker that died.
    """

    def __init__(self, device: torch.device, timeout: float | None = None) -> None:
        self.device = device
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.world_size = distributed.get_world_size() if together else 1
        self._tables: dict[nn.Parameter, None] = {}  # with sparse gradients: divided by rows
        self._patience = "in time" if timeout is None else f"for {timeout:g} s"
        self._group: distributed.ProcessGroup | None = None  # that of all processes
        if self.world_size > 1 and timeout is not None:  # a group alone has a timeout
            seconds = timedelta(seconds=timeout)
            self._group = self._together(distributed.new_group, timeout=seconds)

    def close(self) -> None:
        """Leaves the group; workers that wait for this one raise an error."""
        if self._group is not None:
            distributed.destroy_process_group(self._group)
            self._group = None

    def wrap(self, module: nn.Module) -> nn.Module:
        """``module``, with gradients averaged over the workers after a backward pass."""
        if self.world_size == 1:
            return module
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, process_group=self._group)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[None]:
        """A context in which gradients of a wrapped module are accumulated on this worker."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def all_reduce(self, values: Sequence[float] | Tensor) -> list[float]:
        """The sum of each value over all workers, on all of them."""
        numbers = values.tolist() if isinstance(values, Tensor) else list(map(float, values))
        if self.world_size == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        self._together(distributed.all_reduce, total, group=self._group)
        return total.tolist()

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any worker."""
        return flag if self.world_size == 1 else self.all_reduce([float(flag)])[0] > 0

    def all_equal(self, *values: str) -> bool:
        """Whether these strings are the same on all workers."""
        if self.world_size == 1:
            return True
        number = int(content_hash(*values)[:12], 16)  # 48 bits: a double holds them exactly
        ends = torch.tensor([number, -number], dtype=torch.float64, device=self.device)
        largest = distributed.ReduceOp.MAX
        self._together(distributed.all_reduce, ends, largest, group=self._group)
        return bool(ends.sum() == 0)

    def broadcast_parameters(self, module: nn.Module) -> None:
        """Gives all workers the parameters and buffers of rank 0."""
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                self._together(distributed.broadcast, tensor, 0, group=self._group)

    def average(self, values: Tensor) -> list[float]:
        """The mean of each value over all workers, on all of them."""
        return [value / self.world_size for value in self.all_reduce(values)]

    def average_gradients(self, module: nn.Module, *, scaled: bool = False) -> None:
        """Replaces every parameter's gradient by its mean over the workers.

        A table, whose gradients are sparse, is divided among the workers: each gets the gradient of
        the rows that it owns and updates these alone; :meth:`share_rows` gives them to the others.

        Args:
            module: The model.
            scaled: Whether a gradient scaler comes next. It passes over a step whose gradient is
                infinite, so then all workers get one that is, or none.
        """
        if self.world_size == 1:
            return
        trained = [p for p in module.parameters() if p.requires_grad]
        known = [p.grad is not None for p in trained]
        sparse = [p.grad is not None and p.grad.is_sparse for p in trained]
        # All workers choose the same way, also one whose batch does not depend on a parameter.
        counts = self.all_reduce([*known, *sparse])
        for parameter, num_known, num_sparse in zip(
            trained, counts[: len(trained)], counts[len(trained) :], strict=True
        ):
            if num_known == 0:
                continue
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            if num_sparse == num_known or parameter in self._tables:
                self._tables[parameter] = None
                parameter.grad = self._own_rows(gradient)
            else:
                parameter.grad = gradient.to_dense()
                self._together(distributed.all_reduce, parameter.grad, group=self._group)
            parameter.grad /= self.world_size
        if scaled:
            read = [p.grad for p in self._tables if p.grad is not None]
            if self.any(not all(bool(rows._values().isfinite().all()) for rows in read)):
                for parameter in trained:
                    if parameter.grad is not None:
                        parameter.grad *= math.nan

    def _own_rows(self, gradient: Tensor) -> Tensor:
        """The sum over the workers of those rows of a gradient that this worker owns."""
        gradient = gradient.coalesce() if gradient.is_sparse else gradient.to_sparse(1)
        rows, values = gradient.indices()[0], gradient.values()
        first = self._block(gradient) * torch.arange(self.world_size + 1, device=self.device)
        sent = torch.zeros(self.world_size, self.world_size)
        sent[self.rank] = torch.searchsorted(rows, first).diff()
        sent = torch.tensor(self.all_reduce(sent.flatten())).view_as(sent).long()
        sizes = sent[:, self.rank].tolist(), sent[self.rank].tolist()
        parts = []
        for part in (rows, values):
            parts.append(part.new_empty(sum(sizes[0]), *part.shape[1:]))
            self._together(
                distributed.all_to_all_single, parts[-1], part, *sizes, group=self._group
            )
        return torch.sparse_coo_tensor(
            parts[0].unsqueeze(0), parts[1], gradient.shape, check_invariants=False
        ).coalesce()

    @torch.no_grad()
    def share_rows(self) -> None:
        """Gives all workers the rows of tables that their owners have updated in this step."""
        for table in self._tables:
            if table.grad is None:
                continue
            own = table.grad._indices()[0]
            ranks = range(self.world_size)
            counts = self.all_reduce([own.numel() if n == self.rank else 0 for n in ranks])
            for rank, count in enumerate(map(int, counts)):
                rows = own if rank == self.rank else own.new_empty(count)
                values = table.new_empty(count, *table.shape[1:])
                if rank == self.rank:
                    torch.index_select(table, 0, rows, out=values)
                for part in (rows, values):
                    self._together(distributed.broadcast, part, rank, group=self._group)
                if rank != self.rank:
                    table.index_copy_(0, rows, values)

    def gather_rows(self, optimizer: torch.optim.Optimizer) -> None:
        """Gives all workers what the optimiser keeps of the rows that each of them owns."""
        for table in self._tables:
            for state in optimizer.state[table].values():
                if state.shape == table.shape:
                    for rank, block in enumerate(state.split(self._block(table))):
                        self._together(distributed.broadcast, block, rank, group=self._group)

    def _block(self, table: Tensor) -> int:
        """How many rows of a table a worker owns; the last one may own fewer."""
        return max(1, -(-table.size(0) // self.world_size))

    def clip_gradients(self, module: nn.Module, max_norm: float) -> None:
        """Shortens the gradients of all parameters to a norm of ``max_norm`` together."""
        if not self._tables:
            nn.utils.clip_grad_norm_(module.parameters(), max_norm)
            return
        known = {p: p.grad for p in module.parameters() if p.grad is not None}
        whole = [grad for table, grad in known.items() if table not in self._tables]
        rows = [grad._values() for table, grad in known.items() if table in self._tables]
        own, norm = (float(nn.utils.get_total_norm(part)) for part in (rows, whole))
        norm = math.hypot(norm, self.all_reduce([own**2])[0] ** 0.5)
        nn.utils.clip_grads_with_norm_(
            list(known), max_norm, torch.tensor(norm, device=self.device)
        )

    def barrier(self) -> None:
        """Waits until all workers have reached this point."""
        if self.world_size > 1:
            self._together(distributed.barrier, group=self._group)

    def _together(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """The result of an operation that all workers take part in."""
        try:
            return operation(*arguments, **options)
        except RuntimeError as error:
            raise WorkerLostError(
                f"worker {self.rank} of {self.world_size} lost another one (it died, or did not "
                f"answer {self._patience}): look at the output of that one; with "
                "'checkpoint_dir' the same call continues from the last save"
            ) from error


def evaluate_distributed(
    model: Recommender, data: HeteroData, ks: Sequence[int], workers: Workers
) -> dict[str, float]:
    """:func:`~alignrec_pyg.evaluate` with the users spread over the workers, equal on all."""
    if workers.world_size == 1:
        return evaluate(model, data, ks)
    label = links_to_predict(data)
    own = label[0].unique()[workers.rank :: workers.world_size]
    metrics = evaluate(model, with_links_to_predict(data, label[:, torch.isin(label[0], own)]), ks)
    num_users = metrics.pop("num_users")
    sums = [value * num_users for value in metrics.values()]
    *sums, total = workers.all_reduce([*sums, num_users])
    means = {name: value / total for name, value in zip(metrics, sums, strict=True)}
    return {**means, "num_users": total}


def check_workers(
    workers: Workers, run: Mapping[str, Any], saved: TrainState | None, val: HeteroData | None
) -> None:
    """Checks that all workers train the same run.

    ``saved`` is what each worker found in its ``checkpoint_dir``; ``None`` without one.
    """
    if not workers.all_equal(repr(run)):
        raise ValueError(
            f"the {workers.world_size} workers need the same model, graphs and settings (theirs "
            "differ)"
        )
    place = "nothing" if saved is None else f"{saved.epoch} epochs and {saved.step} batches"
    if not workers.all_equal(place):
        raise ValueError(
            f"'checkpoint_dir' needs to be one folder that all {workers.world_size} workers see "
            f"(they found different states; here: {place})"
        )
    if val is None:
        return
    num_users = links_to_predict(val, "val")[0].unique().numel()
    if num_users < workers.world_size:
        raise ValueError(
            "'val' needs a user with links to predict for each of the "
            f"{workers.world_size} workers (got {num_users}): take fewer workers"
        )
