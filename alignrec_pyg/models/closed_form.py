"""The contract of models that are solved once instead of trained by gradient steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_integer
from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.base import Recommender

_BLOCK_PATHS = 4_000_000


class ClosedFormRecommender(Recommender):
    """A model that computes all it scores with in one call of :meth:`solve`.

    :func:`~alignrec_pyg.fit` makes this call, evaluates validation once, and reports one epoch; of
    its configuration only ``ks``, ``monitor``, ``eval_users`` and ``seed`` matter. What
    :meth:`solve` finds are buffers or parameters of fixed shape, so that it is saved and loaded
    like the weights of any model. Before that call they are zero, and so are the scores.

    A model without vectors overrides :meth:`~Recommender.scorer`.
    """

    @abstractmethod
    def solve(self, data: HeteroData) -> None:
        """Computes buffers and parameters from the links of ``data``, and its tables."""

    def reset_parameters(self) -> None:
        """Sets all buffers to zero, as before :meth:`solve`."""
        for buffer in self.buffers():
            buffer.zero_()

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """Raises ``TypeError``: the model has no vectors."""
        raise TypeError(f"{type(self).__name__} has no vectors: 'scorer' gives its scores")

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """Raises ``TypeError``: the model has no training loss."""
        raise TypeError(f"{type(self).__name__} has no training loss: 'solve' computes it")

    def known_items(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        """The items of every user in CSR format, int32: pointers ``[num_users + 1]`` and items."""
        return self.link_graph(data, items_of_users)


class NeighborRecommender(ClosedFormRecommender):
    r"""Scores an item by its similarity to the user's items among its ``k`` nearest ones.

    .. math::
        \hat{y}_{ui} = \sum_{j \in \mathcal{N}_u \cap \mathrm{kNN}(i)} s_{ij}

    The buffers ``neighbor`` and ``similarity`` ``[num_items, k]`` hold the neighbours, padded with
    similarity 0, and only positive similarities count; no matrix of items x items is held.
    """

    neighbor: Tensor
    similarity: Tensor

    def __init__(self, data: HeteroData, *, num_neighbors: int, hparams: Mapping[str, Any]) -> None:
        super().__init__(data, hparams=hparams)
        check_integer("num_neighbors", num_neighbors, 1)
        shape = self.num_items, min(num_neighbors, self.num_items - 1)
        self.register_buffer("neighbor", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(shape))

    def scorer(self, data: HeteroData, items: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Sums the similarities to the items of ``data`` that a user is linked to."""
        neighbor, similarity = self.neighbor, self.similarity
        if items is not None:
            neighbor, similarity = neighbor[items], similarity[items]
        target, column = (similarity > 0).nonzero(as_tuple=True)
        source, value = neighbor[target, column], similarity[target, column].float()
        # Products of two sparse matrices are SciPy's, on the CPU: there is little to compute.
        weights = csr_array(
            (value.cpu().numpy(), (source.cpu().numpy(), target.cpu().numpy())),
            shape=(self.num_items, neighbor.size(0)),
        )
        known, device = self.link_graph(data, user_item_matrix), neighbor.device

        def scores(users: Tensor) -> Tensor:
            found = known[users.cpu().numpy()] @ weights
            return torch.from_numpy(found.toarray()).to(device)

        return scores


def items_of_users(edge_index: Tensor, num_users: int, num_items: int) -> tuple[Tensor, Tensor]:
    """Distinct links in CSR format, int32: pointers ``[num_users + 1]`` and items, ascending."""
    key = (edge_index[0] * num_items + edge_index[1]).unique()
    count = torch.bincount(key // num_items, minlength=num_users)
    return functional.pad(count.cumsum(0), (1, 0)).int(), (key % num_items).int()


def user_item_matrix(edge_index: Tensor, num_users: int, num_items: int) -> csr_array:
    """Distinct links as ones, float32 ``[num_users, num_items]``, on the CPU."""
    pointer, item = items_of_users(edge_index, num_users, num_items)
    ones = np.ones(item.numel(), dtype=np.float32)
    return csr_array(
        (ones, item.cpu().numpy(), pointer.cpu().numpy()), shape=(num_users, num_items)
    )


def common_users(of_users: csr_array) -> Iterator[tuple[int, csr_array]]:
    """The number of common users of all pairs of items, in blocks of rows.

    Sparse products, with about 50 bytes for each of 4 million paths item - user - item.

    Args:
        of_users: The matrix of :func:`user_item_matrix`.

    Returns:
        The first item of each block, and its rows, float32 ``[rows, num_items]``.
    """
    of_items = of_users.T.tocsr()
    num_items = of_items.shape[0]
    paths_before = np.append(0.0, np.cumsum(of_items @ np.diff(of_users.indptr).astype(np.float64)))
    start = 0
    while start < num_items:
        limit = paths_before[start] + _BLOCK_PATHS
        stop = max(int(np.searchsorted(paths_before, limit, side="right")) - 1, start + 1)
        yield start, of_items[start:stop] @ of_users
        start = stop
