"""Result of an evaluation protocol: the rank of every target, and recall at any cut-off."""

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
    r"""Ranks of the target items among the candidates of every query.

    A query is a user (zero-shot) or an item (item-CF). With the number :math:`r_t` of candidates
    that rank before target :math:`t` and the targets :math:`T_q` of a query,

    .. math:: \text{recall@}k = \frac1n \sum_q \frac1{|T_q|} \sum_{t \in T_q} [r_t < k],

    which is the hit rate if every query has one target, as in the paper. With ``any_target``, a
    query counts as 1 if at least one of its targets is among the top k.

    Args:
        ks: Cut-offs of :attr:`recall`, :attr:`popularity` and :attr:`random`; :meth:`hits` accepts
            any cut-off.
        query: User or item of each query, ascending, int64 ``[n]``.
        row: Row of the query of each target, ascending, int64 ``[m]``.
        rank: Number of candidates that rank before each target by the features, int64 ``[m]``.
        popularity_rank: Number of candidates that rank before each target by popularity, int64
            ``[m]``.
        num_candidates: Number of candidates of each query, int64 ``[n]``.
        num_unranked: Number of queries whose history has no features, and whose recall is 0.
        any_target: Whether finding one of the targets is sufficient.
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
        """Number of queries."""
        return self.query.numel()

    @property
    def recall(self) -> dict[int, float]:
        """Recall of the ranking by features, for every cut-off."""
        return self._means(self.hits)

    @property
    def popularity(self) -> dict[int, float]:
        """Recall of the ranking by popularity, for every cut-off."""
        return self._means(self.popularity_hits)

    @property
    def random(self) -> dict[int, float]:
        """Expected recall of a random ranking, for every cut-off."""
        return self._means(self.random_hits)

    def hits(self, k: int) -> Tensor:
        """Share of the targets of each query that are among its top ``k``, float64 ``[n]``.

        Raises:
            ValueError: If ``k`` is not a positive integer.
        """
        return self._found(self.rank, k)

    def popularity_hits(self, k: int) -> Tensor:
        """As :meth:`hits`, for the ranking by popularity."""
        return self._found(self.popularity_rank, k)

    def random_hits(self, k: int) -> Tensor:
        r"""As :meth:`hits`, in expectation over random rankings.

        With :math:`C` candidates, it is :math:`\min(k / C, 1)`; with ``any_target`` and :math:`T`
        targets, :math:`1 - \binom{C - T}{k} / \binom{C}{k}`.
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
