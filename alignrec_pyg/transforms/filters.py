"""Filters of users, items and interactions."""

from __future__ import annotations

from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.graph import INTERACTS, ITEM, USER, add_known_pairs, core_links, link_values
from alignrec_pyg.transforms.subset import (
    check_no_item_graphs,
    check_unsplit,
    select_links,
    select_nodes,
)


class KCore(BaseTransform):
    """Keeps the largest subgraph in which every user and item has at least ``k`` interactions.

    Users and items with fewer than ``k`` interactions are removed together, repeatedly, until none
    is left to remove. The remaining ones are renumbered from 0 in their old order, with all of
    their attributes: ids, feature tables and masks, texts, images, and the times, ratings and split
    labels of the interactions. A repeated (user, item) pair counts as often as it occurs. Known
    pairs do not count, and stay where their user and their item do.

    Args:
        k: Minimum number of interactions of a user or an item; 1 removes only those without any.

    Raises:
        ValueError: If ``k`` is not a positive integer; when applied, if nothing is left, if the
            data is split already, or if it has other edges, such as item graphs.

    Example:
        >>> import torch
        >>> from torch_geometric.data import HeteroData
        >>> from alignrec_pyg.transforms import KCore
        >>> data = HeteroData()
        >>> data["user"].num_nodes, data["item"].num_nodes = 3, 2
        >>> pairs = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 0, 1, 0]])
        >>> data["user", "interacts", "item"].edge_index = pairs
        >>> KCore(2)(data)["user"].num_nodes
        2
    """

    def __init__(self, k: int = 5) -> None:
        self.k = check_integer("k", k, 1)

    def forward(self, data: HeteroData) -> HeteroData:
        """Returns a filtered copy of ``data``; the input is unchanged."""
        check_no_item_graphs(data, "KCore")
        check_unsplit(data, "KCore")
        edge_index: Tensor = data[INTERACTS].edge_index
        edges = core_links(edge_index[0], edge_index[1], self.k)
        if edges.numel() == 0:
            raise ValueError(
                f"'k' leaves no interactions (got {self.k} for {edge_index.size(1)} interactions "
                f"of {data[USER].num_nodes} users and {data[ITEM].num_nodes} items): "
                "choose a smaller k"
            )
        select_links(data, edges)
        for node_type, ends in zip((USER, ITEM), data[INTERACTS].edge_index, strict=True):
            select_nodes(data, node_type, ends.unique())
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(k={self.k})"


class MinRating(BaseTransform):
    """Keeps the interactions rated ``min_rating`` or higher; the others become known pairs.

    This turns explicit ratings into implicit feedback: a lower rating is no positive, but the item
    is neither drawn as a negative nor recommended (:func:`~alignrec_pyg.graph.known_pairs`). The
    data have only one rating of a repeated pair, as chosen by ``keep`` of the reader. All users and
    items are kept, including those without interactions; :class:`~alignrec_pyg.transforms.KCore`
    removes them.

    Args:
        min_rating: Lowest rating to keep, in the unit of the data.

    Raises:
        ValueError: If ``min_rating`` is not finite; when applied, if the data is split already, has
            no ratings, or nothing is left.
    """

    def __init__(self, min_rating: float) -> None:
        check_number("min_rating", min_rating)
        self.min_rating = min_rating

    def forward(self, data: HeteroData) -> HeteroData:
        """Returns a filtered copy of ``data``; the input is unchanged."""
        check_unsplit(data, "MinRating")
        rating = link_values(data, "rating")
        liked = rating >= self.min_rating
        kept = liked.nonzero()[:, 0]
        if kept.numel() == 0:
            raise ValueError(
                f"'min_rating' leaves no interactions (got {self.min_rating:g}, the highest of "
                f"{rating.numel()} ratings is {float(rating.max()):g}): lower it"
            )
        links, lower = data[INTERACTS], (~liked).nonzero()[:, 0]
        pairs = links.edge_index[:, lower]
        values = {"rating": rating[lower]}
        if "time" in links:
            values["time"] = link_values(data, "time")[lower]
        select_links(data, kept)
        add_known_pairs(data, pairs, values)
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.min_rating:g})"
