"""The best items of users, all as indices: the scores of a model, and which items may be listed."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.ranking import has_vectors, no_vectors, scorer_of, top_items
from alignrec_pyg.graph import INTERACTS, ITEM, USER
from alignrec_pyg.models import ClosedFormRecommender, Recommender
from alignrec_pyg.models.base import inner_products
from alignrec_pyg.serving.known_items import KnownItems
from alignrec_pyg.serving.new_users import fold_in_users
from alignrec_pyg.serving.vectors import Vectors

_BLOCK_SCORES = 1 << 24

_Scores = Callable[[Tensor], Tensor]  # see Recommender.scorer

Similarity = Literal["cosine", "score"]
"""What items are compared by: the cosine of their vectors, or what one adds to another's score."""


class Ranker:
    """Ranks items for users, and for the histories of new users.

    Lists are int64 ``[n, k]`` with their scores, float32 ``[n, k]``. Where no item is left, the
    item is the number of items and the score minus infinity.

    Args:
        model: Any recommender. It and ``data`` are kept if it has no vectors.
        data: The graph to serve.

    Attributes:
        device: Where the graph is.
        known: What users are known to have had.
        similarity: What items are compared by; ``None`` if the model scores neither vectors nor
            histories.
        learned: The users of whom the model has learned something, bool ``[num_users]``: they have
            links, and a finite vector.
    """

    def __init__(self, model: Recommender, data: HeteroData) -> None:
        self._model_name = type(model).__name__
        self._num_users, self._num_items = int(data[USER].num_nodes), int(data[ITEM].num_nodes)
        self.device = data[INTERACTS].edge_index.device
        self.known = KnownItems(data)
        self.learned = self.known.num_links > 0
        self._not_finite: Tensor | None = None
        self._vectors: Vectors | None = None
        self._kept: tuple[Recommender, HeteroData] | None = None
        self._scores: Callable[[], _Scores]
        self.similarity: Similarity | None = "cosine"
        # A scorer may use one block of memory for all its answers.
        self._one_at_a_time: threading.Lock | nullcontext[None]
        if has_vectors(model):
            vectors = self._vectors = Vectors(model, data)
            self.learned &= vectors.finite_user
            if not bool(vectors.finite_item.all()):
                self._not_finite = ~vectors.finite_item
            self._scores = partial(inner_products, vectors.user_x, vectors.item_x)
            self._one_at_a_time = nullcontext()
        else:
            self._kept = model, data
            # Such a model reads a user's links from the graph, so it can score any history.
            self.similarity = "score" if isinstance(model, ClosedFormRecommender) else None
            scores = self._without_nan(scorer_of(model, data))
            self._scores, self._one_at_a_time = lambda: scores, threading.Lock()

    @property
    def vectors(self) -> Vectors:
        """The vectors of the model.

        Raises:
            ValueError: If it has none.
        """
        if self._vectors is None:
            raise no_vectors(self._model_name)
        return self._vectors

    @property
    def finite_vectors(self) -> tuple[Tensor, Tensor]:
        """The vectors of users and items, for a file that cannot leave items out.

        Raises:
            ValueError: If the model has none, or some are not finite.
        """
        vectors = self.vectors
        if self._not_finite is not None:
            raise ValueError(
                f"the file needs finite vectors of all items ({int(self._not_finite.sum()):,} have "
                "none): to_parquet leaves them out"
            )
        return vectors.user_x, vectors.item_x

    def blocked(self, candidates: Tensor | None, exclude: Tensor) -> Tensor | None:
        """The items that may not be listed, bool ``[num_items]``; ``None`` where all may.

        Args:
            candidates: Numbers of the items that may be listed, int64 ``[n]`` (``None``: all).
            exclude: Numbers of items that may not, int64 ``[m]``.
        """
        if candidates is None and exclude.numel() == 0:
            return self._not_finite
        blocked = torch.full((self._num_items,), candidates is not None, device=self.device)
        if candidates is not None:
            blocked[candidates] = False
        blocked[exclude] = True
        return blocked if self._not_finite is None else blocked | self._not_finite

    def best(
        self, users: Tensor, k: int, blocked: Tensor | None, exclude_known: bool
    ) -> tuple[Tensor, Tensor]:
        """The best items of users, and their scores.

        Users of whom nothing was learned, and those of number -1, get the most popular items; their
        scores are numbers of links.

        Args:
            users: Numbers of users, int64 ``[n]``; -1 for one who is not in the data.
            k: Length of the lists, at most the number of items.
            blocked: See :meth:`blocked`.
            exclude_known: Whether the items that a user is known to have had are left out.
        """
        item = users.new_full((len(users), k), self._num_items)
        score = torch.full(item.shape, -math.inf, device=self.device)
        learned = (users >= 0) & self.learned[users]
        for rows, scores in ((learned, self._scores), (~learned, self._popularity)):
            numbers, place = users[rows].unique(return_inverse=True)
            if numbers.numel() == 0:
                continue
            had = self.known.of(numbers[numbers >= 0] if exclude_known else numbers[:0])
            with self._one_at_a_time:
                items, values = self._top(scores(), numbers, had, k, blocked)
            if scores == self._popularity:
                values = values.ceil()
            item[rows], score[rows] = items[place], values[place].float()
        return item, score

    def best_of_histories(
        self,
        history: Tensor,
        num_users: int,
        had: Tensor,
        k: int,
        blocked: Tensor | None,
        ridge: float,
    ) -> tuple[Tensor, Tensor]:
        """The best items of new users, and their scores.

        Args:
            history: Links of users 0 to ``num_users - 1`` to items, int64 ``[2, E]``.
            num_users: Number of new users.
            had: Pairs that are not listed, int64 ``[2, N]``.
            k: Length of the lists.
            blocked: See :meth:`blocked`.
            ridge: See :func:`~alignrec_pyg.serving.fold_in_users`.

        Raises:
            ValueError: If the model scores neither vectors nor histories.
        """
        with self._one_at_a_time:
            scores = self._history_scores(history, num_users, ridge)
            return self._top(scores, torch.arange(num_users, device=self.device), had, k, blocked)

    def reasons(self, user: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The items that a user is linked to, int64 ``[m]``, and how much they speak for others.

        That is the cosine of their vectors. In a model without vectors it is what a history of this
        one item adds to the score, minus infinity where that is nothing.

        Args:
            user: Number of the user, int64 ``[1]``.
            items: Numbers of the items to explain, int64 ``[n]``.

        Returns:
            The items of the history, and strengths, float64 ``[n, m]``.

        Raises:
            ValueError: If the model scores neither vectors nor histories.
        """
        history = self.known.links_of(user)
        if self._vectors is not None:
            history = history[self._vectors.has_direction(history)]
            return history, self._vectors.cosines(items, history)
        if history.numel() == 0:
            return history, torch.empty(len(items), 0, dtype=torch.float64, device=self.device)
        return history, torch.cat(list(self._gains(history, items))).t()

    def nearest(
        self, items: Tensor, k: int, blocked: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The ``k`` other items most similar to each item, ties by the lower number.

        That is by the cosine of their vectors. In a model without vectors it is by how much a
        history of the item alone adds to their scores; those to which it adds nothing are left out.

        Args:
            items: Numbers of items, int64 ``[n]``.
            k: Length of the lists; they are shorter where there are fewer items.
            blocked: See :meth:`blocked`.

        Returns:
            For each item, numbers int64 ``[m]`` and strengths float64 ``[m]``.

        Raises:
            ValueError: If the model scores neither vectors nor histories.
        """
        if self._vectors is not None:
            yield from self._vectors.nearest(items, k, blocked)
            return
        gains = (row for block in self._gains(items, slice(None)) for row in block)
        for item, gain in zip(items, gains, strict=True):
            gain[item] = -math.inf
            if blocked is not None:
                gain[blocked] = -math.inf
            found = (gain > -math.inf).nonzero()[:, 0]
            best = found[gain[found].argsort(descending=True, stable=True)[:k]]
            yield best, gain[best]

    def _gains(self, history: Tensor, items: Tensor | slice) -> Iterator[Tensor]:
        """What each item alone, as a history, adds to the scores of some items.

        Args:
            history: Numbers of the items that are a history each, int64 ``[m]``.
            items: Which items are scored.

        Returns:
            Blocks of rows, together float64 ``[m, n]``; minus infinity where nothing is added.

        Raises:
            ValueError: If the model does not score histories.
        """
        if self.similarity is None:
            raise no_vectors(self._model_name)
        if history.numel() == 0:
            return
        with self._one_at_a_time:
            blank = self._scores_of_each(history[:0], 1, items)
        for block in history.split(max(1, min(self._num_users, _BLOCK_SCORES // self._num_items))):
            with self._one_at_a_time:
                gain = (self._scores_of_each(block, len(block), items) - blank).double()
            yield gain.masked_fill_(~(gain > 0), -math.inf)

    @torch.no_grad()
    def _scores_of_each(self, history: Tensor, num_users: int, items: Tensor | slice) -> Tensor:
        """Scores of some items, ``[num_users, n]``, for users who have had one item each.

        There may be more users than items of the history: those have had none.
        """
        users = torch.arange(num_users, device=self.device)
        links = torch.stack([users[: len(history)], history])
        return self._history_scores(links, num_users, ridge=0)(users)[:, items]

    def _top(
        self, scores: _Scores, users: Tensor, had: Tensor, k: int, blocked: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The best items of users in ascending order, without what each has ``had``."""

        def allowed(block: Tensor) -> Tensor:
            score = scores(block)
            return score if blocked is None else score.masked_fill_(blocked, -math.inf)

        k, num_items = min(k, self._num_items), self._num_items
        blocks = list(top_items(allowed, users, had, k, num_items=num_items, of=self._model_name))
        items, values = zip(*(block[1:] for block in blocks), strict=True)
        return torch.cat(items), torch.cat(values)

    def _popularity(self) -> _Scores:
        """The number of links of each item for any user, less a fraction so that none are equal."""
        number = torch.arange(self._num_items, device=self.device)
        score = self.known.num_users.double() - number / self._num_items
        return lambda users: score.repeat(len(users), 1)

    def _history_scores(self, history: Tensor, num_users: int, ridge: float) -> _Scores:
        if self._vectors is not None:
            item_x = self._vectors.item_x
            return inner_products(fold_in_users(item_x, history, num_users, ridge=ridge), item_x)
        if self._kept is None or self.similarity is None:
            raise no_vectors(self._model_name)
        if num_users > self._num_users:
            raise ValueError(
                f"'histories' needs at most {self._num_users:,} at a time, the number of users of "
                f"the data, for {self._model_name} (got {num_users:,})"
            )
        model, data = self._kept
        graph = copy.copy(data)
        graph[INTERACTS].edge_index = history
        return self._without_nan(scorer_of(model, graph))

    def _without_nan(self, scores: _Scores) -> _Scores:
        """The scores with minus infinity in place of NaN; an error if all are NaN."""

        def finite(users: Tensor) -> Tensor:
            score = scores(users)
            missing = score.isnan()
            if bool(missing.all()):
                raise FloatingPointError(
                    f"{self._model_name} gives NaN scores: its parameters or features are not "
                    "finite, so there is no ranking"
                )
            return score.masked_fill_(missing, -math.inf)

        return finite
