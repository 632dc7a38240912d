"""The image features of Amazon's 2014 data: 10 bytes of id and 4,096 floats for each item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

WIDTH = 4096
"""Numbers of a row."""

_RECORD = np.dtype([("id", "S10"), ("row", "<f4", (WIDTH,))])
_BLOCK = 4096


def read_image_vectors(
    path: str | Path, item_id: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the items asked for, of an ``image_features_*.b`` file.

    The file is read through once, in blocks; where an item has several rows, the first one counts.

    Args:
        path: The file.
        item_id: Ids (ASINs), object array of strings.
        notes: Counted notes, appended to.

    Returns:
        The ids that have a row ``[rows]`` and the table, float32 ``[rows, 4096]``.

    Raises:
        ValueError: If the file does not consist of such records, or has none of the items.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0 or size % _RECORD.itemsize:
        raise ValueError(
            f"{path} needs to consist of records of {_RECORD.itemsize:,} bytes, 10 of id and "
            f"{WIDTH:,} floats (got {size:,} bytes): it may be cut off"
        )
    wanted = pd.Index(item_id)
    position = np.full(len(item_id), -1, dtype=np.int64)  # of each item in the file
    records = np.memmap(path, dtype=_RECORD, mode="r")
    repeated = 0
    for start in range(0, len(records), _BLOCK):
        raw = np.array(records["id"][start : start + _BLOCK])
        try:
            ids = np.char.decode(raw, "ascii").astype(object)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: ids need to be ASCII ({error})") from error
        item = wanted.get_indexer(pd.Index(ids))
        rows = np.flatnonzero(item >= 0)
        item, first = np.unique(item[rows], return_index=True)
        repeated += len(rows) - len(item) + int((position[item] >= 0).sum())
        new = position[item] < 0
        position[item[new]] = start + rows[first[new]]
    found = np.flatnonzero(position >= 0)
    if not len(found):
        raise ValueError(f"{path} has a row for none of {len(item_id):,} items: another category?")
    if repeated:
        notes.append(f"{path.name}: {repeated:,} further rows of an item left out")
    table = np.empty((len(found), WIDTH), dtype=np.float32)
    order = np.argsort(position[found])  # through the file once, forwards
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        table[block] = records["row"][position[found[block]]]
    return item_id[found], table
