"""Texts of items."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

FIELDS = ("title", "brand", "description")
"""What the paper calls the text of an item."""


class CleanText(NamedTuple):
    """A text that every tokenizer takes; ``None`` if nothing is left."""

    text: str | None
    repairs: tuple[str, ...] = ()


def clean_text(value: object) -> CleanText:
    """A text without entities, halves of characters and runs of white space."""
    if not isinstance(value, str):
        return CleanText(None)
    text = html.unescape(value).encode("utf-8", "ignore").decode("utf-8")
    return CleanText(" ".join(text.split()) or None)


def item_text(item: Mapping[str, object], fields: Sequence[str] = FIELDS) -> str | None:
    """The text of an item: its fields that hold something, joined by a blank."""
    parts: list[str] = []
    for field in fields:
        value = item.get(field)
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, str) and part.strip():
                parts.append(part.strip())
    return " ".join(parts) or None
