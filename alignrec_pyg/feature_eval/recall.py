"""What a protocol finds: the rank of every target, and recall at any cut-off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignrec_pyg.checks import check_cut_offs
from alignrec_pyg.feature_eval.ranks import (
    Queries,
    TargetRanks,
    candidate_counts,
    popularity_ranks,
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeatureRecall:
    r"""Where the items to find stand among the candidates, for every query.

    A query is a user (zero-shot) or an item (item-CF). With the number :math:`r_t` of candidates
    before target :math:`t` and the targets :math:`T_q` of a query,

    .. math:: \text{recall@}k = \frac1n \sum_q \frac1{|T_q|} \sum_{t \in T_q} [r_t < k],

    the hit rate where every query has one target, as in the paper. With ``any_target`` a query
    counts as 1 if any of its targets is among the best k.

    Args:
        ks: Cut-offs of :attr:`recall`, :attr:`popularity` and :attr:`random`; :meth:`hits` takes
            any.
        query: Users or items that ask, ascending, int64 ``[n]``.
        row: For each target the row of its query, ascending, int64 ``[m]``.
        rank: Candidates before each target by the features, int64 ``[m]``.
        popularity_rank: Candidates before each target by popularity, int64 ``[m]``.
        num_candidates: Candidates of each query, int64 ``[n]``.
        num_unranked: Queries whose history has no features: they find nothing.
        any_target: Whether one of the targets is enough.
    """

    ks: tuple[int, ...]
    query: Tensor
    row: Tensor
    rank: Tensor
    popularity_rank: Tensor
    num_candidates: Tensor
    num_unranked: int
    any_target: bool = False

    @property
    def num_queries(self) -> int:
        """Number of users or items that ask."""
        return self.query.numel()

    @property
    def recall(self) -> dict[int, float]:
        """Recall by the features, for every cut-off."""
        return self._means(self.hits)

    @property
    def popularity(self) -> dict[int, float]:
        """Recall if the candidates stood in the order of popularity, ties by item number."""
        return self._means(self.popularity_hits)

    @property
    def random(self) -> dict[int, float]:
        """Expected recall if the candidates stood in random order."""
        return self._means(self.random_hits)

    def hits(self, k: int) -> Tensor:
        """Share of its targets that each query finds among the best ``k``, float64 ``[n]``.

        Raises:
            ValueError: If ``k`` is no positive integer.
        """
        return self._found(self.rank, k)

    def popularity_hits(self, k: int) -> Tensor:
        """The same by popularity."""
        return self._found(self.popularity_rank, k)

    def random_hits(self, k: int) -> Tensor:
        r"""The same, expected of a random order.

        With :math:`C` candidates that is :math:`\min(k / C, 1)`; with ``any_target`` and :math:`T`
        targets :math:`1 - \binom{C - T}{k} / \binom{C}{k}`.
        """
        (k,) = check_cut_offs(k)
        candidates = self.num_candidates.double()
        if not self.any_target:
            return (k / candidates).clamp(max=1)
        others = candidates - torch.bincount(self.row, minlength=self.num_queries)
        drawn = torch.full_like(candidates, k).minimum(others)  # more find one for certain
        log_none = (
            torch.lgamma(others + 1)
            - torch.lgamma(others - drawn + 1)
            - torch.lgamma(candidates + 1)
            + torch.lgamma(candidates - drawn + 1)
        )
        return torch.where(others < k, 1.0, 1 - log_none.exp())

    def __repr__(self) -> str:
        values = ", ".join(f"recall@{k}={value:.4f}" for k, value in self.recall.items())
        return f"{self.__class__.__name__}({values}, num_queries={self.num_queries})"

    def _found(self, rank: Tensor, k: int) -> Tensor:
        (k,) = check_cut_offs(k)
        found = torch.bincount(self.row, (rank < k).double(), minlength=self.num_queries)
        if self.any_target:
            return (found > 0).double()
        return found / torch.bincount(self.row, minlength=self.num_queries)

    def _means(self, hits: Callable[[int], Tensor]) -> dict[int, float]:
        return {k: float(hits(k).mean()) for k in self.ks}


def recall_fields(
    queries: Queries, ranks: TargetRanks, ks: tuple[int, ...], *, exclude_history: bool
) -> dict[str, Any]:
    """Arguments of :class:`FeatureRecall`, on the CPU."""
    return {
        "ks": ks,
        "query": queries.id.cpu(),
        "row": queries.target[0].cpu(),
        "rank": ranks.rank.cpu(),
        "popularity_rank": popularity_ranks(queries, exclude_history=exclude_history).cpu(),
        "num_candidates": candidate_counts(queries, exclude_history=exclude_history).cpu(),
        "num_unranked": int(ranks.unranked.sum()),
    }
