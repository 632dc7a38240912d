"""What the page shows, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignrec_pyg.demo.catalogue import ShownItem


class CannotShowError(ValueError):
    """What was asked for cannot be shown; the message is for the person at the page."""


@dataclass(frozen=True)
class Like:
    """An item that another one is like.

    Args:
        item: The item.
        words: How much: "very much like", "much like", "somewhat like" or "hardly like".
        share_below: Share of the catalogue's pairs of items that are less similar.
    """

    item: ShownItem
    words: str
    share_below: float


@dataclass(frozen=True)
class Recommendation:
    """A recommended item and why.

    Args:
        item: The item.
        reasons: The user's own items that are most like it.
        held_out: Whether it is one that the user did choose and the model was not told of.
    """

    item: ShownItem
    reasons: tuple[Like, ...]
    held_out: bool


@dataclass(frozen=True)
class UserView:
    """A user, what they know and what they are recommended.

    Args:
        user: The user's id.
        num_known: How many items they know.
        known: Some of them, the latest first where times are known.
        recommended: Best first.
        asked: How many recommendations were asked for.
    """

    user: Any
    num_known: int
    known: tuple[ShownItem, ...]
    recommended: tuple[Recommendation, ...]
    asked: int


@dataclass(frozen=True)
class Place:
    """Where a new item stands for a user.

    Args:
        user: The user's id.
        place: Its place among the items the user does not know, from 1.
        of: How many these are.
        reasons: The user's own items that are most like it.
    """

    user: Any
    place: int
    of: int
    reasons: tuple[Like, ...]


@dataclass(frozen=True)
class NewItemView:
    """A new item among those of the catalogue.

    Args:
        item: The item as it was given.
        text: Its text as it was read.
        used: What its place follows from: ``"image"``, ``"text"`` or both.
        notes: What was given and not used, and why.
        similar: The catalogue's items most like it.
        places: The users for whom it stands highest.
        num_lists: How many users have it among their best ``asked``.
        num_users: How many users there are.
        asked: How many similar items were asked for.
    """

    item: ShownItem
    text: str | None
    used: tuple[str, ...]
    notes: tuple[str, ...]
    similar: tuple[Like, ...]
    places: tuple[Place, ...]
    num_lists: int
    num_users: int
    asked: int


@dataclass(frozen=True)
class About:
    """What is shown: a model, the data, and how good it is.

    Args:
        model: Name of the model's class.
        hparams: Its arguments.
        counts: Sizes of the data, by what they count.
        features: Feature tables and their widths.
        metrics: Metrics over the links to predict; empty where there are none.
    """

    model: str
    hparams: dict[str, Any]
    counts: dict[str, int]
    features: dict[str, int]
    metrics: dict[str, float]
