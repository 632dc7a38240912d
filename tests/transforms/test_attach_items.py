import math

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, knn_edge_type
from alignrec_pyg.transforms import KNNItemGraph
from alignrec_pyg.transforms.attach_items import attach_items

ITEMS, NEW = 12, 3


def items(count, seed):
    generator = torch.Generator().manual_seed(seed)
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 2, count
    data["item"].x_image = torch.randn(count, 3, generator=generator)
    data["item"].x_text = torch.randn(count, 4, generator=generator)
    data[INTERACTS].edge_index = torch.tensor([[0, 1], [0, 1]])
    return data


@pytest.fixture
def known():
    """Item 4 lacks a text."""
    data = items(ITEMS, 0)
    data["item"].x_text[4] = 0
    data["item"].mask_text = torch.arange(ITEMS) == 4
    return data


def cosine(a, b):
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def kept(table, row, k, present):
    """Cosines of the k most similar of the known items."""
    order = sorted(present, key=lambda j: (-cosine(row, table[j]), j))[:k]
    return {j: cosine(row, table[j]) for j in order}


def slow_edges(data, new, features, k, weighting):
    """The docstring's formula, one pair at a time: weight by (neighbour, new item)."""
    total = {}
    for feature, factor in features.items():
        table, rows = data["item"][f"x_{feature}"], new["item"][f"x_{feature}"]
        present = [j for j in range(len(table)) if table[j].any()]

        def value(similarity):
            return 1.0 if weighting == "binary" else similarity

        def degree(j, table=table, present=present):
            others = kept(table, table[j], k - 1, [p for p in present if p != j])
            return value(1.0) + sum(map(value, others.values()))

        for r, row in enumerate(rows):
            target = len(table) + r
            if not row.any():
                total[target, target] = total.get((target, target), 0) + factor
                continue
            neighbors = kept(table, row, k - 1, present)
            own = value(1.0) + sum(map(value, neighbors.values()))
            total[target, target] = total.get((target, target), 0) + factor * value(1.0) / own
            for j, similarity in neighbors.items():
                weight = factor * value(similarity) / math.sqrt(own * degree(j))
                total[j, target] = total.get((j, target), 0) + weight
    return total


@pytest.mark.parametrize("weighting", ["cosine", "binary"])
@pytest.mark.parametrize("features", [{"image": 1.0}, {"image": 0.1, "text": 0.9}])
def test_edges_are_those_of_a_loop_over_pairs(known, features, weighting):
    graph = KNNItemGraph(features, k=4, weighting=weighting)
    data, new = graph(known), items(NEW, 1)
    new["item"].x_text[2] = 0
    edge_index, weight = attach_items(graph, data, new)
    expected = slow_edges(data, new, features, 4, weighting)
    assert set(map(tuple, edge_index.t().tolist())) == set(expected)
    pairs = zip(edge_index.t().tolist(), weight.tolist(), strict=True)
    for (source, target), value in pairs:
        assert value == pytest.approx(expected[source, target], abs=1e-6)
    keys = (edge_index[1] * (ITEMS + NEW) + edge_index[0]).tolist()
    assert keys == sorted(keys)


def test_new_items_do_not_hear_each_other(known):
    graph = KNNItemGraph("image", k=4)
    data, new = graph(known), items(NEW, 1)
    new["item"].x_image[1] = new["item"].x_image[0]
    edge_index, weight = attach_items(graph, data, new)
    assert all(s < ITEMS or s == t for s, t in edge_index.t().tolist())
    first, second = edge_index[1] == ITEMS, edge_index[1] == ITEMS + 1
    assert torch.equal(weight[first], weight[second])
    data["item"].added = torch.arange(ITEMS) >= 3
    del data[knn_edge_type("image")]
    with pytest.raises(ValueError, match=r"'k' needs to be in \[1, 3\] \(got 4\)"):
        attach_items(graph, data, new)


def test_without_the_feature_the_mean_stands_in_as_in_the_graph(known):
    graph = KNNItemGraph("text", k=4, missing="mean")
    data, new = graph(known), items(NEW, 1)
    new["item"].x_text[2] = 0
    mean = known["item"].x_text[torch.arange(ITEMS) != 4].double().mean(0)
    filled = known["item"].x_text.clone().double()
    filled[4] = mean
    known["item"].x_text = filled
    new_filled = items(NEW, 1)
    new_filled["item"].x_text = new_filled["item"].x_text.double()
    new_filled["item"].x_text[2] = mean
    expected = slow_edges(known, new_filled, {"text": 1.0}, 4, "cosine")
    edge_index, weight = attach_items(graph, data, new)
    got = dict(zip(map(tuple, edge_index.t().tolist()), weight.tolist(), strict=True))
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "other",
    [
        KNNItemGraph("image", k=5),
        KNNItemGraph("text", k=4, name="image"),
        KNNItemGraph("image", k=4, weighting="binary"),
    ],
)
def test_a_transform_that_did_not_make_the_graph_is_refused(known, other):
    data = KNNItemGraph("image", k=4)(known)
    with pytest.raises(ValueError, match="arguments that the item graph 'image' of 'data'"):
        attach_items(other, data, items(NEW, 1))
    del data[knn_edge_type("image")]
    attach_items(other, data, items(NEW, 1))  # none there: nothing to compare with


def test_unfit_rows_and_symmetric_graphs_are_refused(known):
    graph = KNNItemGraph("image", k=4)
    data, new = graph(known), items(NEW, 1)
    with pytest.raises(ValueError, match="'graph' needs symmetric=False"):
        attach_items(KNNItemGraph("image", k=4, symmetric=True), data, new)
    new["item"].x_image[1, 2] = math.nan
    with pytest.raises(ValueError, match=r"finite values \(got NaN or infinity in 1 rows.*\[1\]\)"):
        attach_items(graph, data, new)
    new["item"].x_image = torch.ones(NEW, 2)
    with pytest.raises(ValueError, match=r"shape \(3, 3\) \(got \(3, 2\)\)"):
        attach_items(graph, data, new)
    del new["item"].x_image
    with pytest.raises(ValueError, match="'image' needs to be one of the feature tables"):
        attach_items(graph, data, new)
