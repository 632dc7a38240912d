"""Computation of everything that the page displays, independent of the page itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.demo.catalogue import Catalogue, ShownItem, poster_address
from alignrec_pyg.demo.new_items import NewItemAdder, rank_for_users, upload
from alignrec_pyg.demo.page_data import (
    TEST,
    VALIDATION,
    About,
    CannotShowError,
    HeldOut,
    ItemRank,
    NewItemView,
    Recommendation,
    SimilarItem,
    UserView,
)
from alignrec_pyg.evaluation.metrics import evaluate
from alignrec_pyg.graph import (
    INTERACTS,
    feature_names,
    feature_table,
    has_links_to_predict,
    known_pairs,
    links_to_predict,
    positive_links,
    with_known_pairs,
    with_links_to_predict,
)
from alignrec_pyg.ids import item_ids, user_ids
from alignrec_pyg.models import ClosedFormRecommender, Recommender
from alignrec_pyg.serving import RankedItems, Server
from alignrec_pyg.serving.new_items import IdVectors
from alignrec_pyg.transforms import KNNItemGraph

REASONS = 3
"""Number of items of the history that explain a recommendation."""

SHOWN_KNOWN = 24
"""Number of items of the history that are displayed."""

SHOWN_USERS = 6
"""Number of users that are listed for a new item."""

POPULAR_SHARE = 0.1
"""Share of the items that are considered the most popular."""

_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
_PAIRS = 50_000
_SAMPLED_ITEMS = 100
_WORDS = ((0.999, "very much like"), (0.99, "much like"), (0.9, "somewhat like"))
_OTHERWISE = "hardly like"


class Showcase:
    """Answers the requests of the page from a trained model.

    Args:
        model: A trained model.
        data: The graph to serve. Its ``edge_index`` is the history of the users. Its
            :func:`~alignrec_pyg.graph.known_pairs` are not recommended; its links to predict, if it
            has any, are, and marked.
        val: As :func:`~alignrec_pyg.demo.page`.
        titles: As :func:`~alignrec_pyg.demo.page`.
        user_names: As :func:`~alignrec_pyg.demo.page`.
        images: As :func:`~alignrec_pyg.demo.page`.
        encode: The transforms that computed the features of the model, in the same order, for new
            items: each :class:`~alignrec_pyg.transforms.EncodeItems` with ``fit=False``. Without
            them, new items cannot be added.
        item_graphs: As :func:`~alignrec_pyg.serving.add_items`.
        id_vectors: As :func:`~alignrec_pyg.serving.add_items`.

    Attributes:
        no_new_items: Why the model cannot place new items although there are encoders, for
            visitors; ``None`` if that is not so.

    Raises:
        ValueError: If ``data`` does not fit the model, there is not one title or image for each
            item, or ``encode`` and ``item_graphs`` do not produce the inputs of the model.
    """

    def __init__(
        self,
        model: Recommender,
        data: HeteroData,
        *,
        val: HeteroData | None = None,
        titles: Sequence[str | None] | None = None,
        user_names: Sequence[str] | None = None,
        images: Sequence[Any] | Tensor | None = None,
        encode: Sequence[BaseTransform] = (),
        item_graphs: Sequence[KNNItemGraph] = (),
        id_vectors: IdVectors = "none",
    ) -> None:
        model.check_fits(data, "data")
        self._held_out = {TEST: _asked_links(data)}
        if val is not None:
            model.check_fits(val, "val")
            data = with_known_pairs(data, known_pairs(val))
            self._held_out[VALIDATION] = links_to_predict(val, "val").cpu()
        self.catalogue = Catalogue(data, titles, images)
        self._model = model
        self._data = data
        # What is to be predicted is recommended, too, and marked.
        nothing = torch.empty(2, 0, dtype=torch.int64, device=data[INTERACTS].edge_index.device)
        self._server = Server(model, with_links_to_predict(data, nothing))
        similarity = self._server.similarity
        self._new_items: NewItemAdder | None = None
        self.no_new_items: str | None = None
        if encode and (similarity != "cosine" or isinstance(model, ClosedFormRecommender)):
            self.no_new_items = (
                f"{type(model).__name__} cannot place a new item by its image or text: it knows "
                "only the items that it was trained on."
            )
        elif encode:
            self._new_items = NewItemAdder(model, data, encode, item_graphs, id_vectors)
        pairs = torch.empty(0)
        if similarity == "cosine":
            pairs = cosines_of_pairs(self._server.vectors[1])
        elif similarity == "score":
            pairs = strengths_of_pairs(self._server)
        self._scale = SimilarityScale(pairs)
        self._user_ids = user_ids(data).tolist()
        if user_names is not None and len(user_names) != len(self._user_ids):
            raise ValueError(
                f"'user_names' needs one entry for each of the {len(self._user_ids)} users (got "
                f"{len(user_names)})"
            )
        self._user_names = user_names or [f"user {entry}" for entry in self._user_ids]
        self._user_numbers = {str(entry): user for user, entry in enumerate(self._user_ids)}
        links = data[INTERACTS].edge_index.cpu()
        self._num_known = torch.bincount(links[0], minlength=model.num_users).tolist()
        degree = torch.bincount(links[1], minlength=model.num_items)
        popular = degree.argsort(descending=True, stable=True)
        self._popular = item_ids(data)[popular[: math.ceil(POPULAR_SHARE * len(popular))].numpy()]

    @property
    def reads(self) -> tuple[str, ...]:
        """What the encoders read of new items, ``"image"``, ``"text"`` or both."""
        return () if self._new_items is None else self._new_items.reads

    def users(self) -> list[tuple[str, str]]:
        """A label with the number of known items, and the id as text, for each user."""
        return [
            (f"{name} · {count:,} {'item' if count == 1 else 'items'}", entry)
            for entry, name, count in zip(
                self._user_numbers, self._user_names, self._num_known, strict=True
            )
        ]

    def preview(self, image: object) -> str | None:
        """An image as it would be used, as a ``data:`` URL; ``None`` without one.

        Raises:
            CannotShowError: If it cannot be read.
        """
        return poster_address(upload(image))

    def for_user(self, user: str | None, k: int, *, hide_popular: bool = False) -> UserView:
        """Returns the history of a user and the recommendations.

        Args:
            user: Id of the user as text.
            k: Number of recommendations.
            hide_popular: Whether to exclude the most popular tenth of the items.

        Raises:
            CannotShowError: If there is no such user.
        """
        asked = "" if user is None else user.strip()
        if asked not in self._user_numbers:
            raise CannotShowError(
                f"There is no user “{asked}” here." if asked else "Pick a user from the list."
            )
        number = self._user_numbers[asked]
        name = self._user_ids[number]
        known = self._known(number)
        exclude = self._popular if hide_popular else ()
        (best,) = self._server.recommend([name], k, exclude=exclude, unknown="popular")
        chosen = self._chosen(number)
        return UserView(
            name=self._user_names[number],
            num_known=len(known),
            known=tuple(self.catalogue.item(item) for item in known[:SHOWN_KNOWN]),
            recommended=tuple(
                Recommendation(item, why, chosen.get(item.id))
                for item, why in zip(
                    self.catalogue.items(best.item),
                    self._reasons(self._server, number, best.item),
                    strict=True,
                )
            ),
            asked=k,
        )

    def new_item(self, image: object, text: str | None, k: int) -> NewItemView:
        """Adds an item by its content, without training, and compares it with the catalogue.

        Args:
            image: The image, in any form that :func:`~alignrec_pyg.encoders.read_image`
                accepts; ``None`` without one.
            text: The text; ``None`` or blank without one.
            k: Number of similar items, and length of the users' recommendation lists.

        Raises:
            CannotShowError: If there is neither an image nor a text, the image cannot be read, or
                the content gives no features.
        """
        if self._new_items is None:
            raise CannotShowError(self.no_new_items or "This page has no encoders for new items.")
        new = self._new_items.add(image, text)
        number = new.model.num_items - 1
        server = Server(new.model, new.data)
        (similar,) = server.similar([new.id], k)
        rank, blank, num_candidates = rank_for_users(server.vectors, new.data, number)
        best = (rank / blank).argsort(stable=True)[:SHOWN_USERS].tolist()
        return NewItemView(
            item=ShownItem(new.id, "The new item", new.poster),
            text=new.text,
            used=new.used,
            notes=new.notes,
            similar=self._similar(similar),
            ranks=tuple(
                ItemRank(
                    name=self._user_names[user],
                    rank=int(rank[user]),
                    blank=int(blank[user]),
                    num_candidates=int(num_candidates[user]),
                    reasons=self._reasons(server, user, [new.id])[0],
                )
                for user in best
            ),
            num_lists=int((rank <= k).sum()),
            num_users=len(self._user_ids),
            asked=k,
        )

    def about(self) -> About:
        """Returns a summary of the model, the data and the metrics."""
        links, asked = self._data[INTERACTS].edge_index, self._held_out[TEST]
        measurable = asked.size(1) > 0
        metrics = evaluate(self._model, self._data, ks=(10, 20)) if measurable else {}
        features = {
            name: int(feature_table(self._data, name).size(1)) for name in feature_names(self._data)
        }
        return About(
            model=type(self._model).__name__,
            hparams=self._model.hparams,
            counts={
                "users": self._model.num_users,
                "items": self._model.num_items,
                "known links": links.size(1),
                "held-out links": asked.size(1),
            },
            features=features,
            metrics={name: metrics[name] for name in _METRICS if name in metrics},
            similarity=self._server.similarity,
        )

    def _reasons(
        self, server: Server, user: int, items: np.ndarray | list[Any]
    ) -> list[tuple[SimilarItem, ...]]:
        """The reasons for each of some items, given by their ids; none if no items compare."""
        if server.similarity is None:
            return [()] * len(items)
        return [self._similar(why) for why in server.explain(self._user_ids[user], items, REASONS)]

    def _known(self, user: int) -> list[int]:
        """Indices of the items in the history of a user, each once, the latest first."""
        links = self._data[INTERACTS]
        mine = (links.edge_index[0] == user).nonzero()[:, 0]
        if "time" in links:
            mine = mine[links.time[mine].argsort(descending=True, stable=True)]
        return list(dict.fromkeys(links.edge_index[1, mine].tolist()))

    def _chosen(self, user: int) -> dict[Any, HeldOut]:
        """The part of the held-out links of each item that the user chose in them, by id."""
        return {
            item: part
            for part, links in self._held_out.items()
            for item in item_ids(self._data)[links[1, links[0] == user].numpy()].tolist()
        }

    def _similar(self, similar: RankedItems) -> tuple[SimilarItem, ...]:
        items = self.catalogue.items(similar.item)
        return tuple(
            SimilarItem(item, self._scale.words(strength), self._scale.share_below(strength))
            for item, strength in zip(items, similar.score.tolist(), strict=True)
        )


def _asked_links(data: HeteroData) -> Tensor:
    """The links to predict; none of a training graph, which asks for what it uses."""
    links, asked = data[INTERACTS].edge_index, positive_links(data)
    same = asked.shape == links.shape and torch.equal(asked, links)
    return (asked[:, :0] if same or not has_links_to_predict(data) else asked).cpu()


class SimilarityScale:
    """Describes how similar two items are by the share of all pairs that are less similar.

    The cosines of different models are not comparable, but these shares are. Of 1,000 pairs of
    items, one is "very much like", nine are "much like", 90 "somewhat like", and the others "hardly
    like" each other.

    Shapes:
        - **input:** how similar the items of some pairs are, :math:`(n)`
    """

    def __init__(self, pairs: Tensor) -> None:
        self._pairs = pairs.sort().values

    def share_below(self, strength: float) -> float:
        """The share of pairs of items that are less similar; 0 without any pairs."""
        if self._pairs.numel() == 0:
            return 0.0
        return float(torch.searchsorted(self._pairs, strength) / self._pairs.numel())

    def words(self, strength: float) -> str:
        """The description that completes the sentence "it is ... the other item"."""
        share = self.share_below(strength)
        return next((words for least, words in _WORDS if share >= least), _OTHERWISE)


def cosines_of_pairs(item_x: Tensor) -> Tensor:
    """The cosines of random pairs of items, of those whose vectors are not zero."""
    item_x = item_x[item_x.any(dim=1)].cpu()
    count = item_x.size(0)
    if count < 2:
        return torch.empty(0)
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(count, (_PAIRS,), generator=generator)
    step = torch.randint(1, count, (_PAIRS,), generator=generator)  # never the same item
    item_x = normalize(item_x)
    return (item_x[first] * item_x[(first + step) % count]).sum(dim=1)


def strengths_of_pairs(server: Server) -> Tensor:
    """What random items add to the scores of each other one; minus infinity where nothing."""
    ids = server.items.ids
    some = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[:_SAMPLED_ITEMS]
    lists = server.similar(ids[some.numpy()], len(ids))
    strengths = torch.full((len(some), len(ids) - 1), -math.inf)
    for row, similar in zip(strengths, lists, strict=True):
        row[: len(similar.score)] = torch.from_numpy(similar.score)
    return strengths.flatten()
