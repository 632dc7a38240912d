"""Adam that touches only the rows of a table that a step reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_BLOCK = 1 << 18  # numbers: all that is read and made of a block stays in a processor's cache


class RowAdam(torch.optim.Adam):
    r"""Adam that updates only the rows of a parameter that its sparse gradient has.

    Dense gradients are treated as by :class:`torch.optim.Adam`. With a sparse one, moments and
    parameters of all other rows stay as they are, as in :class:`torch.optim.SparseAdam`: a row
    that no batch reads does not move on by its momentum, and its second moment does not decay in
    the meantime. The bias correction counts the steps of the table. Weight decay applies to the
    rows of the gradient.

    Args:
        params: Parameters to train.
        **options: Those of :class:`torch.optim.Adam`, without ``amsgrad`` and ``maximize``.
    """

    def __init__(self, params: Iterable[Tensor], **options: Any) -> None:
        super().__init__(params, **options)
        # Of fused Adam true: then a gradient scaler leaves scaled and infinite gradients to it.
        self._step_supports_amp_scaling = False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step along the gradients, which of tables are sparse."""
        loss = None if closure is None else closure()
        tables = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    tables.append((parameter, parameter.grad))
                    self._step_rows(group, parameter, parameter.grad.coalesce())
                    parameter.grad = None  # hidden from the dense step
        super().step()
        for parameter, gradient in tables:
            parameter.grad = gradient
        return loss

    @torch.no_grad()
    def _step_rows(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        rows, values, steps = gradient.indices()[0], gradient.values(), float(state["step"])
        length = max(1, rows.numel())
        if rows.device.type == "cpu":
            length = max(1, _BLOCK * length // max(1, values.numel()))
        for block, grad in zip(rows.split(length), values.split(length), strict=True):
            _step_block(group, steps, parameter, state, block, grad)


def _step_block(
    group: dict[str, Any],
    steps: float,
    parameter: Tensor,
    state: dict[str, Tensor],
    rows: Tensor,
    grad: Tensor,
) -> None:
    beta1, beta2 = group["betas"]
    # Taken and put back by whole rows: three quarters of the time of indexing.
    moved = parameter.index_select(0, rows)
    if group["weight_decay"]:
        grad = grad.add(moved, alpha=group["weight_decay"])
    mean = state["exp_avg"].index_select(0, rows).lerp_(grad, 1 - beta1)
    square = state["exp_avg_sq"].index_select(0, rows)
    square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    state["exp_avg"].index_copy_(0, rows, mean)
    state["exp_avg_sq"].index_copy_(0, rows, square)
    root = square.sqrt_().div_((1 - beta2**steps) ** 0.5).add_(group["eps"])
    moved.addcdiv_(mean, root, value=-group["lr"] / (1 - beta1**steps))
    parameter.index_copy_(0, rows, moved)
