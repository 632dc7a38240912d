"""Dropping interactions with low ratings."""

from __future__ import annotations

import math

from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.transforms.rows import select_rows


class MinRating(BaseTransform):
    """Keeps the interactions rated ``min_rating`` or more, which makes likes of ratings.

    Users and items stay, also those left without an interaction;
    :class:`~alignrec_pyg.transforms.KCore` drops them.

    Args:
        min_rating: The lowest rating that counts, in the data's own unit.

    Raises:
        ValueError: If ``min_rating`` is no finite number; when applied, if the data is split
            already, has no ratings, or nothing is left.
    """

    def __init__(self, min_rating: float) -> None:
        if not math.isfinite(min_rating):
            raise ValueError(f"'min_rating' needs to be a finite number (got {min_rating})")
        self.min_rating = min_rating

    def forward(self, data: HeteroData) -> HeteroData:
        """Filters ``data``; the input is left as it was."""
        links = data[INTERACTS]
        if "edge_label_index" in links:
            raise ValueError(
                "'data' needs to be unsplit (got an edge_label_index): apply MinRating before "
                "SplitInteractions"
            )
        if "rating" not in links:
            raise ValueError(
                '\'rating\' needs to be known for each interaction (data["user", "interacts", '
                '"item"].rating is missing)'
            )
        rating: Tensor = links.rating
        kept = (rating >= self.min_rating).nonzero()[:, 0]
        if kept.numel() == 0:
            raise ValueError(
                f"'min_rating' leaves no interactions (got {self.min_rating:g}, the highest of "
                f"{rating.numel()} ratings is {float(rating.max()):g}): lower it"
            )
        values = {name: value for name, value in links.items() if name != "edge_index"}
        links.edge_index = links.edge_index[:, kept]
        for name, value in select_rows(values, kept, rating.numel(), "interactions").items():
            links[name] = value
        return data

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.min_rating:g})"
