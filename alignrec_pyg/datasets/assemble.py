"""Construction of the graph from columns with original ids, shared by the datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
    numbered,
)
from alignrec_pyg.datasets.interactions import Keep, KnownPairs, interaction_graph
from alignrec_pyg.graph import ITEM
from alignrec_pyg.tables import note_on_shared_ids, repr_short

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
    known: LinkColumns | None = None,
    keep: Keep = "first",
) -> tuple[HeteroData, int]:
    """Checks all columns, assigns indices to users and items, and builds the graph.

    Users are indexed in the sorted order of their ids. Items of ``catalogue`` come first, in its
    order, followed by the other items in the sorted order of their ids. Known pairs of other users
    or items are left out.

    Returns:
        The graph and the number of repeated rows that were removed.

    Raises:
        ValueError: If a column has invalid values, or no item of ``links`` is in ``catalogue``. The
            message has one line for each such column, with the location of the first invalid row.
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
    others: list[Any] = []
    if known is not None:
        others = [
            checked(partial(_ids, "user"), known.user),
            checked(partial(_ids, "item"), known.item),
            checked(checked_numbers, known.rating),
            checked(checked_times, known.time),
        ]
    if problems or users is None or linked is None:
        raise ValueError("\n".join(problems))

    user_index, user_id = numbered(users)
    item_index, item_id = numbered(linked)
    if catalogue is not None and listed is not None:
        source = f"'items' ({catalogue.where(0)})"
        place, item_id = _with_catalogue(source, listed, item_id, notes)
        item_index = place[item_index]
    return interaction_graph(
        user_index,
        item_index,
        user_id,
        item_id,
        notes,
        rating=rating,
        time=time,
        split=split,
        known=_known_pairs(others, user_id, item_id, notes) if others else None,
        keep=keep,
        where=links.user.where,
    )


def with_equal_id_types(
    links: LinkColumns, catalogue: Column | None, known: LinkColumns | None
) -> tuple[LinkColumns, Column | None, LinkColumns | None]:
    """Converts the ids of several text files to strings if only some have whole numbers only."""
    tables = [links] if known is None else [links, known]
    if len({table.user.entries.dtype == object for table in tables}) > 1:
        tables = [replace(table, user=as_strings(table.user)) for table in tables]
    listed = [] if catalogue is None else [catalogue]
    items = [*listed, *(table.item for table in tables)]
    if len({column.entries.dtype == object for column in items}) > 1:
        tables = [replace(table, item=as_strings(table.item)) for table in tables]
        listed = [as_strings(column) for column in listed]
    return tables[0], (listed[0] if listed else None), (tables[1] if len(tables) > 1 else None)


def without_copies(
    ids: Column, content: Mapping[str, Column], notes: list[str]
) -> tuple[Column, dict[str, Column]]:
    """The ids and content of items, without rows that repeat an item and all of its content.

    Raises:
        ValueError: If an item is listed again with other content.
    """
    repeated = pd.Series(ids.keys).duplicated().to_numpy()
    if not repeated.any():
        return ids, dict(content)
    several = np.flatnonzero(pd.Series(ids.keys).duplicated(keep=False))
    columns = (ids.take(several), *(column.take(several) for column in content.values()))
    rows = pd.DataFrame({n: list(map(repr, column.values)) for n, column in enumerate(columns)})
    other = np.zeros(len(repeated), dtype=bool)
    other[several] = ~rows.duplicated()
    other &= repeated
    if other.any():
        ids.refuse(
            other,
            "each item needs to be listed once; only rows that are equal in all columns that are "
            "read count as one",
        )
    notes.append(
        f"{int(repeated.sum()):,} rows of 'items' repeat an item and its values: left out "
        f"(first: {ids.where(int(np.argmax(repeated)))})"
    )
    kept = np.flatnonzero(~repeated)
    return ids.take(kept), {name: column.take(kept) for name, column in content.items()}


def add_content(
    data: HeteroData,
    content: Mapping[str, Column],
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
    count = int(data[ITEM].num_nodes)

    def filled(entries: list[str | None], *names: str) -> list[str | None]:
        entries = entries + [None] * (count - len(entries))
        empty = entries.count(None)
        if empty:
            notes.append(f"{empty:,} of {count:,} items have nothing in {', '.join(names)}")
        return entries

    def first(name: str) -> list[str | None]:
        return filled([next(iter(strings_in(v)), None) for v in content[name].values], name)

    if text:
        names = [text] if isinstance(text, str) else text
        data[ITEM].text = filled(joined_text([content[name] for name in names]), *names)
    if image:
        data[ITEM].image_path = [
            path if path is None or folder is None else folder / path for path in first(image)
        ]
    if image_url:
        data[ITEM].image_url = first(image_url)


def joined_text(columns: Sequence[Column]) -> list[str | None]:
    """Joins what each row of the columns holds by a space; ``None`` for nothing."""
    rows = zip(*(column.values for column in columns), strict=True)
    return [" ".join(part for value in row for part in strings_in(value)) or None for row in rows]


def strings_in(value: Any) -> list[str]:
    """The strings in a value that may be missing, a number, a list or a dictionary of such."""
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    if isinstance(value, dict):
        return [f"{key}: {part}" for key, element in value.items() for part in strings_in(element)]
    if isinstance(value, list | tuple | set | np.ndarray):
        return [part for element in value for part in strings_in(element)]
    return [] if pd.isna(value) else [str(value)]


def _ids(what: str, column: Column, notes: list[str]) -> Column:
    column = checked_ids(column, notes)
    ids = column.entries
    if ids.dtype != object and (ids < 0).any():
        count = len(np.unique(ids[ids < 0]))
        notes.append(f"column '{column.name}': {count:,} {what} ids are negative, kept as given")
    return column


def _listed_ids(column: Column, notes: list[str]) -> np.ndarray:
    ids = checked_ids(column, notes).values
    twice = pd.Series(ids).duplicated().to_numpy()
    if twice.any():  # such as 1 and 1.0
        column.refuse(twice, "each item needs to be listed once")
    return ids


def _known_pairs(
    columns: Sequence[Any], user_id: np.ndarray, item_id: np.ndarray, notes: list[str]
) -> KnownPairs:
    """The known pairs by the numbers of their users and items, without those of others.

    ``columns`` are the checked ids of users and items, ratings and times.

    Raises:
        ValueError: If none is left.
    """
    user, item, *others = columns
    ends = []
    for what, column, there in (("user", user, user_id), ("item", item, item_id)):
        number, ids = numbered(column)
        ends.append(pd.Index(there).get_indexer(pd.Index(ids))[number])
        if (ends[-1] < 0).all():
            raise ValueError(
                f"'known' needs {what}s of the interactions (none of its ids is one: it has "
                f"{repr_short(column.value(0))}, they have {repr_short(there[0])})"
            )
    kept = (ends[0] >= 0) & (ends[1] >= 0)
    if not kept.all():
        notes.append(
            f"{int((~kept).sum()):,} of {len(kept):,} known pairs are of users or items that the "
            "interactions do not have: left out"
        )
    values = (None if value is None else value[kept] for value in others)
    return KnownPairs(ends[0][kept], ends[1][kept], *values)


def _with_catalogue(
    source: str, listed: np.ndarray, linked: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The place of each linked item among the listed ones and then the others, and all ids."""
    if (listed.dtype == object) != (linked.dtype == object):
        raise ValueError(
            f"'items' and 'interactions' need item ids of one type (got {repr_short(listed[0])} "
            f"and {repr_short(linked[0])})"
        )
    place = pd.Index(listed).get_indexer(pd.Index(linked))
    unlisted = np.flatnonzero(place < 0)
    few = note_on_shared_ids(source, len(linked) - len(unlisted), listed, linked)
    if few:
        notes.append(few)
    if len(unlisted):
        notes.append(f"{len(unlisted):,} items of the interactions are not in 'items': added last")
    place[unlisted] = len(listed) + np.arange(len(unlisted))
    return place, np.concatenate([listed, linked[unlisted]])
