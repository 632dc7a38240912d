"""What all item graphs share: weights of feature sets, normalisation, the sum of several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

_SMALLEST_DEGREE = 1e-6  # sums of cosines below it are zero but for the noise of single precision


def checked_weights(argument: str, weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of the feature sets.

    Raises:
        ValueError: If there is none, one is negative or not finite, or all are zero.
    """
    usable = all(0 <= weight < float("inf") for weight in weights.values())
    if not usable or not any(weights.values()):
        raise ValueError(
            f"'{argument}' needs at least one feature set, with weights that are finite, not "
            f"negative and not all zero (got {dict(weights)})"
        )
    return dict(weights)


def checked_name(name: str | None, features: Iterable[str]) -> str:
    """The name of the graph, by default those of its feature sets joined by ``"_"``.

    Raises:
        ValueError: If it is empty.
    """
    if name is not None and not name:
        raise ValueError("'name' needs at least one character (got ''): leave it out")
    return "_".join(features) if name is None else name


def normalized_weight(source: Tensor, target: Tensor, similarity: Tensor, num_items: int) -> Tensor:
    r"""Symmetric normalisation of the kept similarities :math:`w_{ij}`.

    .. math::
        s_{ij} = \frac{w_{ij}}{\sqrt{d_i d_j}}, \qquad d_i = \sum_j w_{ij},

    item :math:`i` in ``target``, its neighbour :math:`j` in ``source``. A :math:`d_i` that negative
    similarities pull to zero or below counts positive ones only; an item without positive ones has
    no degree: all its weights are 0.

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
    """The sum of graphs, each edge once, sorted by target, then source.

    Args:
        graphs: Of each its factor, ``edge_index`` and ``edge_weight``.
        num_items: Number of items.

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
    """Where the tensors of ``data`` are: the device of the first, the CPU if there is none."""
    devices = (
        value.device for store in data.stores for value in store.values() if torch.is_tensor(value)
    )
    return next(devices, torch.device("cpu"))
