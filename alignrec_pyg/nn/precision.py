"""Functions that compute in float32 under ``torch.autocast``."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def in_float32(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Makes a function compute in float32 under ``torch.autocast``.

    Tensors of less precision are converted, and autocast is off within. It also serves the forward
    and backward methods of autograd functions, of which :func:`torch.amp.custom_fwd` converts the
    former only, on one type of device.
    """

    @wraps(function)
    def wrapped(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        device = next(tensors).device.type
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            wide = {name: widened(value) for name, value in kwargs.items()}
            return function(*map(widened, args), **wide)

    return wrapped


def widened(value: Any) -> Any:
    """A tensor of less precision as float32; other values as they are."""
    narrow = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if narrow else value
