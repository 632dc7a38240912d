"""Ranked items as they are returned: lists and frames of original ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor


class RankedItems(NamedTuple):
    """Some items, best first.

    Shapes:
        - **item:** original ids, :math:`(n)`
        - **score:** scores or cosines, :math:`(n)`
    """

    item: np.ndarray
    score: np.ndarray


def lists_of(ids: np.ndarray, item: Tensor, score: Tensor) -> list[RankedItems]:
    r"""The lists of some users; padding, whose index is the number of items, is left out.

    Shapes:
        - **ids:** original ids of all items, :math:`(|\mathcal{I}|)`
        - **item, score:** numbers of items and their scores, :math:`(n, k)`
    """
    counts = (item < len(ids)).sum(dim=1).tolist()
    numbers, values = item.cpu().numpy(), score.cpu().numpy()
    return [
        RankedItems(ids[numbers[row, :count]], values[row, :count])
        for row, count in enumerate(counts)
    ]


def frame_of(user_id: np.ndarray, ids: np.ndarray, item: Tensor, score: Tensor) -> pd.DataFrame:
    """The lists as a frame: ``user_id``, ``rank`` (from 1), ``item_id``, ``score``."""
    numbers = item.cpu().numpy()
    row, place = (numbers < len(ids)).nonzero()
    return pd.DataFrame(
        {
            "user_id": user_id[row],
            "rank": (place + 1).astype(np.int32),
            "item_id": ids[numbers[row, place]],
            "score": score.cpu().numpy()[row, place],
        }
    )


def frame_of_neighbors(
    asked: np.ndarray, ids: np.ndarray, lists: Sequence[RankedItems], strength: str
) -> pd.DataFrame:
    """Similar items as a frame: ``similar_to``, ``rank`` (from 1), ``item_id``, and ``strength``.

    ``strength`` is the name of the column that says how similar they are.

    Shapes:
        - **asked:** original ids of the items whose neighbours were found, :math:`(n)`
        - **ids:** original ids of all items, for the type of an empty column
    """
    counts = [len(row.item) for row in lists]
    rank = np.concatenate([np.arange(1, count + 1) for count in (*counts, 0)])
    return pd.DataFrame(
        {
            "similar_to": np.repeat(asked, counts),
            "rank": rank.astype(np.int32),
            "item_id": np.concatenate([row.item for row in lists] or [ids[:0]]),
            strength: np.concatenate([row.score for row in lists] or [np.zeros(0)]),
        }
    )
