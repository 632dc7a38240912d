"""Datasets from data frames with any ids and column names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
from narwhals.typing import IntoDataFrame
from numpy.typing import ArrayLike
from torch import Tensor

from alignrec_pyg.datasets.arrow import arrow_column
from alignrec_pyg.datasets.assemble import LinkColumns, add_content, assemble, without_copies
from alignrec_pyg.datasets.columns import Column, check_unicode, checked_ids
from alignrec_pyg.datasets.features import add_feature_by_id, check_feature_name
from alignrec_pyg.datasets.interactions import InteractionDataset, Keep
from alignrec_pyg.graph import ITEM
from alignrec_pyg.report import describe
from alignrec_pyg.tables import NonFinite, repr_short


def from_frames(
    interactions: IntoDataFrame,
    items: IntoDataFrame | None = None,
    features: Mapping[str, ArrayLike | tuple[ArrayLike, ArrayLike]] | None = None,
    *,
    user: str = "user",
    item: str = "item",
    items_id: str | None = None,
    rating: str | None = None,
    time: str | None = None,
    split: str | None = None,
    text: str | Sequence[str] | None = None,
    image: str | None = None,
    image_url: str | None = None,
    known: IntoDataFrame | None = None,
    keep: Keep = "first",
    nonfinite: NonFinite = "error",
) -> InteractionDataset:
    """Creates a dataset from pandas, polars or pyarrow frames.

    Users are indexed in the sorted order of their ids. Items of the frame ``items`` come first, in
    its order, followed by the other items in the sorted order of their ids.

    Args:
        interactions: Frame with one row per interaction.
        items: Frame with one row per item, possibly with items without interactions.
        features: A pair ``(ids, matrix)`` for each name, in which row ``r`` of the matrix belongs
            to the item ``ids[r]``. Items without a row are masked and rows of unknown items are
            ignored, with a note. A matrix without ids is accepted only with ``items``, whose row
            order it is assumed to have, with a note.
        user: Column of ``interactions`` with user ids, whole numbers or strings.
        item: Column of ``interactions`` with item ids.
        items_id: Column of ``items`` with item ids; by default it has the name ``item``, too.
        rating: Column of ``interactions``, optional.
        time: Column of ``interactions``, optional: numbers in any unit, or date-times.
        split: Column of ``interactions``, optional: 0/1/2 or train/val/test.
        text: Column or columns of ``items``, joined by a space as ``data["item"].text`` (list of
            strings; None if all are empty).
        image: Column of ``items`` with the path of an image file, stored as
            ``data["item"].image_path`` (list; None if empty).
        image_url: Column of ``items`` with the URL of an image, stored as
            ``data["item"].image_url`` for :func:`~alignrec_pyg.datasets.fetch_images`.
        known: Frame with pairs that users have had but that are no interactions, such as views: the
            known pairs of :mod:`alignrec_pyg.graph`, never recommended. It has the columns ``user``
            and ``item``, and ``rating`` and ``time`` where they are there.
        keep: Whether to keep the first or the last row of a repeated (user, item) pair.
        nonfinite: Whether feature rows with NaN or infinity are an error or missing.

    Raises:
        ValueError: If a column is missing or has invalid values; the message contains row (from 0)
            and column.

    Example:
        >>> import pandas as pd
        >>> from alignrec_pyg.datasets import from_frames
        >>> links = pd.DataFrame({"who": ["ann", "ann", "bob"], "what": ["tea", "cup", "cup"]})
        >>> dataset = from_frames(links, user="who", item="what")
        >>> dataset
        InteractionDataset(users=2, items=2, interactions=3)
        >>> dataset.data["item"].id
        array(['cup', 'tea'], dtype=object)
    """
    notes: list[str] = []
    frame = _frame(interactions, "interactions")
    if len(frame) == 0:
        raise ValueError("'interactions' needs at least one row (got 0)")
    fields = [] if text is None else [text] if isinstance(text, str) else list(text)
    content = [*fields, *(name for name in (image, image_url) if name)]
    listed, columns = None, {}
    if items is not None:
        frame_of_items = _frame(items, "items")
        if len(frame_of_items) == 0:
            raise ValueError("'items' needs at least one row (got 0)")
        column = partial(_column, frame_of_items, "items")
        columns = {name: column(name) for name in content}
        listed, columns = without_copies(column(items_id or item), columns, notes)
    elif content:
        raise ValueError(
            "'text', 'image' and 'image_url' need the frame 'items', whose columns they name"
        )

    link = partial(_column, frame, "interactions")
    others = (link(name) if name else None for name in (rating, time, split))
    data, duplicates = assemble(
        LinkColumns(link(user), link(item), *others),
        notes,
        catalogue=listed,
        known=None if known is None else _known(known, user, item, rating, time),
        keep=keep,
    )
    item_id: np.ndarray = data[ITEM].id
    if items is not None:
        add_content(data, columns, notes, text=text, image=image, image_url=image_url)
    dtypes: dict[str, str] = {}
    for name, feature in (features or {}).items():
        check_feature_name(name)
        ids, matrix = _ids_and_matrix(name, feature, item_id, listed, notes)
        dtypes[name] = add_feature_by_id(data, name, ids, matrix, nonfinite, notes)
    return InteractionDataset(
        data, describe(data, duplicates=duplicates, notes=notes, dtypes=dtypes)
    )


def _known(
    native: IntoDataFrame, user: str, item: str, rating: str | None, time: str | None
) -> LinkColumns | None:
    frame = _frame(native, "known")
    column = partial(_column, frame, "known")
    others = (
        column(name) if name is not None and name in frame.columns else None
        for name in (rating, time)
    )
    return LinkColumns(column(user), column(item), *others) if len(frame) else None


def _frame(native: IntoDataFrame, argument: str) -> nw.DataFrame[Any]:
    try:
        return nw.from_native(native, eager_only=True)
    except TypeError as error:
        raise ValueError(
            f"'{argument}' needs to be a pandas, polars or pyarrow frame "
            f"(got {type(native).__name__}; collect a lazy one first)"
        ) from error


def _column(frame: nw.DataFrame[Any], argument: str, name: str) -> Column:
    if name not in frame.columns:
        raise ValueError(f"'{argument}' needs a column '{name}' (got {frame.columns})")
    return _series_column(name, frame[name], lambda row: f"'{argument}' row {row}")


def _series_column(name: str, series: nw.Series[Any], where: Callable[[int], str]) -> Column:
    try:
        return _converted(name, series, where)
    except UnicodeEncodeError:  # of Arrow, which does not say where
        check_unicode(Column(name, _objects(series.to_list()), where))
        raise


def _converted(name: str, series: nw.Series[Any], where: Callable[[int], str]) -> Column:
    if series.dtype == nw.Categorical or isinstance(series.dtype, nw.Enum):
        series = series.cast(nw.String)
    if series.dtype == nw.Date:
        series = series.cast(nw.Datetime("ms"))
    elif isinstance(series.dtype, nw.Datetime) and series.dtype.time_zone is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if series.dtype.is_numeric() and series.null_count() == 0:
        return Column(name, series.to_numpy(), where)
    if isinstance(series.dtype, nw.Datetime):
        return Column(name, series.to_numpy(), where)
    if series.dtype == nw.String:
        return arrow_column(name, pa.chunked_array([series.to_arrow()]), where)
    # missing values are None for all kinds of frames
    return Column(name, _objects(series.to_list()), where)


def _ids_and_matrix(
    name: str,
    feature: ArrayLike | tuple[ArrayLike, ArrayLike],
    item_id: np.ndarray,
    listed: Column | None,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(feature, tuple):
        if len(feature) != 2:
            raise ValueError(f"'features[{name!r}]' needs to be (ids, matrix) (got {len(feature)})")
        ids, matrix = feature[0], np.asarray(feature[1])
        shape = getattr(ids, "shape", (0,))  # each entry of a list is an id
        if len(shape) != 1:
            raise ValueError(
                f"'features[{name!r}]' needs ids in one dimension (got shape {list(shape)})"
            )
        column = _id_column(ids, f"'features[{name!r}]' row ")
        if len(column) == 0:
            raise ValueError(f"'features[{name!r}]' needs at least one id (got 0)")
        if matrix.ndim == 2 and len(matrix) != len(column):
            raise ValueError(
                f"'features[{name!r}]' needs one id for each row of the matrix "
                f"(got {len(column)} ids, {len(matrix)} rows)"
            )
        return checked_ids(column, notes).values, matrix
    if isinstance(feature, list) and len(feature) == 2 and len(np.shape(feature[1])) == 2:
        raise ValueError(
            f"'features[{name!r}]' needs the pair (ids, matrix) as a tuple (got a list): a list is "
            "read as the matrix itself"
        )
    if listed is None:
        raise ValueError(
            f"'features[{name!r}]' needs to be (ids, matrix): without the frame 'items' nothing "
            "says which item a row of a bare matrix belongs to"
        )
    notes.append(
        f"ATTENTION: feature '{name}' came without ids: its rows are taken in the row order of "
        f"'items' (row 0 = {repr_short(item_id[0])})"
    )
    return item_id[: len(listed)], np.asarray(feature)


def _id_column(ids: ArrayLike, place: str) -> Column:
    def where(row: int) -> str:
        return f"{place}{row}"

    if isinstance(ids, np.ndarray | Tensor):
        return Column("ids", np.asarray(ids), where)
    series = nw.from_native(ids, series_only=True, pass_through=True)
    if isinstance(series, nw.Series):
        return _series_column("ids", series, where)
    return Column("ids", _objects(list(ids)), where)  # type: ignore[arg-type]


def _objects(values: list[Any]) -> np.ndarray:
    """An array of the very values: NumPy would make two strings of ``[1, "a"]``."""
    return np.fromiter(values, dtype=object, count=len(values))
