"""From the ids of the outside world to the numbers of users and items, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, ITEM, USER


class UnknownUserError(ValueError):
    """A user id that the data does not hold."""


class UnknownItemError(ValueError):
    """An item id that the data does not hold."""


def user_ids(data: HeteroData) -> np.ndarray:
    """What the outside world calls the users, ``[num_users]``; their numbers if it has no word."""
    return _ids(data, USER)


def item_ids(data: HeteroData) -> np.ndarray:
    """What the outside world calls the items, ``[num_items]``; their numbers if it has no word."""
    return _ids(data, ITEM)


def user_indices(data: HeteroData, ids: Any, argument: str) -> Tensor:
    """Numbers of the users with these ids, int64, on the device of ``data``.

    Args:
        data: The graph.
        ids: One id, or ids in any container, in any order, repeats allowed.
        argument: What they are, for messages.

    Raises:
        UnknownUserError: If an id is not in the data.
        ValueError: If they are nested.
    """
    return _numbers(data, USER, ids, argument)


def item_indices(data: HeteroData, ids: Any, argument: str) -> Tensor:
    """Numbers of the items with these ids, as :func:`user_indices`.

    Raises:
        UnknownItemError: If an id is not in the data.
        ValueError: If they are nested.
    """
    return _numbers(data, ITEM, ids, argument)


def listed(ids: Any, argument: str) -> list[Any]:
    """One id, or ids in any container, as a list of Python's own values.

    Raises:
        ValueError: If they are nested.
    """
    if isinstance(ids, str) or np.ndim(ids) == 0:
        ids = [ids]
    # one by one: NumPy would turn [1, "a"] into two strings
    asked = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    if any(isinstance(entry, list) for entry in asked):
        raise ValueError(f"'{argument}' needs to be one list of ids (got shape {np.shape(ids)})")
    return asked


def _ids(data: HeteroData, kind: str) -> np.ndarray:
    return np.asarray(data[kind].get("id", np.arange(int(data[kind].num_nodes))))


def _numbers(data: HeteroData, kind: str, ids: Any, argument: str) -> Tensor:
    asked = listed(ids, argument)
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
