"""Texts of items: fields of a catalogue to plain text."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
import pandas as pd

MAX_CHARS = 20_000
"""Default limit of the number of characters of a text."""

FIELDS = ("title", "brand", "description")
"""The fields that make up the text of an item in the paper."""

HTML = "HTML removed"
CONTROL = "control characters removed"
SURROGATES = "half characters (lone surrogates) removed"
CUT = "cut to the length limit"

_PASSES = 3  # for nested escapes such as "&amp;lt;br&amp;gt;", but not without end
_TAG = re.compile(r"(</?[a-zA-Z][^<>]*>|<![a-zA-Z][^<>]*>)")
_HIDDEN = re.compile(r"<(script|style)\b", re.IGNORECASE)
_LONG_NUMBER = re.compile("&#[0-9]{8,};?")  # not a character, and too long for Python's int
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class CleanText(NamedTuple):
    """A cleaned text.

    Args:
        text: The text; ``None`` if nothing is left.
        repairs: What was removed (HTML, control characters, half characters) or cut.
    """

    text: str | None
    repairs: tuple[str, ...] = ()


def clean_text(value: object, *, max_chars: int = MAX_CHARS) -> CleanText:
    """Removes HTML, control characters and lone surrogates from a text.

    Every tag, run of white space and control character is replaced by one blank; scripts, styles
    and comments are removed with their content; entities are replaced by their characters. Letters
    of any script, emoji and marks of writing direction stay.

    Args:
        value: A string, or ``None`` or NaN for a missing text.
        max_chars: Most characters; longer texts are cut.

    Raises:
        ValueError: If ``value`` is of another type.

    Example:
        >>> from alignrec_pyg.encoders import clean_text
        >>> clean_text("<b>Tea</b> &amp; cups")
        CleanText(text='Tea & cups', repairs=('HTML removed',))
    """
    if is_missing(value):
        return CleanText(None)
    if not isinstance(value, str):
        raise ValueError(
            f"a text needs to be a string, or None (got {type(value).__name__}): join fields and "
            "lists with item_text"
        )
    repairs = []
    text = value
    if _SURROGATE.search(text):
        # two halves side by side are one character
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        repairs.append(SURROGATES)
    plain = _without_html(text)
    if plain != text:
        repairs.append(HTML)
    text = _CONTROL.sub(" ", plain)
    if text != plain:
        repairs.append(CONTROL)
    text = " ".join(text.split())
    if len(text) > max_chars:
        text = text[:max_chars].rstrip()
        repairs.append(CUT)
    return CleanText(text or None, tuple(repairs))


def is_missing(value: object) -> bool:
    """Whether a cell of a table is empty: ``None``, NaN, or another missing value of pandas."""
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def item_text(item: Mapping[str, object], fields: Sequence[str] = FIELDS) -> str | None:
    """The text of an item: its fields that are not empty, joined by a blank.

    Args:
        item: Values by field: strings, numbers, or lists of them (joined likewise); ``None``, NaN
            and absent fields are empty.
        fields: Fields to join, in this order (paper: title, brand, description).

    Returns:
        The text, with its HTML (see :func:`clean_text`); ``None`` if all fields are empty.

    Raises:
        ValueError: If a field has a value of another type.

    Example:
        >>> from alignrec_pyg.encoders import item_text
        >>> item_text({"title": "Cup", "brand": "Acme", "description": ["Red.", "Holds tea."]})
        'Cup Acme Red. Holds tea.'
    """
    parts: list[str] = []
    for field in fields:
        try:
            parts += _flat(item.get(field))
        except TypeError as error:
            raise ValueError(
                f"'{field}' needs to hold strings, numbers or lists of them (got {error})"
            ) from error
    return " ".join(parts) or None


def _flat(value: object) -> list[str]:
    if is_missing(value):
        return []
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    if isinstance(value, Real):
        return [str(value)]
    if isinstance(value, list | tuple | np.ndarray):  # parquet files give arrays
        return [part for element in value for part in _flat(element)]
    raise TypeError(type(value).__name__)


def _without_html(text: str) -> str:
    for _ in range(_PASSES):
        if "<" not in text and "&" not in text:
            break
        plain = _without_tags(_without_comments(text))
        plain = html.unescape(_LONG_NUMBER.sub("", plain))
        if plain == text:
            break
        text = plain
    return text


def _without_comments(text: str) -> str:
    parts, position = [], 0
    while (start := text.find("<!--", position)) >= 0 and (end := text.find("-->", start)) >= 0:
        parts += [text[position:start], " "]
        position = end + 3
    return "".join([*parts, text[position:]])


def _without_tags(text: str) -> str:
    """Replaces tags by blanks; scripts and styles that end are removed with their content."""
    parts: list[str] = []
    hidden, start = "", 0  # the element whose content is removed, and where it began
    for number, piece in enumerate(_TAG.split(text)):
        if number % 2 == 0:  # texts and tags alternate
            parts.append(piece)
        elif hidden and piece.lower().startswith(f"</{hidden}"):
            del parts[start:]
            parts.append(" ")
            hidden = ""
        else:
            parts.append(" ")
            opened = None if hidden else _HIDDEN.match(piece)
            if opened is not None:
                hidden, start = opened[1].lower(), len(parts)
    return "".join(parts)
