"""ItemKNN: neighbours by co-occurrence."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_number
from alignrec_pyg.models.closed_form import NeighborRecommender, common_users, user_item_matrix


class ItemKNN(NeighborRecommender):
    r"""Item-based collaborative filtering from `"Item-Based Collaborative Filtering Recommendation
    Algorithms" <https://doi.org/10.1145/371920.372071>`_ (WWW 2001), for implicit feedback, with
    the shrinkage of `"Are We Really Making Much Progress?" <https://arxiv.org/abs/1907.06902>`_
    (RecSys 2019).

    With the users :math:`\mathcal{N}_i` of an item, the similarity is the cosine of the columns of
    the interaction matrix, shrunk where it is based on few users,

    .. math::
        s_{ij} = \frac{|\mathcal{N}_i \cap \mathcal{N}_j|}
            {\sqrt{|\mathcal{N}_i| |\mathcal{N}_j|} + h}, \qquad
        \hat{y}_{ui} = \sum_{j \in \mathcal{N}_u \cap \mathrm{kNN}(i)} s_{ij}.

    Among equally similar neighbours those of lower number come first. Similarities are computed on
    the CPU in blocks of items, and 8 bytes a neighbour are kept.

    Args:
        data: Training graph; reads the sizes.
        num_neighbors: Most neighbours :math:`k` of an item.
        shrinkage: Term :math:`h` of the denominator (not negative).

    Raises:
        ValueError: If an argument is out of range.
    """  # noqa: D205

    def __init__(
        self, data: HeteroData, *, num_neighbors: int = 100, shrinkage: float = 10.0
    ) -> None:
        super().__init__(data, num_neighbors=num_neighbors, hparams=locals())
        check_number("shrinkage", shrinkage, least=0)

    def solve(self, data: HeteroData) -> None:
        """Finds the neighbours from the links of ``data``."""
        of_users = self.link_graph(data, user_item_matrix)
        length = np.sqrt(of_users.sum(axis=0, dtype=np.float64))
        neighbor = np.zeros(self.neighbor.shape, dtype=np.int32)
        similarity = np.zeros(self.similarity.shape, dtype=np.float32)
        for start, rows in common_users(of_users):
            common = rows.tocoo()
            not_itself = common.col != common.row + start
            row, col = common.row[not_itself], common.col[not_itself]
            value = common.data[not_itself] / (length[row + start] * length[col] + self.shrinkage)
            order = np.lexsort((col, -value, row))  # the last one is the first to sort by
            row, col, value = row[order], col[order], value[order]
            place = np.arange(row.size) - np.searchsorted(row, row)
            kept = place < neighbor.shape[1]
            neighbor[start + row[kept], place[kept]] = col[kept]
            similarity[start + row[kept], place[kept]] = value[kept]
        self.neighbor.copy_(torch.from_numpy(neighbor))
        self.similarity.copy_(torch.from_numpy(similarity))
