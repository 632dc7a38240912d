"""Connection of new items to an existing item graph."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import (
    ITEM,
    added_items,
    feature_mask,
    feature_table,
    item_graph_names,
    knn_edge_type,
)
from alignrec_pyg.nn.knn_search import nearest_rows, neighbors_of
from alignrec_pyg.transforms.item_graph import normalized_weight, weighted_sum
from alignrec_pyg.transforms.knn_item_graph import KNNItemGraph

_COMPARED_ITEMS = 8  # rows of the graph that are recomputed, to verify the arguments
_TOLERANCE = 1e-5


def attach_items(graph: KNNItemGraph, data: HeteroData, new: HeteroData) -> tuple[Tensor, Tensor]:
    r"""Computes the edges from known to new items, as in :class:`KNNItemGraph`.

    A new item :math:`i` has itself and its :math:`k - 1` most similar known items as neighbours,

    .. math::
        s_{ij} = \frac{w_{ij}}{\sqrt{d_i d_j}}, \qquad d_i = \sum_j w_{ij},

    with the degrees :math:`d_j` of the known items. New items receive messages and never send any,
    not even to other new ones: the messages of known items do not change, and those of a new item
    do not depend on other new items. New items are numbered after the known ones.

    An item without the feature has a self-loop of weight 1 or, with ``missing="mean"``, the mean of
    the known items' rows, as in the graph. Items that were added after training are neighbours of
    no item. ``graph`` is the transform that built the graph of ``data``, or, without a graph of its
    name, one that would build it.

    Shapes:
        - **output:** edge_index int64 :math:`(2, E)`, sorted by target, then source; edge_weight
          float32 :math:`(E)`
    """
    if graph.symmetric:
        raise ValueError(
            "'graph' needs symmetric=False: in a symmetric graph, new items would change the "
            "vectors of known ones"
        )
    eligible = ~added_items(data)
    num_items, num_new = int(data[ITEM].num_nodes), int(new[ITEM].num_nodes)
    parts = [
        _FeatureGraph(graph, feature, data, new_rows(feature, data, new), eligible)
        for feature in graph.weights
    ]
    if graph.name in item_graph_names(data):
        _check_graph(graph, parts, data, eligible)
    edges = [(part.factor, *part.of_new_items()) for part in parts]
    return weighted_sum(edges, num_items + num_new)


class _FeatureGraph:
    """The graph of one feature set."""

    def __init__(
        self, graph: KNNItemGraph, feature: str, data: HeteroData, new: Tensor, eligible: Tensor
    ) -> None:
        self.factor = graph.weights[feature]
        self._graph = graph
        self._num_items = int(data[ITEM].num_nodes)
        table = feature_table(data, feature)
        absent = feature_mask(data, feature) | ~table.any(dim=1)
        lacking = ~new.any(dim=1)
        if graph.missing == "mean":
            mean = table[eligible & ~absent].double().mean(dim=0)
            table = torch.where(absent.unsqueeze(1), mean, table.double())
            new = torch.where(lacking.unsqueeze(1), mean, new.double())
            absent, lacking = torch.zeros_like(absent), torch.zeros_like(lacking)
        self._present = (eligible & ~absent).nonzero()[:, 0]
        if self._present.numel() < graph.k:
            raise ValueError(
                f"'k' needs to be in [1, {self._present.numel()}] (got {graph.k}): so many known "
                f"items have feature '{feature}'"
            )
        self._table = table[self._present]
        self._new = new
        self._lacking = lacking

    def of_new_items(self) -> tuple[Tensor, Tensor]:
        """Edges into the new items, weights float64."""
        asking = (~self._lacking).nonzero()[:, 0]
        everyone = torch.arange(self._lacking.numel(), device=asking.device) + self._num_items
        neighbor, cosine = nearest_rows(
            self._table,
            self._new[asking],
            self._graph.k - 1,
            block_size=self._graph.block_size,
        )
        target = everyone[asking].repeat_interleave(self._graph.k - 1)
        return self._weighted(
            torch.cat([self._present[neighbor.reshape(-1)], everyone]),
            torch.cat([target, everyone]),
            torch.cat([cosine.reshape(-1), cosine.new_ones(everyone.numel())]),
        )

    def of_known_items(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Edges into some known items, as in the graph."""
        return self._weighted(*self._lists(items))

    def _weighted(self, source: Tensor, target: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
        """Edges with normalised weights; the lists of all sources determine their degrees."""
        others = source[~torch.isin(source, target)].unique()
        more_source, more_target, more_cosine = self._lists(others)
        size = self._num_items + self._lacking.numel()
        similarity = torch.cat([cosine, more_cosine])
        if self._graph.weighting == "binary":
            similarity = torch.ones_like(similarity)
        weight = normalized_weight(
            torch.cat([source, more_source]), torch.cat([target, more_target]), similarity, size
        )
        return torch.stack([source, target]), weight[: source.numel()]

    def _lists(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sources, targets and cosines of known items; without the feature, a self-loop."""
        has = torch.isin(items, self._present)
        rows = torch.searchsorted(self._present, items[has])
        neighbor, cosine = neighbors_of(
            self._table, rows, self._graph.k, block_size=self._graph.block_size
        )
        alone = items[~has]
        return (
            torch.cat([self._present[neighbor.reshape(-1)], alone]),
            torch.cat([items[has].repeat_interleave(self._graph.k), alone]),
            torch.cat([cosine.reshape(-1), cosine.new_ones(alone.numel())]),
        )


def new_rows(feature: str, data: HeteroData, new: HeteroData) -> Tensor:
    """Feature rows of the new items, zero for those without the feature, float32 ``[n, dim]``."""
    width = feature_table(data, feature).size(1)
    table = feature_table(new, feature).to(feature_table(data, feature).device)
    if table.dim() != 2 or table.shape != (new[ITEM].num_nodes, width):
        raise ValueError(
            f"feature '{feature}' of the new items needs the shape "
            f"({new[ITEM].num_nodes}, {width}) (got {tuple(table.shape)})"
        )
    table = table.masked_fill(feature_mask(new, feature).to(table.device).unsqueeze(1), 0)
    broken = (~table.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    if broken:
        raise ValueError(
            f"feature '{feature}' of the new items needs finite values (got NaN or infinity in "
            f"{len(broken)} rows, the first: {broken[:5]})"
        )
    return table


def _check_graph(
    graph: KNNItemGraph, parts: list[_FeatureGraph], data: HeteroData, eligible: Tensor
) -> None:
    """Recomputes some rows of the graph in ``data`` and compares them."""
    num_items = int(data[ITEM].num_nodes)
    edges = data[knn_edge_type(graph.name)]
    items = eligible.nonzero()[:, 0]
    items = items[:: max(1, items.numel() // _COMPARED_ITEMS)]
    made, weight = weighted_sum(
        [(part.factor, *part.of_known_items(items)) for part in parts], num_items
    )
    inside = torch.isin(edges.edge_index[1], items)
    there = edges.edge_index[:, inside]
    order = (there[1] * num_items + there[0]).argsort()
    same = torch.equal(there[:, order], made) and torch.allclose(
        edges.edge_weight[inside][order], weight, atol=_TOLERANCE
    )
    if not same:
        raise ValueError(
            f"'graph' needs the arguments that the item graph '{graph.name}' of 'data' was built "
            f"with, on the same features ({graph!r} gives other edges)"
        )
