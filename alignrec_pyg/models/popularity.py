"""Popularity: the same ranking for everybody."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models.closed_form import ClosedFormRecommender


class Popularity(ClosedFormRecommender):
    r"""Ranks the items by their number of links, the baseline TopPop of `"Performance of
    Recommender Algorithms on Top-N Recommendation Tasks" <https://doi.org/10.1145/1864708.1864721>`_
    (RecSys 2010).

    .. math::
        \hat{y}_{ui} = |\mathcal{N}_i| - i / |I|

    The fraction orders items of equally many links by their number :math:`i`, so that lists of any
    length agree. A model that does not beat it has learnt nothing about single users. The buffer
    ``num_links`` ``[num_items]`` holds the counts, float32.

    Args:
        data: Training graph; reads the sizes.
    """  # noqa: D205

    num_links: Tensor

    def __init__(self, data: HeteroData) -> None:
        super().__init__(data)
        self.register_buffer("num_links", torch.zeros(self.num_items))

    def solve(self, data: HeteroData) -> None:
        """Counts the links of every item."""
        item = data[INTERACTS].edge_index[1]
        self.num_links.copy_(torch.bincount(item, minlength=self.num_items))

    def scorer(self, data: HeteroData, items: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Gives all users the counts, in double precision for the fraction."""
        number = torch.arange(self.num_items, device=self.num_links.device)
        score = self.num_links.double() - number / self.num_items
        score = score if items is None else score[items]
        return lambda users: score.repeat(users.numel(), 1)
