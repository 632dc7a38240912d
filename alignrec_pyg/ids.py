"""Conversion between the original ids of users and items and their indices in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, ITEM, USER


class UnknownUserError(ValueError):
    """A user id that is not in the data."""


class UnknownItemError(ValueError):
    """An item id that is not in the data."""


def user_ids(data: HeteroData) -> np.ndarray:
    """Original ids of the users, ``[num_users]``; their indices if the data has no ids."""
    return _ids(data, USER)


def item_ids(data: HeteroData) -> np.ndarray:
    """Original ids of the items, ``[num_items]``; their indices if the data has no ids."""
    return _ids(data, ITEM)


def user_indices(data: HeteroData, ids: Any, argument: str) -> Tensor:
    """Indices of the users with the given ids, int64, on the device of ``data``.

    ``ids`` is one id, or several in any container and order; repeated ids are allowed.

    Raises:
        UnknownUserError: If an id is not in the data.
        ValueError: If the ids are nested.
    """
    return _numbers(data, USER, ids, argument)


def item_indices(data: HeteroData, ids: Any, argument: str) -> Tensor:
    """Indices of the items with the given ids, as :func:`user_indices`.

    Raises:
        UnknownItemError: If an id is not in the data.
        ValueError: If the ids are nested.
    """
    return _numbers(data, ITEM, ids, argument)


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

    What is no whole number stays a string where the known ids are numbers; ``7.0`` is one.
    """
    if known.dtype.kind not in "iu":
        return list(texts)
    plain = [text.strip().removesuffix(".0") for text in texts]
    return [
        int(number) if number.removeprefix("-").isdecimal() else text
        for number, text in zip(plain, texts, strict=True)
    ]


def _ids(data: HeteroData, kind: str) -> np.ndarray:
    return np.asarray(data[kind].get("id", np.arange(int(data[kind].num_nodes))))


def _numbers(data: HeteroData, kind: str, ids: Any, argument: str) -> Tensor:
    asked = as_id_list(ids, argument)
    known = _ids(data, kind).tolist()
    position = {entry: number for number, entry in enumerate(known)}
    unknown = [entry for entry in asked if entry not in position]
    if unknown:
        error = UnknownUserError if kind == USER else UnknownItemError
        raise error(
            f"'{argument}' needs to hold ids of the data's {len(known)} {kind}s, which are like "
            f"{known[0]!r} (unknown: {', '.join(map(repr, unknown[:5]))}"
            f"{', ...' if len(unknown) > 5 else ''})"
        )
    device = data[INTERACTS].edge_index.device
    return torch.tensor([position[entry] for entry in asked], dtype=torch.int64, device=device)
