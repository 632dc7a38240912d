"""Datasets of interactions, and the graph built from checked columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_choice
from alignrec_pyg.graph import INTERACTS, ITEM, USER, add_known_pairs
from alignrec_pyg.report import DataReport

Keep = Literal["first", "last"]
"""Which row of a repeated (user, item) pair is kept."""


class KnownPairs(NamedTuple):
    """Pairs that users have had but that are no links, as indices into the original ids.

    Shapes:
        - **user, item:** int64 :math:`(K)`
        - **rating:** float :math:`(K)`
        - **time:** int64 or float64 :math:`(K)`
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray | None = None
    time: np.ndarray | None = None


class InteractionDataset:
    """A dataset of users, items and their interactions.

    Args:
        data: The graph, as described in :mod:`alignrec_pyg.graph`. ``edge_index`` contains *all*
            links; pairs that are known besides, such as low ratings, are its known pairs. If known,
            it has the attributes ``.time`` (int64 or float64 ``[E]``, in the unit
            of the source), ``.rating`` (float32 ``[E]``) and ``.split`` (int8 ``[E]``: 0 train, 1
            validation, 2 test).
        report: Statistics and notes on the data.
    """

    def __init__(self, data: HeteroData, report: DataReport) -> None:
        self.data = data
        self.report = report

    def __repr__(self) -> str:
        """The class and the sizes."""
        report = self.report
        return (
            f"{type(self).__name__}(users={report.users}, items={report.items}, "
            f"interactions={report.interactions})"
        )


def interaction_graph(
    user: np.ndarray,
    item: np.ndarray,
    user_id: np.ndarray,
    item_id: np.ndarray,
    notes: list[str],
    *,
    rating: np.ndarray | None = None,
    time: np.ndarray | None = None,
    split: np.ndarray | None = None,
    known: KnownPairs | None = None,
    keep: Keep = "first",
    where: Callable[[int], str] | None = None,
) -> tuple[HeteroData, int]:
    """Builds the graph of all links, in the order of their rows and without repeated pairs.

    ``user`` and ``item`` are indices into the original ids, int64 ``[E]``; ``where`` returns the
    location of a row, for notes. Of the known pairs those that are no links stay, each once.

    Returns:
        The graph and the number of rows that were removed.

    Raises:
        ValueError: If ``keep`` is neither ``"first"`` nor ``"last"``.
    """
    check_choice("keep", keep, ("first", "last"))
    pair = user * len(item_id) + item
    repeated = _repeated(pair, keep)
    if repeated.any() and where is not None:
        notes.append(
            f"{int(repeated.sum()):,} rows repeat a (user, item) pair, the {keep} row stays "
            f"(left out first: {where(int(np.argmax(repeated)))})"
        )
    if repeated.any() and split is not None:
        labelled = pd.DataFrame({"pair": pair, "split": split}).drop_duplicates()
        other = labelled.duplicated("pair")
        if other.any():
            notes.append(
                f"{int(other.sum()):,} repeated pairs carry another split label than the {keep} "
                "row of the pair, whose label stays" + _first(where, labelled.index[other])
            )
    del pair
    kept = ~repeated
    if split is not None:
        _note_cold(user, item, split, kept, where, notes)

    data = HeteroData()
    data[USER].num_nodes = len(user_id)
    data[USER].id = user_id
    data[ITEM].num_nodes = len(item_id)
    data[ITEM].id = item_id
    links = data[INTERACTS]
    edge_index = np.empty((2, int(kept.sum())), dtype=np.int64)
    edge_index[0], edge_index[1] = user[kept], item[kept]
    links.edge_index = torch.from_numpy(edge_index)
    if time is not None:
        links.time = torch.from_numpy(time[kept])
    if rating is not None:
        links.rating = torch.from_numpy(rating[kept].astype(np.float32))
    if split is not None:
        links.split = torch.from_numpy(split[kept])

    if known is not None:
        pairs = torch.from_numpy(np.stack([known.user, known.item]).astype(np.int64))
        values: dict[str, torch.Tensor] = {}
        if known.time is not None:
            values["time"] = torch.from_numpy(known.time.copy())
        if known.rating is not None:
            values["rating"] = torch.from_numpy(known.rating.astype(np.float32))
        add_known_pairs(data, pairs, values)

    for what, ids, used in (("user", user_id, user), ("item", item_id, item)):
        if len(ids) == 1:
            notes.append(f"only 1 {what}: nothing to compare it with")
        unused = int((np.bincount(used, minlength=len(ids)) == 0).sum())
        if unused:
            notes.append(f"{unused:,} of {len(ids):,} {what}s have no interaction")
    return data, int(repeated.sum())


def _repeated(pair: np.ndarray, keep: Keep) -> np.ndarray:
    """Which pairs have another row that is kept."""
    ordered = np.sort(pair)  # which takes a tenth of hashing them all
    several = ordered[1:][ordered[1:] == ordered[:-1]]
    del ordered
    repeated = np.zeros(len(pair), dtype=bool)
    if len(several):
        rows = np.flatnonzero(pd.Series(pair).isin(several))
        repeated[rows] = pd.Series(pair[rows]).duplicated(keep=keep)
    return repeated


def _note_cold(
    user: np.ndarray,
    item: np.ndarray,
    split: np.ndarray,
    kept: np.ndarray,
    where: Callable[[int], str] | None,
    notes: list[str],
) -> None:
    train = kept & (split == 0)
    for what, ends in (("user", user), ("item", item)):
        trained = np.bincount(ends[train], minlength=int(ends.max()) + 1) > 0
        cold = kept & (split != 0) & ~trained[ends]
        if cold.any():
            notes.append(
                f"{int(cold.sum()):,} held-out interactions are of {what}s without any for training"
                + _first(where, np.flatnonzero(cold))
            )


def _first(where: Callable[[int], str] | None, rows: np.ndarray | pd.Index) -> str:
    return "" if where is None else f" (first: {where(int(rows[0]))})"
