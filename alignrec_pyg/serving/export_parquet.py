"""Export of the recommendations for all users to a parquet file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch_geometric.data import HeteroData

from alignrec_pyg.atomic import atomic_path
from alignrec_pyg.checks import check_integer, require_package
from alignrec_pyg.evaluation.metrics import allowed_items, left_out
from alignrec_pyg.evaluation.ranking import RankedBlock, rank_blocks
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.ids import item_ids, user_ids, user_indices
from alignrec_pyg.models import Recommender

_ROW_GROUP = 1 << 18  # rows that are buffered before they are written


def export_recommendations(
    model: Recommender,
    data: HeteroData,
    path: str | Path,
    k: int = 20,
    *,
    users: ArrayLike | None = None,
    candidates: ArrayLike | None = None,
    exclude: ArrayLike = (),
    exclude_known: bool = True,
) -> int:
    """Writes the top ``k`` items of every user to a parquet file, block by block.

    The file has one row per recommendation, with the columns ``user_id``, ``rank`` (from 1),
    ``item_id`` and ``score``, ordered by user index and rank. A user with fewer than ``k``
    candidates has fewer rows. Apart from the vectors of the model, only one block of scores and one
    row group of about 2^18 rows are in memory. The file is written atomically.

    Args:
        model: Any recommender; it is in evaluation mode meanwhile.
        data: The graph to serve.
        path: Path of the file; an existing file is replaced.
        k: Length of the lists.
        users: Ids of users (default: all), in any order; repeated ids are ignored.
        candidates: Ids of the items that may be recommended (default: all).
        exclude: Ids of items that may not be recommended.
        exclude_known: Whether to exclude the items that each user is known to have had, as
            :func:`~alignrec_pyg.recommend`.

    Returns:
        The number of rows.

    Raises:
        ImportError: If pyarrow is not installed.
        UnknownUserError: If a user id is not in the data.
        UnknownItemError: If an item id is not in the data.
        ValueError: If ``k`` is not a positive integer or ``data`` does not fit the model.
        FloatingPointError: If a score is NaN.
        OSError: If the file cannot be written.
    """
    arrow = require_package("pyarrow", "export_recommendations", "pyarrow", extra="serving")
    parquet = require_package(
        "pyarrow.parquet", "export_recommendations", "pyarrow", extra="serving"
    )
    k = check_integer("k", k, 1)
    model.check_fits(data, "data")
    device = data[INTERACTS].edge_index.device
    asked = (
        torch.arange(model.num_users, device=device)
        if users is None
        else user_indices(data, users, "users").unique()
    )
    names = (user_ids(data), item_ids(data))
    # the types of all ids, since the ids of a single block may have another one
    user_type, item_type = (arrow.array(ids).type for ids in names)
    types = (user_type, arrow.int32(), item_type, arrow.float32())
    schema = arrow.schema(zip(("user_id", "rank", "item_id", "score"), types, strict=True))
    items = allowed_items(data, candidates, exclude)
    links = left_out(data, asked, exclude_known)
    blocks: Iterable[RankedBlock] = (
        rank_blocks(model, data, asked, min(k, model.num_items), links, items=items)
        if asked.numel()
        else ()
    )
    written = 0
    with atomic_path(Path(path)) as partial, parquet.ParquetWriter(partial, schema) as writer:
        waiting: list[Any] = []
        num_waiting = 0
        for block in blocks:
            waiting.append(arrow.table(_columns(block, *names), schema=schema))
            num_waiting += waiting[-1].num_rows
            if num_waiting >= _ROW_GROUP:
                writer.write_table(arrow.concat_tables(waiting))
                written += num_waiting
                waiting, num_waiting = [], 0
        if waiting:
            writer.write_table(arrow.concat_tables(waiting))
    return written + num_waiting


def _columns(block: RankedBlock, user_id: np.ndarray, item_id: np.ndarray) -> dict[str, np.ndarray]:
    there = (block.item < item_id.shape[0]).cpu().numpy()
    row, place = there.nonzero()
    return {
        "user_id": user_id[block.user.cpu().numpy()[row]],
        "rank": (place + 1).astype(np.int32),
        "item_id": item_id[block.item.cpu().numpy()[there]],
        "score": block.score.cpu().float().numpy()[there],
    }
