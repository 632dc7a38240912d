"""Construction of the graph from columns with original ids, shared by the datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets.columns import (
    Column,
    as_strings,
    checked_ids,
    checked_numbers,
    checked_split,
    checked_times,
)
from alignrec_pyg.datasets.interactions import Keep, interaction_graph
from alignrec_pyg.graph import ITEM
from alignrec_pyg.tables import repr_short

_Checked = TypeVar("_Checked")


@dataclass(frozen=True)
class LinkColumns:
    """The columns of a table of interactions, with the original ids of users and items."""

    user: Column
    item: Column
    rating: Column | None = None
    time: Column | None = None
    split: Column | None = None

    def take(self, rows: np.ndarray) -> LinkColumns:
        """The same columns of some rows, int64 ``[R]``."""
        others = (self.rating, self.time, self.split)
        return LinkColumns(
            self.user.take(rows),
            self.item.take(rows),
            *(None if column is None else column.take(rows) for column in others),
        )


def assemble(
    links: LinkColumns,
    notes: list[str],
    *,
    catalogue: Column | None = None,
    keep: Keep = "first",
) -> tuple[HeteroData, int]:
    """Checks all columns, assigns indices to users and items, and builds the graph.

    Users are indexed in the sorted order of their ids. Items of ``catalogue`` come first, in its
    order, followed by the other items in the sorted order of their ids.

    Returns:
        The graph and the number of repeated rows that were removed.

    Raises:
        ValueError: If a column has invalid values. The message has one line for each such column,
            with the location of the first invalid row.
    """
    problems: list[str] = []

    def checked(
        check: Callable[[Column, list[str]], _Checked], column: Column | None
    ) -> _Checked | None:
        if column is None:
            return None
        try:
            return check(column, notes)
        except ValueError as error:
            problems.append(str(error))
            return None

    users = checked(partial(_ids, "user"), links.user)
    linked = checked(partial(_ids, "item"), links.item)
    listed = checked(_listed_ids, catalogue)
    rating = checked(checked_numbers, links.rating)
    time = checked(checked_times, links.time)
    split = checked(checked_split, links.split)
    if problems or users is None or linked is None:
        raise ValueError("\n".join(problems))

    user_index, user_id = pd.factorize(users, sort=True)
    item_index, item_id = pd.factorize(linked, sort=True)
    if listed is not None:
        known, item_id = item_id, _with_catalogue(listed, item_id, notes)
        item_index = pd.Index(item_id).get_indexer(pd.Index(known))[item_index]
    return interaction_graph(
        user_index.astype(np.int64),
        item_index.astype(np.int64),
        user_id,
        item_id,
        notes,
        rating=rating,
        time=time,
        split=split,
        keep=keep,
        where=links.user.where,
    )


def with_equal_id_types(links: LinkColumns, catalogue: Column) -> tuple[LinkColumns, Column]:
    """Converts the item ids of two text files to strings if only one has whole numbers only."""
    if catalogue.values.dtype != links.item.values.dtype:
        return replace(links, item=as_strings(links.item)), as_strings(catalogue)
    return links, catalogue


def add_content(
    data: HeteroData,
    column: Callable[[str], Column],
    notes: list[str],
    *,
    text: str | Sequence[str] | None,
    image: str | None = None,
    image_url: str | None = None,
    folder: Path | None = None,
) -> None:
    """Adds ``text``, ``image_path`` and ``image_url`` of the items from columns of their table.

    Relative image paths start from ``folder``.
    """

    def joined(*names: str) -> list[str | None]:
        return joined_text([column(name) for name in names], int(data[ITEM].num_nodes), notes)

    if text:
        data[ITEM].text = joined(*([text] if isinstance(text, str) else text))
    if image:
        data[ITEM].image_path = [
            path if path is None or folder is None else folder / path for path in joined(image)
        ]
    if image_url:
        data[ITEM].image_url = joined(image_url)


def joined_text(columns: Sequence[Column], count: int, notes: list[str]) -> list[str | None]:
    """Joins the non-empty columns of each of ``count`` items by a space; ``None`` without any."""
    joined: list[str | None] = []
    for row in zip(*(column.values for column in columns), strict=True):
        parts = [str(value).strip() for value in row if not pd.isna(value)]
        joined.append(" ".join(part for part in parts if part) or None)
    joined += [None] * (count - len(joined))
    empty = joined.count(None)
    if empty:
        names = ", ".join(column.name for column in columns)
        notes.append(f"{empty:,} of {count:,} items have nothing in {names}")
    return joined


def _ids(what: str, column: Column, notes: list[str]) -> np.ndarray:
    ids = checked_ids(column, notes)
    if ids.dtype != object and (ids < 0).any():
        count = len(np.unique(ids[ids < 0]))
        notes.append(f"column '{column.name}': {count:,} {what} ids are negative, kept as given")
    return ids


def _listed_ids(column: Column, notes: list[str]) -> np.ndarray:
    ids = checked_ids(column, notes)
    twice = pd.Series(ids).duplicated().to_numpy()
    if twice.any():
        column.refuse(twice, "each item needs to be listed once")
    return ids


def _with_catalogue(listed: np.ndarray, linked: np.ndarray, notes: list[str]) -> np.ndarray:
    if (listed.dtype == object) != (linked.dtype == object):
        raise ValueError(
            f"'items' and 'interactions' need item ids of one type (got {repr_short(listed[0])} "
            f"and {repr_short(linked[0])})"
        )
    unlisted = linked[pd.Index(listed).get_indexer(pd.Index(linked)) < 0]
    if len(unlisted):
        notes.append(f"{len(unlisted):,} items of the interactions are not in 'items': added last")
    return np.concatenate([listed, unlisted])
