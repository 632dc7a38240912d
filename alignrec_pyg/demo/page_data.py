"""The data that the page displays, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from alignrec_pyg.demo.catalogue import ShownItem
from alignrec_pyg.serving.ranker import Similarity

HeldOut = Literal["validation", "test"]
"""Links that the model was not trained on: those that chose its epoch, or neither."""

VALIDATION: HeldOut = "validation"
TEST: HeldOut = "test"


class CannotShowError(ValueError):
    """The request cannot be answered; the message is displayed on the page."""


@dataclass(frozen=True)
class SimilarItem:
    """An item and its similarity to another one.

    Args:
        item: The item.
        words: The similarity in words: "very much like", "much like", "somewhat like" or "hardly
            like".
        share_below: Share of all pairs of items in the catalogue that are less similar.
    """

    item: ShownItem
    words: str
    share_below: float


@dataclass(frozen=True)
class Recommendation:
    """A recommended item and its explanation.

    Args:
        item: The item.
        reasons: The items of the user's history that are most similar to it.
        held_out: The part of the held-out links in which the user chose it, ``"validation"`` or
            ``"test"``; ``None`` if in neither.
    """

    item: ShownItem
    reasons: tuple[SimilarItem, ...]
    held_out: HeldOut | None


@dataclass(frozen=True)
class UserView:
    """The history of a user and the recommendations.

    Args:
        name: Name of the user, as within a sentence.
        num_known: Number of items in the history.
        known: Some of these items, the latest first if times are known.
        recommended: The recommendations, best first.
        asked: Number of recommendations that were requested.
    """

    name: str
    num_known: int
    known: tuple[ShownItem, ...]
    recommended: tuple[Recommendation, ...]
    asked: int


@dataclass(frozen=True)
class ItemRank:
    """The rank of a new item for one user.

    Args:
        name: Name of the user, as within a sentence.
        rank: Rank among the items outside the user's history, counted from 1.
        blank: Rank that an item has there of which the model knows nothing.
        num_candidates: Number of these items.
        reasons: The items of the user's history that are most similar to the new one.
    """

    name: str
    rank: int
    blank: int
    num_candidates: int
    reasons: tuple[SimilarItem, ...]


@dataclass(frozen=True)
class NewItemView:
    """A new item compared with the catalogue.

    Args:
        item: The new item.
        text: Its text after cleaning; ``None`` without one.
        used: The modalities that its vector was computed from: ``"image"``, ``"text"`` or both.
        notes: Which given content was not used, and why.
        similar: The most similar items of the catalogue.
        ranks: The users for whom its content improves its rank most, as a ratio.
        num_lists: Number of users who have it among their top ``asked`` items.
        num_users: Number of users.
        asked: Number of similar items that were requested.
    """

    item: ShownItem
    text: str | None
    used: tuple[str, ...]
    notes: tuple[str, ...]
    similar: tuple[SimilarItem, ...]
    ranks: tuple[ItemRank, ...]
    num_lists: int
    num_users: int
    asked: int


@dataclass(frozen=True)
class About:
    """A summary of the model, the data and the metrics.

    Args:
        model: Name of the model class.
        hparams: Its hyper-parameters.
        counts: Sizes of the data by name.
        features: Width of each feature table.
        metrics: Metrics on the links to predict; empty without such links.
        similarity: As :class:`~alignrec_pyg.Server` has it: what items are compared by.
    """

    model: str
    hparams: dict[str, Any]
    counts: dict[str, int]
    features: dict[str, int]
    metrics: dict[str, float]
    similarity: Similarity | None
