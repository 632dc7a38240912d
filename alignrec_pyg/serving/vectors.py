"""The vectors of a model whose scores are their inner products, and search among them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.ranking import embeddings
from alignrec_pyg.models import Recommender
from alignrec_pyg.nn.knn_search import lengths, nearest_rows, proposal_error

_BLOCK_SCORES = 1 << 24


class Vectors:
    """Copies of all vectors of a model; rows that are not finite are zero.

    Args:
        model: A model with vectors.
        data: The graph to serve.

    Attributes:
        user_x: ``[num_users, d]``.
        item_x: ``[num_items, d]``, column by column in memory, as a product with users reads them.
        finite_user: Which users have a finite vector, bool ``[num_users]``.
        finite_item: Which items have a finite vector, bool ``[num_items]``.

    Raises:
        ValueError: If the model's scores are not inner products.
        FloatingPointError: If no user or no item has a finite vector.
    """

    def __init__(self, model: Recommender, data: HeteroData) -> None:
        user_x, item_x = embeddings(model, data)
        dtype = torch.promote_types(user_x.dtype, item_x.dtype)
        dtype = torch.promote_types(dtype, torch.float32)  # half precision is slow on CPUs
        self.user_x = user_x.to(dtype, copy=True)
        self.item_x = item_x.to(dtype).t().clone(memory_format=torch.contiguous_format).t()
        name = type(model).__name__
        self.finite_user = _zero_unless_finite(self.user_x, "user", name)
        self.finite_item = _zero_unless_finite(self.item_x, "item", name)
        self._has_direction = self.item_x.any(dim=1)
        self._inverse_length = lengths(self.item_x).reciprocal().to(dtype)

    def nearest(self, items: Tensor, k: int, blocked: Tensor | None) -> Iterator[_Neighbors]:
        """The ``k`` other items of highest cosine to each item, ties by the lower number.

        Cosines are compared at a resolution of 1e-9: single precision finds those that may be among
        the best, double precision orders them. An item whose vector is zero has no similar items
        and is similar to none.

        Args:
            items: Numbers of items, int64 ``[n]``.
            k: Length of the lists; they are shorter where there are fewer items.
            blocked: Items that may not be listed, bool ``[num_items]``.

        Returns:
            For each item, numbers int64 ``[m]`` and cosines float64 ``[m]``.
        """
        allowed = self._has_direction if blocked is None else self._has_direction & ~blocked
        # the largest error of the difference of two cosines in single precision
        margin = 4 * proposal_error(self.item_x.size(1))
        for block in items.split(max(1, _BLOCK_SCORES // len(self.item_x))):
            cosine = normalize(self.item_x[block]) @ self.item_x.t() * self._inverse_length
            cosine.masked_fill_(~allowed, -math.inf)
            for item, row in zip(block, cosine, strict=True):
                row[item] = -math.inf
                count = min(k, int((row > -math.inf).sum()))
                if not self._has_direction[item] or count == 0:
                    yield items[:0], row[:0].double()
                    continue
                near = (row >= row.topk(count).values[-1] - margin).nonzero()[:, 0]
                best, exact = nearest_rows(self.item_x[near], self.item_x[item].unsqueeze(0), count)
                yield near[best[0]], exact[0]

    def cosines(self, items: Tensor, others: Tensor) -> Tensor:
        """The cosine of each item to each of the others, 0 to zero vectors, float64 ``[n, m]``."""
        one, other = (normalize(self.item_x[rows].double()) for rows in (items, others))
        return one @ other.t()

    def has_direction(self, items: Tensor) -> Tensor:
        """Which items have a vector that is not zero, bool ``[n]``."""
        return self._has_direction[items]


_Neighbors = tuple[Tensor, Tensor]


def _zero_unless_finite(x: Tensor, kind: str, name: str) -> Tensor:
    """Which rows are finite; all others are set to zero, with a warning."""
    finite = x.isfinite().all(dim=1)
    bad = len(finite) - int(finite.sum())
    if bad == len(finite):
        raise FloatingPointError(
            f"{name} gives no finite vector of any {kind}: its parameters or features are not "
            "finite, so there is no ranking"
        )
    if bad:
        x[~finite] = 0
        what = "never listed" if kind == "item" else "treated like users without links"
        warnings.warn(
            f"{bad:,} of {len(finite):,} {kind}s have vectors that are not finite: they are {what}",
            stacklevel=5,
        )
    return finite
