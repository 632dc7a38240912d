"""A trained model that answers requests, in the ids of its data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_choice, check_integer
from alignrec_pyg.evaluation.ranking import has_vectors
from alignrec_pyg.graph import ITEM, USER
from alignrec_pyg.ids import IdMap, UnknownUserError, as_id_list, some_of
from alignrec_pyg.models import Recommender
from alignrec_pyg.serving.export_parquet import write_parquet
from alignrec_pyg.serving.faiss_index import IndexKind, ItemIndex
from alignrec_pyg.serving.new_items import IdVectors, add_items
from alignrec_pyg.serving.onnx_scorer import write_scorer
from alignrec_pyg.serving.ranked_items import RankedItems, frame_of, frame_of_neighbors, lists_of
from alignrec_pyg.serving.ranker import Ranker, Similarity
from alignrec_pyg.transforms import KNNItemGraph

Unknown = Literal["error", "popular"]
"""What is returned for users of whom the model has learned nothing."""

_FRAME_ROWS = 1 << 18  # rows of a frame: a row group of a parquet file


class Server:
    """Answers requests with a trained model: recommendations, similar items, explanations.

    The graph is propagated once. A server stores the vectors of users and items (of a model without
    vectors its :meth:`~alignrec_pyg.models.Recommender.scorer`), the ids, and the items that users
    are known to have had. It never changes, so any number of threads may call it, and a new model
    replaces the old one by an assignment: ``server = Server(model, data)``. Calls that have begun
    finish with the old one.

    **Unknown users.** An id that is not in the data raises an error that names it, and so does a
    user without links, of whom the model has learned nothing. With ``unknown="popular"`` such
    users, and those who are not in the data, get the items with the most links, whose score is the
    number of links. Items whose vectors or scores are not finite are never listed.

    **On disk.** ``model.save_pretrained(folder, data)`` writes all that is needed, and
    ``Server(*alignrec_pyg.load(folder))`` reads it.

    Args:
        model: Any recommender.
        data: The graph to serve: one with all links, ``dataset.data``, so that models read the
            latest links too. Of a split, take the test graph, which excludes all known links as
            well.
        keep_model: Whether ``model`` and ``data`` are kept for :meth:`new_items`. ``False``
            releases their memory if they are used nowhere else.

    Attributes:
        model: The model; ``None`` if it is not kept. A model without vectors always is.
        model_name: The name of its class.
        data: The graph; ``None`` if it is not kept.
        users: The ids of the users, and their numbers.
        items: The ids of the items, and their numbers.
        similarity: What :meth:`similar` and :meth:`explain` compare items by: ``"cosine"``, that of
            their vectors, or ``"score"`` for a model in closed form without vectors (``ItemKNN``,
            ``EASE``), what one item alone adds to the score of the other. ``None`` for any other
            model that overrides :meth:`~alignrec_pyg.models.Recommender.scorer`.

    Raises:
        ValueError: If ``data`` does not fit the model.
        FloatingPointError: If no vector of the model is finite.

    Example:
        >>> import pandas as pd
        >>> from alignrec_pyg import BPR, Server
        >>> from alignrec_pyg.datasets import from_frames
        >>> links = pd.DataFrame({"user": ["ann", "ann", "bob"], "item": ["cup", "tea", "cup"]})
        >>> data = from_frames(links).data
        >>> server = Server(BPR(data), data)
        >>> server.recommend("bob", k=5)[0].item  # what bob does not know
        array(['tea'], dtype=object)
        >>> server.recommend("zoe", k=1, unknown="popular", as_frame=True)
          user_id  rank item_id  score
        0     zoe     1     cup    2.0
    """

    def __init__(self, model: Recommender, data: HeteroData, *, keep_model: bool = True) -> None:
        model.check_fits(data, "data")
        self.users, self.items = IdMap(data, USER), IdMap(data, ITEM)
        self.model_name = type(model).__name__
        self._ranker = Ranker(model, data)
        self.similarity: Similarity | None = self._ranker.similarity
        kept = keep_model or not has_vectors(model)
        self.model: Recommender | None = model if kept else None
        self.data: HeteroData | None = data if kept else None

    @property
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users ``[num_users, d]`` and items ``[num_items, d]``, not to be changed.

        Raises:
            ValueError: If the model has none.
        """
        vectors = self._ranker.vectors
        return vectors.user_x, vectors.item_x

    def recommend(
        self,
        user_ids: ArrayLike,
        k: int = 20,
        *,
        candidates: ArrayLike | None = None,
        exclude: ArrayLike = (),
        exclude_known: bool = True,
        unknown: Unknown = "error",
        as_frame: bool = False,
    ) -> list[RankedItems] | pd.DataFrame:
        """The ``k`` best new items of each user.

        Items that the user is known to have had are not listed
        (:func:`~alignrec_pyg.graph.known_links`: links used, links to predict and known pairs), so
        a list is shorter than ``k`` where fewer new items are left.

        Args:
            user_ids: Ids of users, in any order, repeats allowed.
            k: Length of the lists.
            candidates: Ids of the items that may be listed (default: all), such as those of one
                category or those in stock.
            exclude: Ids of items that may not, also where they are among ``candidates``.
            exclude_known: Whether the items that the user is known to have had are left out;
                ``False`` suits items that are bought repeatedly.
            unknown: ``"error"``, or ``"popular"`` for the most popular items where the model has
                learned nothing of a user.
            as_frame: Whether to return a frame with the columns ``user_id``, ``rank`` (from 1),
                ``item_id`` and ``score``, a row for each item.

        Returns:
            For each user, in the order of ``user_ids``, the items and their scores (float32).

        Raises:
            UnknownUserError: If the model has learned nothing of a user, and ``unknown="error"``.
            UnknownItemError: If an item id is not in the data.
            ValueError: If ``k`` is not a positive integer, or ``unknown`` is neither of the two.
            FloatingPointError: If all scores of a model without vectors are NaN.
        """
        asked = as_id_list(user_ids, "user_ids")
        blocks = self._blocks(asked, k, candidates, exclude, exclude_known, unknown)
        if as_frame:
            return pd.concat([self._frame(*block) for block in blocks], ignore_index=True)
        ids = self.items.ids
        return [row for _, items, scores in blocks for row in lists_of(ids, items, scores)]

    def frames(
        self,
        user_ids: ArrayLike | None = None,
        k: int = 20,
        *,
        candidates: ArrayLike | None = None,
        exclude: ArrayLike = (),
        exclude_known: bool = True,
        unknown: Unknown = "error",
    ) -> Iterator[pd.DataFrame]:
        """Recommendations of many users, as frames of up to about 2^18 rows each.

        Args:
            user_ids: Ids of users (default: all). Of all users those of whom the model has learned
                nothing are left out, with a warning, unless ``unknown="popular"``.
            k: As :meth:`recommend`, and so are the others.
            candidates: As there.
            exclude: As there.
            exclude_known: As there.
            unknown: As there.

        Returns:
            An iterator over frames, at least one, with the columns of :meth:`recommend`.

        Raises:
            ValueError, FloatingPointError: As :meth:`recommend`.
        """
        asked = None if user_ids is None else as_id_list(user_ids, "user_ids")
        blocks = self._blocks(asked, k, candidates, exclude, exclude_known, unknown)
        return (self._frame(*block) for block in blocks)

    def similar(
        self,
        item_ids: ArrayLike,
        k: int = 10,
        *,
        candidates: ArrayLike | None = None,
        exclude: ArrayLike = (),
        as_frame: bool = False,
    ) -> list[RankedItems] | pd.DataFrame:
        """The ``k`` other items whose vectors have the highest cosine to that of each item.

        Cosines are compared at a resolution of 1e-9, and ties are broken by the lower item number.
        An item with a zero vector, such as a new one without features, has no similar items.

        For a model in closed form without vectors (``ItemKNN``, ``EASE``) they are the items whose
        scores rise most for a history of this item alone, beside no history. Items whose scores do
        not rise are not listed. What ``a`` adds to ``b`` may differ from what ``b`` adds to ``a``.

        Args:
            item_ids: Ids of items, in any order, repeats allowed.
            k: Length of the lists; they are shorter if there are fewer candidates.
            candidates: Ids of the items that may be listed (default: all).
            exclude: Ids of items that may not.
            as_frame: Whether to return a frame with the columns ``similar_to``, ``rank`` (from 1),
                ``item_id`` and ``cosine``, or ``score`` for a model without vectors.

        Returns:
            For each item, in the order of ``item_ids``, the items and their cosines, or what the
            item adds to their scores (float64).

        Raises:
            UnknownItemError: If an id is not in the data.
            ValueError: If ``k`` is no positive integer, or the model scores neither vectors nor
                histories.
        """
        k = check_integer("k", k, 1)
        asked = self._item_numbers(item_ids, "item_ids")
        blocked = self._blocked(candidates, exclude)
        lists = [
            RankedItems(self.items.ids[items.cpu().numpy()], strengths.cpu().numpy())
            for items, strengths in self._ranker.nearest(asked, k, blocked)
        ]
        if not as_frame:
            return lists
        ids, name = self.items.ids, str(self.similarity)
        return frame_of_neighbors(ids[asked.cpu().numpy()], ids, lists, name)

    def explain(self, user_id: object, item_ids: ArrayLike, k: int = 3) -> list[RankedItems]:
        """Explains recommendations by the ``k`` items of the user's history that are nearest.

        The strength of a reason is the cosine of the items' vectors. It shows which part of the
        history the model considers similar to the item ("because you liked ..."), not what caused
        the score. For a model in closed form without vectors (``ItemKNN``, ``EASE``) it is the
        part of the score that this item of the history adds.

        Args:
            user_id: Id of the user; the history are the user's links in ``edge_index``.
            item_ids: Ids of items, such as those recommended to the user.
            k: Maximum number of reasons for an item; an item does not explain itself.

        Returns:
            For each item, the items of the history and their strengths (float64), highest first.

        Raises:
            UnknownUserError: If the user is not in the data.
            UnknownItemError: If an item id is not in the data.
            ValueError: If ``k`` is no positive integer, or the model scores neither vectors nor
                histories.
        """
        k = check_integer("k", k, 1)
        user = self.users.numbers([user_id], "user_id").to(self._ranker.device)
        asked = self._item_numbers(item_ids, "item_ids")
        history, strengths = self._ranker.reasons(user, asked)
        result = []
        for item, row in zip(asked, strengths, strict=True):
            order = row.argsort(descending=True, stable=True)
            order = order[(history[order] != item) & (row[order] > -math.inf)][:k]
            reasons = self.items.ids[history[order].cpu().numpy()]
            result.append(RankedItems(reasons, row[order].cpu().numpy()))
        return result

    def new_users(
        self,
        histories: Sequence[ArrayLike],
        k: int = 20,
        *,
        known: Sequence[ArrayLike] | None = None,
        candidates: ArrayLike | None = None,
        exclude: ArrayLike = (),
        exclude_known: bool = True,
        ridge: float = 0.1,
    ) -> list[RankedItems]:
        """The ``k`` best items of users who are not in the data, given their histories.

        :func:`~alignrec_pyg.serving.fold_in_users` computes their vectors with fixed item vectors.
        A model in closed form without vectors (``ItemKNN``, ``EASE``) scores the histories
        themselves.

        Args:
            histories: Ids of the items in the history of each user, at least one each.
            k: Length of the lists.
            known: Ids of further items that each user has had without liking them, such as low
                ratings: they are no part of the history, and not recommended to the user.
            candidates: Ids of the items that may be listed (default: all).
            exclude: Ids of items that may not.
            exclude_known: Whether the items of each user's history and of ``known`` are left out.
            ridge: See :func:`~alignrec_pyg.serving.fold_in_users`.

        Returns:
            For each history, the items and their scores (float32).

        Raises:
            UnknownItemError: If an item id is not in the data.
            ValueError: If a history is empty, ``known`` is not one list for each of them, ``k`` is
                no positive integer, or the model scores neither vectors nor histories.
        """
        k = check_integer("k", k, 1)
        items = [
            self._item_numbers(ids, f"histories[{number}]").unique()
            for number, ids in enumerate(histories)
        ]
        for number, history in enumerate(items):
            if history.numel() == 0:
                raise ValueError(
                    f"'histories[{number}]' needs at least one item: for a user without a history, "
                    "recommend(..., unknown='popular') lists popular items"
                )
        others = [[]] * len(items) if known is None else known
        if len(others) != len(items):
            raise ValueError(
                f"'known' needs a list of items for each of the {len(items)} histories (got "
                f"{len(others)})"
            )
        blocked = self._blocked(candidates, exclude)
        if not items:
            return []
        links = _links(items)
        more = [self._item_numbers(ids, f"known[{n}]") for n, ids in enumerate(others)]
        had = torch.cat([links, _links(more)], dim=1)
        best = self._ranker.best_of_histories(
            links, len(items), had if exclude_known else had[:, :0], k, blocked, ridge
        )
        return lists_of(self.items.ids, *best)

    def new_items(
        self,
        new: HeteroData,
        *,
        item_graphs: Sequence[KNNItemGraph] = (),
        id_vectors: IdVectors = "none",
    ) -> Server:
        """A server with additional items, which are added by their content, without training.

        Its ``model`` and ``data`` are those of :func:`~alignrec_pyg.serving.add_items`, which
        describes the arguments.

        Raises:
            ValueError: If the model was not kept, or as :func:`~alignrec_pyg.serving.add_items`.
        """
        if self.model is None or self.data is None:
            raise ValueError(
                "new items need the model (got a server with keep_model=False): call add_items "
                "with model and data, and make a Server of what it returns"
            )
        return Server(
            *add_items(self.model, self.data, new, item_graphs=item_graphs, id_vectors=id_vectors)
        )

    def to_parquet(self, path: str | Path, k: int = 20, **options: Any) -> int:
        """Writes the recommendations of all users to a parquet file, in bounded memory.

        The file has the columns ``user_id``, ``rank`` (from 1), ``item_id`` and ``score``, with ids
        of the type that they came in. It is written atomically.

        Args:
            path: Path of the file; an existing file is replaced.
            k: Length of the lists.
            **options: ``user_ids`` and the other arguments of :meth:`frames`.

        Returns:
            The number of rows.

        Raises:
            ImportError: If pyarrow is not installed.
            ValueError, FloatingPointError: As :meth:`recommend`.
            OSError: If the file cannot be written.
        """
        ids = {"user_id": self.users.ids, "item_id": self.items.ids}
        return write_parquet(path, self.frames(k=k, **options), ids)

    def to_faiss(
        self, folder: str | Path, kind: IndexKind = "flat", *, width: int = 128
    ) -> ItemIndex:
        """Writes a FAISS index of the items' vectors.

        :meth:`~alignrec_pyg.serving.ItemIndex.load` reads it.

        Args:
            folder: Where to write.
            kind: As :meth:`~alignrec_pyg.serving.ItemIndex.build`.
            width: As there.

        Returns:
            The index.

        Raises:
            ImportError: If faiss is not installed.
            CheckpointError: If the folder has an ``index.json`` that is damaged or somebody else's.
            ValueError: If the model has no vectors, or some that are not finite, or an argument
                does not fit.
            OSError: If the folder cannot be written.
        """
        _, item_x = self._ranker.finite_vectors
        index = ItemIndex.build(item_x, self.items.ids, kind, width=width)
        index.save(folder)
        return index

    def to_onnx(self, path: str | Path, k: int = 20) -> None:
        """Writes user vectors, item vectors and the search for the top ``k`` items as ONNX.

        - inputs: ``user`` int64 ``[B]``, numbers of users; ``exclude`` int64 ``[B, E]``, numbers of
          items to leave out of each list, padded with the number of items;
        - outputs: ``item`` int64 ``[B, k]``, best first, and ``score`` float32 ``[B, k]``, minus
          infinity where no candidate is left.

        The metadata of the file contain ``user_id`` and ``item_id``, the original ids by number, as
        JSON lists. The file does not contain the links: pass the items to leave out as an input,
        those of :func:`~alignrec_pyg.graph.known_links`.

        Args:
            path: Path of the file; an existing file is replaced.
            k: Length of the lists.

        Raises:
            ImportError: If onnx is not installed.
            ValueError: If ``k`` is not in [1, number of items], the vectors exceed the 2 GiB limit
                of an ONNX file, the model has none, or some are not finite.
            OSError: If the file cannot be written.
        """
        write_scorer(path, *self._ranker.finite_vectors, self.users.ids, self.items.ids, k)

    def _item_numbers(self, ids: ArrayLike, argument: str) -> Tensor:
        return self.items.numbers(ids, argument).to(self._ranker.device)

    def _blocked(self, candidates: ArrayLike | None, exclude: ArrayLike) -> Tensor | None:
        """The items that may not be listed, as :meth:`Ranker.blocked` gives them."""
        listed = None if candidates is None else self._item_numbers(candidates, "candidates")
        return self._ranker.blocked(listed, self._item_numbers(exclude, "exclude"))

    def _blocks(
        self,
        asked: list[Any] | None,
        k: int,
        candidates: ArrayLike | None,
        exclude: ArrayLike,
        exclude_known: bool,
        unknown: Unknown,
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Ids, best items and scores of some users at a time; at least once.

        Arguments are checked immediately; lists are computed while the result is iterated over.
        """
        k = min(check_integer("k", k, 1), len(self.items))
        blocked = self._blocked(candidates, exclude)
        numbers = self._numbers_of_users(asked, unknown)

        def work() -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
            size = max(1, _FRAME_ROWS // k)
            for start in range(0, max(1, len(numbers)), size):
                block = numbers[start : start + size]
                ids = self.users.ids[block.cpu().numpy()]
                if asked is not None and bool((block < 0).any()):
                    ids = np.array(asked[start : start + size], dtype=object)
                yield ids, *self._ranker.best(block, k, blocked, exclude_known)

        return work()

    def _numbers_of_users(self, asked: list[Any] | None, unknown: Unknown) -> Tensor:
        """The indices of the requested users; -1 for one who is not in the data."""
        check_choice("unknown", unknown, get_args(Unknown))
        way_out = ": unknown='popular' lists popular items"
        if asked is None:
            if unknown == "popular":
                return torch.arange(len(self.users), device=self._ranker.device)
            learned = self._ranker.learned.nonzero()[:, 0]
            left_out = len(self.users) - len(learned)
            if left_out:
                warnings.warn(
                    f"{left_out:,} of {len(self.users):,} users have no links and are left out"
                    f"{way_out}",
                    stacklevel=4,
                )
            return learned
        if unknown == "popular":
            return self.users.find(asked, "user_ids").to(self._ranker.device)
        numbers = self.users.numbers(asked, "user_ids", way_out).to(self._ranker.device)
        strangers = numbers[~self._ranker.learned[numbers]].unique().cpu().numpy()
        if len(strangers):
            raise UnknownUserError(
                "'user_ids' needs users of whom the model has learned something (got users without "
                f"links: {some_of(self.users.ids[strangers].tolist())}){way_out}"
            )
        return numbers

    def _frame(self, user_id: np.ndarray, item: Tensor, score: Tensor) -> pd.DataFrame:
        return frame_of(user_id, self.items.ids, item, score)


def _links(items: Sequence[Tensor]) -> Tensor:
    """Links from users 0, 1, ... to their items, int64 ``[2, E]``."""
    sizes = torch.tensor([numbers.numel() for numbers in items], device=items[0].device)
    users = torch.arange(len(items), device=items[0].device)
    return torch.stack([users.repeat_interleave(sizes), torch.cat(list(items))])


def recommend(
    model: Recommender,
    data: HeteroData,
    user_ids: ArrayLike,
    k: int = 20,
    *,
    candidates: ArrayLike | None = None,
    exclude: ArrayLike = (),
    exclude_known: bool = True,
    unknown: Unknown = "error",
) -> list[np.ndarray]:
    """The ids of the ``k`` best new items of each user: :meth:`Server.recommend`, once.

    Create a :class:`Server` to answer several calls without propagating again, and for the scores.
    """
    limits: dict[str, Any] = {"candidates": candidates, "exclude": exclude}
    lists = Server(model, data, keep_model=False).recommend(
        user_ids, k, exclude_known=exclude_known, unknown=unknown, **limits
    )
    return [row.item for row in lists]
