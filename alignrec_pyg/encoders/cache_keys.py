"""The parts of a ``cache_key``: hashes of weights, settings, functions and fitted state.

Values are hashed by what they hold, never by where they are in memory, so that another process
finds the same key. Nothing is unpickled, and no code of a value but its ``__reduce_ex__`` runs.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from hashlib import blake2b
from inspect import unwrap
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ADDRESSES = ("_stop_words_id",)  # scikit-learn recognises a list of stop words by its address


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """A hexadecimal hash of the names, dtypes, shapes and bytes of tensors, in any order.

    Example:
        >>> import torch
        >>> from alignrec_pyg.encoders import weights_hash
        >>> weights_hash(torch.nn.Linear(2, 1).state_dict()) == weights_hash({})
        False
    """
    digest = blake2b(digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_hash(*values: object) -> str:
    """A hexadecimal hash of settings, arrays, functions, and objects with all their attributes.

    Of an estimator of scikit-learn it covers the parameters, the version and, once it is fitted,
    what it learned. A function counts by its code, its defaults and the variables around it, so
    that a changed one gives another hash; what it takes from its module (another function, a
    dictionary, a package) does not count: add a version of that. A class counts by the code of its
    methods.

    Raises:
        ValueError: If a value cannot be taken apart, such as an open file.

    Example:
        >>> from sklearn.feature_extraction.text import TfidfVectorizer
        >>> from alignrec_pyg.encoders import state_hash
        >>> words, characters = TfidfVectorizer(), TfidfVectorizer(analyzer="char")
        >>> state_hash(words) == state_hash(TfidfVectorizer())
        True
        >>> state_hash(words) == state_hash(characters)
        False
    """
    return _hash(values).hex()


def _hash(value: Any, outer: tuple[int, ...] = ()) -> bytes:
    """The hash of a value inside those at the addresses ``outer``."""
    if id(value) in outer:  # it refers to something around it
        parts = [str(len(outer) - outer.index(id(value))).encode()]
    else:
        parts = list(_parts(value, partial(_hash, outer=(*outer, id(value)))))
    digest = blake2b(type(value).__qualname__.encode(), digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()


def _parts(value: Any, of: Callable[[Any], bytes]) -> Iterable[bytes]:
    """What a value holds, as bytes; ``of`` hashes what is inside."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return [repr(value).encode()]
    if isinstance(value, Tensor):
        return [weights_hash({"": value}).encode()]
    if isinstance(value, np.ndarray | np.generic):
        form = f"{value.dtype} {value.shape}".encode()
        if value.dtype.hasobject:
            return [form, *map(of, value.reshape(-1).tolist())]
        return [form, value.tobytes()]
    if isinstance(value, list | tuple):
        return map(of, value)
    if isinstance(value, set | frozenset):
        return sorted(map(of, value))
    if type(value) is dict:
        pairs = value.items()
        return sorted(of(key) + of(entry) for key, entry in pairs if key not in _ADDRESSES)
    if isinstance(value, type):
        return [_class_hash(value)]
    if isinstance(value, CodeType):
        return [value.co_code, *map(of, (value.co_consts, value.co_names, value.co_varnames))]
    if isinstance(value, FunctionType):
        around = [cell.cell_contents for cell in value.__closure__ or ()]
        return map(of, (value.__code__, value.__defaults__, value.__kwdefaults__, around))
    if isinstance(value, ModuleType) or isinstance(getattr(value, "__self__", None), ModuleType):
        return [_named(value)]
    return map(of, _reduced(value))


def _named(value: Any) -> bytes:
    qualified = getattr(value, "__qualname__", "")
    return f"{getattr(value, '__module__', '')} {value.__name__} {qualified}".encode()


@lru_cache(1024)  # an estimator has a dozen classes, each with the methods of its bases
def _class_hash(kind: type) -> bytes:
    """The hash of a class's name and methods, those that it derives included."""
    codes = []
    for base in kind.__mro__:
        for _, member in sorted(vars(base).items()):
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if isinstance(function, FunctionType):
                codes.append(unwrap(function).__code__)
    return _hash([_named(kind), codes])


def _reduced(value: object) -> list[Any]:
    """What pickle would write of an object: how it is made, and its state."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        made = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    except Exception as error:  # whatever refuses to be taken apart
        raise ValueError(
            f"a cache key cannot be made of {value!r} ({error}): make it of what that depends on, "
            "such as names, arguments and versions"
        ) from error
    if isinstance(made, str):  # a name in its module
        return [getattr(value, "__module__", None), made]
    function, arguments, state, entries, pairs, *_ = (*made, None, None, None, None)
    return [function, arguments, state, list(entries or ()), dict(pairs or ())]
