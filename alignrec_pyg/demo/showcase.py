"""What the page shows of a trained model, without the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.demo.catalogue import Catalogue, ShownItem
from alignrec_pyg.demo.likeness import Likeness
from alignrec_pyg.demo.newcomers import Newcomer, Newcomers
from alignrec_pyg.demo.places import places
from alignrec_pyg.demo.views import (
    About,
    CannotShowError,
    Like,
    NewItemView,
    Place,
    Recommendation,
    UserView,
)
from alignrec_pyg.evaluation.metrics import evaluate, recommend
from alignrec_pyg.evaluation.ranking import embeddings
from alignrec_pyg.graph import INTERACTS, feature_names, feature_table
from alignrec_pyg.ids import item_ids, user_ids
from alignrec_pyg.models import Recommender
from alignrec_pyg.serving import SimilarItems, explain, similar_items
from alignrec_pyg.serving.new_items import IdVectors
from alignrec_pyg.transforms import KNNItemGraph

REASONS = 3
"""Items of a user's own that are named for a recommendation."""

SHOWN_KNOWN = 24
"""Items of a user's own that are shown."""

SHOWN_USERS = 6
"""Users that are named for a new item."""

POPULAR_SHARE = 0.1
"""Share of the items that counts as the most popular."""

_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


class Showcase:
    """A trained model, asked what a person may want to see of it.

    Args:
        model: A trained model.
        data: The graph to serve: what users know is its ``edge_index``, and its links to predict,
            where it has any, tell which recommendations users did choose.
        titles: As :func:`~alignrec_pyg.demo.page`.
        images: As :func:`~alignrec_pyg.demo.page`.
        encode: The transforms that made the features the model reads, in their order, for new
            items: each :class:`~alignrec_pyg.transforms.EncodeItems` with ``fit=False``. Without
            them no new items are taken in.
        item_graphs: As :func:`~alignrec_pyg.serving.add_items`.
        id_vectors: As :func:`~alignrec_pyg.serving.add_items`.

    Raises:
        ValueError: If ``data`` is not that of the model, there is not one title or image for each
            item, or ``encode`` or ``item_graphs`` do not make what the model reads.
    """

    def __init__(
        self,
        model: Recommender,
        data: HeteroData,
        *,
        titles: Sequence[str | None] | None = None,
        images: Sequence[Any] | Tensor | None = None,
        encode: Sequence[BaseTransform] = (),
        item_graphs: Sequence[KNNItemGraph] = (),
        id_vectors: IdVectors = "none",
    ) -> None:
        model.check_fits(data, "data")
        self.catalogue = Catalogue(data, titles, images)
        self._newcomers = None
        if encode:
            self._newcomers = Newcomers(model, data, encode, item_graphs, id_vectors)
        self._model = model
        self._data = data
        _, self._item_x = embeddings(model, data)
        self._likeness = Likeness(self._item_x)
        self._user_ids = user_ids(data).tolist()
        self._user_numbers = {str(entry): user for user, entry in enumerate(self._user_ids)}
        links = data[INTERACTS].edge_index.cpu()
        self._num_known = torch.bincount(links[0], minlength=model.num_users).tolist()
        degree = torch.bincount(links[1], minlength=model.num_items)
        popular = degree.argsort(descending=True, stable=True)
        self._popular = item_ids(data)[popular[: math.ceil(POPULAR_SHARE * len(popular))].numpy()]

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of what a new item is placed by (``"image"``, ``"text"``, both), or none."""
        return () if self._newcomers is None else self._newcomers.reads

    def users(self) -> list[tuple[str, str]]:
        """A line for each user, with the number of items they know, and their id as text."""
        return [
            (f"user {name} · {count:,} {'item' if count == 1 else 'items'}", name)
            for name, count in zip(self._user_numbers, self._num_known, strict=True)
        ]

    def for_user(self, user: str | None, k: int, *, hide_popular: bool = False) -> UserView:
        """What a user knows and is recommended.

        Args:
            user: Their id as text.
            k: How many recommendations.
            hide_popular: Whether to leave out the most popular tenth of the items.

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
        ids = recommend(
            self._model, self._data, [name], k, exclude=self._popular if hide_popular else ()
        )[0]
        chosen = self._held_out(number)
        reasons = explain(self._model, self._data, name, ids, REASONS, item_x=self._item_x)
        return UserView(
            user=name,
            num_known=len(known),
            known=tuple(self.catalogue.item(item) for item in known[:SHOWN_KNOWN]),
            recommended=tuple(
                Recommendation(item, self._likes(why), item.id in chosen)
                for item, why in zip(self.catalogue.items(ids), reasons, strict=True)
            ),
            asked=k,
        )

    def new_item(self, image: object, text: str | None, k: int) -> NewItemView:
        """Takes an item in by its content, without training, and says what it is like.

        Args:
            image: A file or anything else that holds an image; ``None`` without one.
            text: Its text; ``None`` or blank without one.
            k: How many similar items, and the length of the lists that users get.

        Raises:
            CannotShowError: If there is neither image nor text, the image cannot be read, or
                nothing that was given tells the model anything.
        """
        if self._newcomers is None:
            raise CannotShowError("This page has no encoders for new items.")
        new = self._newcomers.take_in(image, text)
        number = new.model.num_items - 1
        (similar,) = similar_items(new.model, new.data, [new.id], k)
        place, left = places(new.model, new.data, number)
        best = place.argsort(stable=True)[:SHOWN_USERS].tolist()
        _, item_x = embeddings(new.model, new.data)
        return NewItemView(
            item=ShownItem(new.id, "The new item", new.poster),
            text=new.text,
            used=new.used,
            notes=new.notes,
            similar=self._likes(similar),
            places=tuple(self._place(new, item_x, user, place, left) for user in best),
            num_lists=int((place <= k).sum()),
            num_users=len(self._user_ids),
            asked=k,
        )

    def about(self) -> About:
        """Model, data and metrics."""
        links = self._data[INTERACTS]
        label = links.get("edge_label_index")
        measurable = (
            label is not None and label.size(1) > 0 and not torch.equal(label, links.edge_index)
        )
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
                "known links": links.edge_index.size(1),
                "held-out links": label.size(1) if measurable else 0,
            },
            features=features,
            metrics={name: metrics[name] for name in _METRICS if name in metrics},
        )

    def _place(
        self, new: Newcomer, item_x: Tensor, user: int, place: Tensor, left: Tensor
    ) -> Place:
        name = self._user_ids[user]
        (reasons,) = explain(new.model, new.data, name, [new.id], REASONS, item_x=item_x)
        return Place(name, int(place[user]), int(left[user]), self._likes(reasons))

    def _known(self, user: int) -> list[int]:
        """Numbers of the items a user knows, each once, the latest first."""
        links = self._data[INTERACTS]
        mine = (links.edge_index[0] == user).nonzero()[:, 0]
        if "time" in links:
            mine = mine[links.time[mine].argsort(descending=True, stable=True)]
        return list(dict.fromkeys(links.edge_index[1, mine].tolist()))

    def _held_out(self, user: int) -> set[Any]:
        label = self._data[INTERACTS].get("edge_label_index")
        if label is None:
            return set()
        chosen = label[1, label[0] == user].cpu().numpy()
        return set(item_ids(self._data)[chosen].tolist())

    def _likes(self, similar: SimilarItems) -> tuple[Like, ...]:
        items = self.catalogue.items(similar.item)
        return tuple(
            Like(item, self._likeness.words(cosine), self._likeness.share_below(cosine))
            for item, cosine in zip(items, similar.similarity.tolist(), strict=True)
        )
