"""Where one item stands in the rankings of all users."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.ranking import embeddings
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import Recommender

_BLOCK_SCORES = 1 << 22


class Places(NamedTuple):
    """An item's place among the items that each user does not know.

    Shapes:
        - **place:** from 1, int64 :math:`(|U|)`
        - **of:** how many items these are, int64 :math:`(|U|)`
    """

    place: Tensor
    of: Tensor


@torch.no_grad()
def places(model: Recommender, data: HeteroData, item: int) -> Places:
    """The places of an item that nobody knows, one more than the number of items scored higher.

    Users are scored in blocks: nothing of size users x items is held.

    Args:
        model: Any recommender; put in evaluation mode meanwhile.
        data: The graph to serve.
        item: Number of the item.
    """
    user_x, item_x = embeddings(model, data)
    known = data[INTERACTS].edge_index
    num_users, num_items = user_x.size(0), item_x.size(0)
    place = torch.empty(num_users, dtype=torch.int64, device=user_x.device)
    step = max(1, _BLOCK_SCORES // num_items)
    left = torch.full_like(place, num_items)
    for start in range(0, num_users, step):
        block = slice(start, start + step)
        scores = user_x[block] @ item_x.T
        user, other = known[:, (known[0] >= start) & (known[0] < start + step)]
        own = scores[:, item].clone()
        scores[user - start, other] = -math.inf
        place[block] = 1 + (scores > own.unsqueeze(1)).sum(dim=1)
        left[block] -= scores.isneginf().sum(dim=1)
    return Places(place.cpu(), left.cpu())
