"""What users are known to have had, in CSR format."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, ITEM, USER, known_links
from alignrec_pyg.models.closed_form import items_of_users
from alignrec_pyg.nn.csr import select_rows


class KnownItems:
    """The items of each user, with int32 indices, and which of them are links that models use.

    The others are known pairs, such as low ratings, and links to predict.

    Args:
        data: The graph.

    Attributes:
        num_users: For each item the number of users who are linked to it, int64 ``[num_items]``.
        num_links: For each user the number of links, int64 ``[num_users]``.
    """

    def __init__(self, data: HeteroData) -> None:
        num_users, num_items = int(data[USER].num_nodes), int(data[ITEM].num_nodes)
        links = data[INTERACTS].edge_index
        self._pointer, self._item = items_of_users(known_links(data), num_users, num_items)
        number = torch.arange(num_users, device=links.device)
        user = number.repeat_interleave(self._pointer.diff())
        self._is_link = torch.isin(user * num_items + self._item, links[0] * num_items + links[1])
        self.num_users = torch.bincount(self._item[self._is_link], minlength=num_items)
        self.num_links = torch.bincount(user[self._is_link], minlength=num_users)

    def of(self, users: Tensor) -> Tensor:
        """All pairs of some users, int64 ``[2, E]``."""
        pointer, places = select_rows(self._pointer, users)
        return torch.stack([users.repeat_interleave(pointer.diff()), self._item[places].long()])

    def links_of(self, user: Tensor) -> Tensor:
        """The items that one user, int64 ``[1]``, is linked to, ascending, int64."""
        _, places = select_rows(self._pointer, user)
        return self._item[places][self._is_link[places]].long()
