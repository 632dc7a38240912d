"""Shared parts of the item graphs: weights of features, normalisation and weighted sums."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

_SMALLEST_DEGREE = 1e-6  # smaller sums of cosines are zero up to rounding in single precision


def checked_weights(argument: str, weights: Mapping[str, float]) -> dict[str, float]:
    """Checks the weights of the features."""
    usable = all(0 <= weight < float("inf") for weight in weights.values())
    if not usable or not any(weights.values()):
        raise ValueError(
            f"'{argument}' needs at least one feature set, with weights that are finite, not "
            f"negative and not all zero (got {dict(weights)})"
        )
    return dict(weights)


def checked_name(name: str | None, features: Iterable[str]) -> str:
    """The name of the graph, by default the names of its features joined by ``"_"``."""
    if name is not None and not name:
        raise ValueError("'name' needs at least one character (got ''): leave it out")
    return "_".join(features) if name is None else name


def normalized_weight(source: Tensor, target: Tensor, similarity: Tensor, num_items: int) -> Tensor:
    r"""Symmetric normalisation of the similarities :math:`w_{ij}` of neighbours.

    .. math::
        s_{ij} = \frac{w_{ij}}{\sqrt{d_i d_j}}, \qquad d_i = \sum_j w_{ij},

    with item :math:`i` in ``target`` and its neighbour :math:`j` in ``source``. If negative
    similarities make :math:`d_i` zero or negative, only the positive ones are summed; the weights
    of an item without positive similarities are all 0.

    Shapes:
        - **input:** source, target int64 :math:`(E)`, similarity float64 :math:`(E)`
        - **output:** float64 :math:`(E)`
    """
    row_sum = similarity.new_zeros(num_items).index_add_(0, target, similarity)
    positive_sum = torch.zeros_like(row_sum).index_add_(0, target, similarity.clamp(min=0))
    degree = torch.where(row_sum > _SMALLEST_DEGREE, row_sum, positive_sum)
    degree = degree.masked_fill(degree <= _SMALLEST_DEGREE, float("inf"))
    return similarity / (degree[source] * degree[target]).sqrt()


def weighted_sum(
    graphs: Iterable[tuple[float, Tensor, Tensor]], num_items: int
) -> tuple[Tensor, Tensor]:
    """The weighted sum of graphs, with distinct edges sorted by target and source.

    Each graph is its factor, ``edge_index`` and ``edge_weight``.

    Shapes:
        - **output:** edge_index int64 :math:`(2, E)`, edge_weight float32 :math:`(E)`
    """
    keys, weights = [], []
    for factor, (source, target), weight in graphs:
        keys.append(target * num_items + source)
        weights.append(factor * weight)
    key, position = torch.cat(keys).unique(return_inverse=True)
    total = weights[0].new_zeros(key.numel()).index_add_(0, position, torch.cat(weights))
    return torch.stack([key % num_items, key // num_items]), total.float()


def data_device(data: HeteroData) -> torch.device:
    """The device of the first tensor of ``data``, or the CPU if it has no tensors."""
    devices = (
        value.device for store in data.stores for value in store.values() if torch.is_tensor(value)
    )
    return next(devices, torch.device("cpu"))
