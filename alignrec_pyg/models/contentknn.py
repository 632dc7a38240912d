"""ContentKNN: neighbours by content."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import feature_mask, feature_table
from alignrec_pyg.models.closed_form import NeighborRecommender
from alignrec_pyg.models.inputs import ModelInputs
from alignrec_pyg.nn import unit_rows
from alignrec_pyg.nn.features import check_feature_table
from alignrec_pyg.nn.knn_search import cosine_neighbors


class ContentKNN(NeighborRecommender):
    r"""Content-based filtering by item neighbours, the baseline ItemKNN-CBF of `"Are We Really
    Making Much Progress?" <https://arxiv.org/abs/1907.06902>`_ (RecSys 2019).

    .. math::
        s_{ij} = \max(0, \cos(x_i, x_j)), \qquad
        \hat{y}_{ui} = \sum_{j \in \mathcal{N}_u \cap \mathrm{kNN}(i)} s_{ij}

    Here :math:`x_i` has the item's rows of all tables side by side, each scaled to length 1, so
    that the cosine of items with all of them is the mean over the tables. An item without any is no
    item's neighbour and scores 0. Of the links only each user's items are used, so its metrics show
    what the features alone are worth.

    Args:
        data: Training graph; reads the sizes and the feature tables.
        features: Feature tables to read (``None``: all).
        num_neighbors: Most neighbours :math:`k` of an item.

    Raises:
        ValueError: If an argument is out of range, or there is no feature table.
    """  # noqa: D205

    inputs = ModelInputs(tables="separate")

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        num_neighbors: int = 20,
    ) -> None:
        super().__init__(data, num_neighbors=num_neighbors, hparams=locals())

    def solve(self, data: HeteroData) -> None:
        """Finds the neighbours from the feature tables of ``data``.

        Raises:
            ValueError: If a table has a value that is not finite.
        """
        parts = []
        for name in self.features:
            table, mask = feature_table(data, name), feature_mask(data, name)
            check_feature_table(name, table, mask, self.num_items)
            parts.append(unit_rows(table.masked_fill(mask.unsqueeze(1), 0)))
        content = torch.cat(parts, dim=1)
        present = content.any(dim=1).nonzero()[:, 0]
        self.reset_parameters()
        # An item is its own first neighbour.
        k = min(self.neighbor.size(1) + 1, present.numel())
        if k < 2:
            return
        neighbor, cosine = cosine_neighbors(content[present], k)
        self.neighbor[present, : k - 1] = present[neighbor[:, 1:]].int()
        self.similarity[present, : k - 1] = cosine[:, 1:].to(self.similarity.dtype)
