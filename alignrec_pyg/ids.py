"""Conversion between the original ids of users and items and their numbers in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import ITEM, USER


class UnknownUserError(ValueError):
    """A user id that is not in the data."""


class UnknownItemError(ValueError):
    """An item id that is not in the data."""


def user_ids(data: HeteroData) -> np.ndarray:
    """Original ids of the users, ``[num_users]``; their numbers if the data has no ids."""
    return _ids(data, USER)


def item_ids(data: HeteroData) -> np.ndarray:
    """Original ids of the items, ``[num_items]``; their numbers if the data has no ids."""
    return _ids(data, ITEM)


class IdMap:
    """The original ids of the users or items of a graph, and the number of each.

    Ids are equal by value: ``7`` and ``numpy.int64(7)`` are one, ``"7"`` is another.

    Args:
        data: The graph.
        kind: ``"user"`` or ``"item"``.
    """

    def __init__(self, data: HeteroData, kind: str) -> None:
        self.ids = _ids(data, kind)
        self._kind = kind
        self._numbers = {entry: number for number, entry in enumerate(self.ids.tolist())}

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: Any, argument: str) -> Tensor:
        """The number of each id, int64 ``[n]``; -1 where it is not in the data.

        ``ids`` is one id, or several in any container and order; repeated ids are allowed.

        Raises:
            ValueError: If the ids are nested.
        """
        asked = as_id_list(ids, argument)
        return torch.tensor([self._numbers.get(entry, -1) for entry in asked], dtype=torch.int64)

    def numbers(self, ids: Any, argument: str, way_out: str = "") -> Tensor:
        """The number of each id, as :meth:`find`.

        Raises:
            UnknownUserError, UnknownItemError: If an id is not in the data; the message ends with
                ``way_out``.
            ValueError: If the ids are nested.
        """
        found = self.find(ids, argument)
        if bool((found < 0).any()):
            asked = as_id_list(ids, argument)
            unknown = [entry for entry, row in zip(asked, found.tolist(), strict=True) if row < 0]
            error = UnknownUserError if self._kind == USER else UnknownItemError
            raise error(
                f"'{argument}' needs to hold ids of the data's {len(self)} {self._kind}s, which "
                f"are like {self.ids[:1].tolist()[0]!r} (unknown: {some_of(unknown)}){way_out}"
            )
        return found


def ids_array(ids: Any) -> np.ndarray:
    """Ids as an array; those that are a tensor may have moved to a GPU with their graph."""
    return np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)


def some_of(ids: Sequence[Any]) -> str:
    """The first five ids, for a message."""
    return ", ".join(map(repr, ids[:5])) + (", ..." if len(ids) > 5 else "")


def as_id_list(ids: Any, argument: str) -> list[Any]:
    """Converts one id, or several in any container, into a list of Python values.

    Raises:
        ValueError: If the ids are nested.
    """
    if isinstance(ids, str) or np.ndim(ids) == 0:
        ids = [ids]
    # not by NumPy, which would convert [1, "a"] into two strings
    asked = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if any(isinstance(entry, list) for entry in asked):
        raise ValueError(f"'{argument}' needs to be one list of ids (got shape {np.shape(ids)})")
    return asked


def ids_from_texts(known: np.ndarray, texts: Sequence[str]) -> list[Any]:
    """Ids that were written as text, in the type of the ``known`` ones.

    If the known ids are numbers, a text that is not a whole number stays a string; ``7.0`` is a
    whole number.
    """
    if known.dtype.kind not in "iu":
        return list(texts)
    plain = [text.strip().removesuffix(".0") for text in texts]
    return [
        int(number) if number.removeprefix("-").isdecimal() else text
        for number, text in zip(plain, texts, strict=True)
    ]


def _ids(data: HeteroData, kind: str) -> np.ndarray:
    return ids_array(data[kind].get("id", np.arange(int(data[kind].num_nodes))))
