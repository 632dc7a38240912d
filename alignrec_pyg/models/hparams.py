"""Hyper-parameters of models: the arguments of a constructor, checked, listed and given again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import numpy as np
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_choice, check_integer, check_number

ModelT = TypeVar("ModelT", bound="HyperParameters")

MAX_DIM = 1 << 16  # a larger width is a typing error, which would take all memory
_MAX_INTEGER = 1 << 63


class HyperParameters(nn.Module):
    """A module that stores the arguments of its constructor.

    Every argument of the constructor after ``data`` is a hyper-parameter, stored as an attribute of
    the same name.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Hyper-parameters have the types of the constructor's arguments."""

    def __new__(cls: type[ModelT], *args: Any, **kwargs: Any) -> ModelT:
        """Stores the hyper-parameters, so that a subclass need not do it."""
        model = super().__new__(cls)
        positional = zip(cls.hparam_parameters(), args[1:], strict=False) if args[1:] else ()
        given = {**dict(positional), **kwargs}
        model.__dict__["_given"] = {
            name: value
            for name, value in given.items()
            if not isinstance(value, HeteroData | Tensor | nn.Module)
        }
        return model

    def set_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Stores arguments as attributes, ``locals()`` of a constructor.

        Raises:
            ValueError: If one is not of its annotated type, or out of range.
        """
        for name, parameter in self.hparam_parameters().items():
            if name in hparams:
                _check_hparam(name, hparams[name], parameter.annotation)
        for name, value in hparams.items():
            if name not in ("self", "data", "__class__"):
                setattr(self, name, value)

    @property
    def hparams(self) -> dict[str, Any]:
        """The keyword arguments that build this model again."""
        given = self.__dict__.get("_given", {})
        return {
            name: _plain(getattr(self, name, given.get(name, parameter.default)))
            for name, parameter in self.hparam_parameters().items()
        }

    @classmethod
    def hparam_parameters(cls) -> dict[str, inspect.Parameter]:
        """The arguments of the constructor after ``data``, with their defaults, by name.

        Where a constructor hands ``**kwargs`` on, those of the next class follow.
        """
        found: dict[str, inspect.Parameter] = {}
        for base in cls.__mro__:
            if "__init__" not in vars(base):
                continue
            signature = _signature(vars(base)["__init__"])
            parameters = list(signature.parameters.values())[2:]
            for parameter in parameters:
                if parameter.kind is not parameter.VAR_KEYWORD:
                    found.setdefault(parameter.name, parameter)
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
                break
        return found

    def clone_for(self: ModelT, data: HeteroData) -> ModelT:
        """An untrained model with the arguments of this one, on other data."""
        return type(self)(data, **self.hparams)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # imported for type checkers only
        return inspect.signature(function)


def _check_hparam(name: str, value: Any, kind: Any) -> None:
    """Checks a hyper-parameter by its annotated type, and by its name as all models use it."""
    if get_origin(kind) is Literal:
        check_choice(name, value, get_args(kind))
    elif kind is bool and not isinstance(value, bool | np.bool_):
        raise ValueError(f"'{name}' needs to be True or False (got {value!r})")
    elif kind is int:
        least = 0 if name.startswith("num_") or name.endswith("_dim") else -_MAX_INTEGER
        check_integer(name, value, least, MAX_DIM if name.endswith("_dim") else None)
    elif kind is float:
        check_number(
            name,
            value,
            least=0 if name.endswith("_weight") or name == "dropout" else None,
            above=0 if name.endswith("temperature") else None,
            below=1 if name == "dropout" else None,
        )


def _plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples, Python numbers for NumPy's."""
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    return value.item() if isinstance(value, np.generic) else value
