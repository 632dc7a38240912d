"""Models with separate content and ID vectors, which alignment losses can compare."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import InteractionBatch, Nodes, feature_mask
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.nn import Alignment


class Representations(NamedTuple):
    r"""ID and content vectors of users and items, before they are fused.

    Shapes:
        - **id_user, content_user:** :math:`(|U|, d)`, or a row for each of the requested nodes
        - **id_item, content_item:** :math:`(|I|, d)`, likewise
    """

    id_user: Tensor
    id_item: Tensor
    content_user: Tensor
    content_item: Tensor


class ContentRecommender(Recommender):
    """A model whose vectors are fused from ID and content vectors of one width.

    A subclass gives :meth:`representations`, :meth:`terms` and, where it does not add the two,
    :meth:`fuse`; :meth:`forward` and :meth:`loss_terms` follow. What a batch needs is then
    computed from one call of :meth:`representations`, also when
    :class:`~alignrec_pyg.models.Aligned` adds its own terms.
    """

    features: list[str]
    """The feature sets that content comes from."""

    @abstractmethod
    def representations(self, data: HeteroData, nodes: Nodes | None = None) -> Representations:
        """ID and content vectors of all users and items, or only of ``nodes``."""

    @abstractmethod
    def terms(self, batch: InteractionBatch, x: Representations) -> dict[str, Tensor]:
        """The named, unweighted terms of the training loss, scalars.

        Args:
            batch: Training triples, numbered among the rows of ``x``.
            x: The result of :meth:`representations`, which contains everything that depends on the
                graph, so that there is no ``data`` here.
        """

    def fuse(self, x: Representations) -> tuple[Tensor, Tensor]:
        """The final vectors of users and items: here, the sum of ID and content."""
        return x.id_user + x.content_user, x.id_item + x.content_item

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """The fused vectors of all users and items, or only of ``nodes``."""
        return self.fuse(self.representations(data, nodes))

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """The terms of :meth:`terms`, on the model's representations of ``data``."""
        batch = batch.compact()
        return self.terms(batch, self.representations(data, batch.nodes))


def items_with_features(data: HeteroData, features: Sequence[str]) -> Tensor | None:
    """Bool ``[num_items]``, true where an item has any of ``features``; ``None`` if all do."""
    lacking = torch.stack([feature_mask(data, name) for name in features]).all(dim=0)
    return ~lacking if bool(lacking.any()) else None


def alignment_of(model: Recommender, data: HeteroData) -> Alignment:
    """The alignment losses over the items with features, as the model's hyper-parameters ask."""
    names = list(inspect.signature(Alignment).parameters)
    options = {name: getattr(model, name) for name in names if name != "has_features"}
    return Alignment(has_features=items_with_features(data, model.features), **options)
