"""Links, features and graphs of a given size, made up: for timing, not for learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, ITEM, USER, feature_key

_BLOCK = 1 << 13


class Shape(NamedTuple):
    """Size of a data set: nodes, and links per split."""

    num_users: int
    num_items: int
    train: int
    val: int
    test: int


BABY = Shape(num_users=19_445, num_items=7_050, train=118_551, val=20_559, test=21_682)
# The paper gives the sum of the links; their parts are as large as Baby's.
ELECTRONICS = Shape(num_users=192_403, num_items=63_001, train=1_245_425, val=215_987, test=227_776)
SHAPES = {"baby": BABY, "electronics": ELECTRONICS}


def generate_links(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct links of ``shape``, skewed on both sides: train, val, test, ``[2, links]`` each.

    As in MMRec's splits, every user has at least three training, one validation and one test item.

    Raises:
        ValueError: If ``shape`` has too few links for that, or too many to be distinct.
    """
    rng = np.random.default_rng(0)
    users, extra = shape.num_users, shape.train + shape.val + shape.test - 5 * shape.num_users
    if min(extra, shape.train - 3 * users, shape.val - users, shape.test - users) < 0:
        raise ValueError(f"'shape' needs 3 training, 1 val, 1 test link per user (got {shape})")
    activity = rng.pareto(1.5, users) + 0.05
    # at most a third of the items each, so that drawing until distinct comes to an end
    degree = 5 + np.minimum(
        rng.multinomial(extra, activity / activity.sum()), max(shape.num_items // 3 - 5, 0)
    )
    while (missing := 5 * users + extra - degree.sum()) > 0:
        open_users = np.flatnonzero(degree < shape.num_items // 3)
        if not len(open_users):
            raise ValueError(f"'shape' needs fewer links per item and user (got {shape})")
        chosen = rng.permutation(open_users)[:missing]
        degree[chosen] += 1
    popularity = (np.arange(shape.num_items) + 20.0) ** -0.7
    popularity = rng.permutation(popularity / popularity.sum())
    key = np.empty(0, dtype=np.int64)
    while (short := degree - np.bincount(key // shape.num_items, minlength=users)).any():
        user = np.repeat(np.arange(users), short)
        item = rng.choice(shape.num_items, size=user.size, p=popularity)
        key = np.unique(np.concatenate([key, user * shape.num_items + item]))
    key = rng.permutation(key)
    key = key[np.argsort(key // shape.num_items, kind="stable")]
    rank = np.arange(key.size) - np.repeat(degree.cumsum() - degree, degree)
    label = np.where(rank < 3, 0, np.where(rank == 3, 1, np.where(rank == 4, 2, -1)))
    rest = np.repeat([0, 1, 2], [shape.train - 3 * users, shape.val - users, shape.test - users])
    label[label == -1] = rng.permutation(rest)
    links = torch.from_numpy(np.stack([key // shape.num_items, key % shape.num_items]))
    labels = torch.from_numpy(label)
    return links[:, labels == 0], links[:, labels == 1], links[:, labels == 2]


def generate_features(num_items: int, seed: int = 0, dim: int = 768) -> Tensor:
    """Rows with a low-rank structure, a shared mean and noise, float32 ``[num_items, dim]``."""
    rng = np.random.default_rng(seed)
    topics = rng.standard_normal((num_items, 32)), rng.standard_normal((32, dim)) / 32**0.5
    mean = rng.standard_normal(dim)
    rows = np.empty((num_items, dim), dtype=np.float32)
    for start in range(0, num_items, _BLOCK):  # in blocks: large tables are drawn in double
        block = slice(start, start + _BLOCK)
        noise = 0.3 * rng.standard_normal((rows[block].shape[0], dim))
        rows[block] = topics[0][block] @ topics[1] + mean + noise
    return torch.from_numpy(rows)


def make_graphs(
    shape: Shape, widths: Mapping[str, int]
) -> tuple[HeteroData, HeteroData, HeteroData]:
    """Graphs of ``shape`` to train on, to select by and to score; training links are known."""
    links = generate_links(shape)
    tables = {
        feature_key(name): generate_features(shape.num_items, seed, width)
        for seed, (name, width) in enumerate(widths.items())
    }
    graphs = HeteroData(), HeteroData(), HeteroData()
    for graph, labels in zip(graphs, links, strict=True):
        graph[USER].num_nodes, graph[ITEM].num_nodes = shape.num_users, shape.num_items
        graph[INTERACTS].edge_index, graph[INTERACTS].edge_label_index = links[0], labels
        graph[ITEM].update(tables)
    return graphs
