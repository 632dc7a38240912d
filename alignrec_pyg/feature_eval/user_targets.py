"""Queries of the zero-shot protocol: users with their earlier items and their next items."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.feature_eval.ranks import Queries
from alignrec_pyg.graph import INTERACTS, ITEM, USER, link_values, links_to_predict

Ties = Literal["last", "random", "min_id", "max_id"]


def latest_links(data: HeteroData, *, ties: Ties, seed: int) -> Queries:
    """Queries whose target is the latest link of each user, with the others as the history.

    Users with a single link have no history and are excluded. ``ties`` and ``seed`` are those of
    :func:`~alignrec_pyg.feature_eval.zero_shot`.

    Raises:
        ValueError: If a time is missing, or no user has two links.
    """
    user, item = data[INTERACTS].edge_index
    time = _checked_times(data)
    position = torch.arange(user.numel(), device=user.device)
    if ties == "random":
        generator = torch.Generator().manual_seed(seed)
        position = torch.randperm(user.numel(), generator=generator).to(user.device)
    elif ties != "last":
        position = item if ties == "max_id" else -item
    order = position.argsort(stable=True)
    order = order[time[order].argsort(stable=True)]
    order = order[user[order].argsort(stable=True)]
    user, item = user[order], item[order]
    latest = torch.ones_like(user, dtype=torch.bool)
    latest[:-1] = user[1:] != user[:-1]
    asked = latest & (torch.bincount(user)[user] > 1)
    if not bool(asked.any()):
        raise ValueError(
            f"'data' needs a user with at least two links, a target and a history (got "
            f"{user.numel()} links)"
        )
    links = torch.stack([user, item])
    return _queries(data, links[:, ~asked], links[:, asked])


def held_out_links(data: HeteroData) -> Queries:
    """Queries whose targets are the links to predict, with the known links as the history.

    Links to predict of users without known links are excluded.

    Raises:
        ValueError: If there are no links to predict, or all of them are known.
    """
    target = links_to_predict(data)
    history = data[INTERACTS].edge_index
    num_items = int(data[ITEM].num_nodes)
    known = torch.isin(target[0] * num_items + target[1], history[0] * num_items + history[1])
    if bool(known.all()):
        raise ValueError(
            "'data' needs links to predict that are not known with targets='labels' (all "
            f"{known.numel()} are): pass the validation or test graph of a split"
        )
    target = target[:, torch.isin(target[0], history[0])]
    if target.size(1) == 0:
        raise ValueError(
            "'data' needs known links of the users to predict for with targets='labels' (no such "
            "user has any): items are compared with the mean of the user's known items"
        )
    return _queries(data, history, target)


def _queries(data: HeteroData, history: Tensor, target: Tensor) -> Queries:
    """Queries of the users in ``target``; popularity is computed from all of ``history``."""
    user = target[0].unique()
    row = torch.full((int(data[USER].num_nodes),), -1, device=user.device)
    row[user] = torch.arange(user.numel(), device=user.device)
    return Queries(
        id=user,
        history=_by_row(row, history[:, row[history[0]] >= 0]),
        target=_by_row(row, target),
        popularity=torch.bincount(history[1], minlength=int(data[ITEM].num_nodes)),
    )


def _by_row(row: Tensor, links: Tensor) -> Tensor:
    order = row[links[0]].argsort(stable=True)
    return torch.stack([row[links[0, order]], links[1, order]])


def _checked_times(data: HeteroData) -> Tensor:
    way_out = (
        ": give the times of the interactions, or use targets='labels' on the validation or test "
        "graph of a split, whose links to predict are then the targets"
    )
    time = link_values(data, "time", way_out)
    missing = int(time.isnan().sum())
    if missing:
        raise ValueError(
            f"'time' needs to be known for each interaction (got {missing} NaN){way_out}"
        )
    return time
