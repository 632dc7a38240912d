"""Rendering of the page's parts as HTML; text from the data and from visitors is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from alignrec_pyg.demo.catalogue import ShownItem
from alignrec_pyg.demo.page_data import (
    About,
    ItemRank,
    NewItemView,
    Recommendation,
    SimilarItem,
    UserView,
)

# The HTML passes through a template engine, in which these characters have a meaning.
_TEMPLATE_SIGNS = {ord(sign): f"&#{ord(sign)};" for sign in "{}$`"}
_SHOWN_TEXT = 280


def message(text: str) -> str:
    """A message that is displayed instead of results."""
    return f'<div class="ar-message" role="alert">{escaped(text)}</div>'


def invitation(reads: Sequence[str]) -> str:
    """The hint that is displayed before an item was provided."""
    parts = " or ".join({"image": "an image", "text": "a text"}[part] for part in reads)
    both = ", or both" if len(reads) > 1 else ""
    return (
        f"<p>Provide {parts}{both}: the item is added to the model without training, and compared "
        "with the known items.</p>"
    )


def known_items(view: UserView) -> str:
    """The history of a user."""
    shown = len(view.known)
    if view.num_known == 0:
        return message(f"{_first(view.name)} has no known items.")
    hidden = view.num_known - shown
    count = f"{view.num_known:,} item{'' if view.num_known == 1 else 's'}"
    return (
        f"<details open><summary><h2>What {escaped(view.name)} knows <small>{count}</small></h2>"
        "</summary><p>What the model learned this user's taste from, the latest first where times "
        "are known.</p>"
        f'<div class="ar-grid ar-known">{"".join(_card(item) for item in view.known)}</div>'
        + (f'<p class="ar-more">and {hidden:,} more</p>' if hidden else "")
        + "</details>"
    )


def recommendations(view: UserView) -> str:
    """The recommendations for a user with their reasons."""
    if not view.recommended:
        return message(f"There is nothing left to recommend to {view.name}.")
    fewer = ""
    if len(view.recommended) < view.asked:
        fewer = message(
            f"Only {len(view.recommended):,} of the {view.asked:,} asked for: there are no more "
            "items to choose from."
        )
    reasons = ""
    if any(entry.reasons for entry in view.recommended):
        reasons = ", with the known items that each is most like"
    rows = "".join(
        _recommendation(rank, entry) for rank, entry in enumerate(view.recommended, start=1)
    )
    return (
        f"<h2>Recommended to {escaped(view.name)}</h2><p>What the model scores highest among the "
        f"items that this user does not know, best first{reasons}. {_marks(view)}</p>{fewer}"
        f"<ol class='ar-list'>{rows}</ol>"
    )


def preview(poster: str | None) -> str:
    """An uploaded image."""
    if poster is None:
        return ""
    return f'<div class="ar-preview"><img src="{poster}" alt="The image of the new item"></div>'


def new_item(view: NewItemView) -> str:
    """A new item, the most similar known items, and the users for whom it ranks highest."""
    text = view.text or ""
    if len(text) > _SHOWN_TEXT:
        text = text[:_SHOWN_TEXT].rstrip() + " …"
    notes = "".join(message(note) for note in view.notes)
    used = " and ".join(view.used)
    head = (
        f'<div class="ar-new">{_poster(view.item)}<div><h2>The new item</h2>'
        f'<p class="ar-used">Placed by its <b>{escaped(used)}</b> '
        f"{'together' if len(view.used) > 1 else 'alone'}, without training.</p>"
        f"<p>{escaped(text)}</p></div></div>"
    )
    if not view.similar:
        return head + notes + message("No item of the catalogue can be compared with it.")
    fewer = ""
    if len(view.similar) < view.asked:
        fewer = message(f"The catalogue has only {len(view.similar):,} items to compare it with.")
    similar = "".join(_card(like.item, _words(like)) for like in view.similar)
    listed = f"{view.num_lists:,} of {view.num_users:,} users have it among their best"
    if view.num_lists == 0:
        listed = "No user has it yet among their best"
    return (
        f"{head}{notes}<h2>Most like it in the catalogue</h2><p>The known items whose vectors are "
        f"nearest to its own, the nearest first.</p>{fewer}"
        f'<div class="ar-grid">{similar}</div>'
        "<h2>For whom it moves up most</h2><p>The users for whom its content lifts it furthest, "
        "beside the rank of an item of which the model knows nothing. "
        f"{listed} {view.asked:,}.</p>"
        f"<ol class='ar-list'>{''.join(_rank(entry) for entry in view.ranks)}</ol>"
    )


def about(view: About) -> str:
    """The summary of the model, the data and the metrics."""
    counts = [(name, f"{count:,}") for name, count in view.counts.items()]
    features = [(name, f"{width:,} wide") for name, width in view.features.items()]
    hparams = [(name, str(value)) for name, value in view.hparams.items()]
    metrics = [(name, f"{value:.4f}") for name, value in view.metrics.items()]
    tables = [("Data", counts), ("Features of items", features)]
    if metrics:
        tables.append(("On test links", metrics))
    tables.append((f"Model: {view.model}", hparams))
    parts = "".join(
        f"<section><h2>{escaped(title)}</h2><table>{_rows(rows)}</table></section>"
        for title, rows in tables
    )
    return (
        f'<div class="ar-about">{parts}</div>'
        "<p>Recommendations are the items of highest score that the user does not know from "
        "training; those that the user chose in the held-out links are marked. Metrics average "
        f"over all users with test links, over all items. {_about_reasons(view)}</p>"
    )


def escaped(text: object) -> str:
    """The text with all characters escaped that HTML or the template engine would interpret."""
    return html.escape(str(text)).translate(_TEMPLATE_SIGNS)


def _first(name: str) -> str:
    """A name at the beginning of a sentence."""
    return name[:1].upper() + name[1:]


def _about_reasons(view: About) -> str:
    """What the reasons of recommendations are, and the words for them."""
    words = (
        " “Very much like” is one pair of items in a thousand, “much like” the next nine, "
        "“somewhat like” the next 90."
    )
    if view.similarity == "cosine":
        return (
            "A reason is the item of the user's own whose vector has the highest cosine to the "
            "recommended one: it shows which items the model considers similar, not what caused "
            f"the score.{words}"
        )
    if view.similarity == "score":
        return (
            "A reason is the item of the user's own that, as all that is known of a user, adds "
            f"most to the score of the recommended one.{words}"
        )
    return "This model gives no reasons, since it does not compare items with each other."


def _marks(view: UserView) -> str:
    """A sentence about the held-out links that are marked."""
    marked = sum(entry.held_out is not None for entry in view.recommended)
    if marked == 0:
        return ""
    return f"They chose {marked:,} of these items later, which the model has not seen: ✓."


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f"<tr><th>{escaped(name)}</th><td>{escaped(value)}</td></tr>" for name, value in rows
    )


def _poster(item: ShownItem) -> str:
    title = escaped(item.title)
    if item.poster is None:
        return f'<div class="ar-poster ar-none"><span>{title}</span></div>'
    return f'<div class="ar-poster"><img src="{item.poster}" alt="{title}"></div>'


def _card(item: ShownItem, below: str = "") -> str:
    title = escaped(item.title)
    return (
        f'<figure class="ar-card" title="{title}">{_poster(item)}'
        f"<figcaption>{title}{below}</figcaption></figure>"
    )


def _words(like: SimilarItem) -> str:
    closer = f"closer than {like.share_below:.1%} of all pairs of items"
    return f'<span class="ar-words" title="{closer}">{escaped(like.words)} it</span>'


def _recommendation(rank: int, entry: Recommendation) -> str:
    chosen = ""
    if entry.held_out is not None:
        chosen = (
            f'<span class="ar-hit" title="One of the {entry.held_out} links, held out from '
            f'training">✓ did choose it <small>({entry.held_out})</small></span>'
        )
    return (
        f'<li class="ar-row">{_poster(entry.item)}<div>'
        f'<p class="ar-title"><span class="ar-rank">{rank}</span>{escaped(entry.item.title)}'
        f"{chosen}</p>{_reasons(entry.reasons)}</div></li>"
    )


def _rank(entry: ItemRank) -> str:
    return (
        f'<li class="ar-row"><div><p class="ar-title">{escaped(_first(entry.name))} '
        f'<span class="ar-words">rank {entry.rank:,} of {entry.num_candidates:,}, without its '
        f"content {entry.blank:,}</span></p>"
        f"{_reasons(entry.reasons)}</div></li>"
    )


def _reasons(reasons: Sequence[SimilarItem]) -> str:
    if not reasons:
        return '<p class="ar-why">No known item of the user can be compared with it.</p>'
    rows = "".join(
        f'<li title="closer than {like.share_below:.1%} of all pairs of items">'
        f"{_poster(like.item)}<span><em>{escaped(like.words)}</em> "
        f"{escaped(like.item.title)}</span></li>"
        for like in reasons
    )
    return f'<p class="ar-why">Why? It is</p><ul class="ar-reasons">{rows}</ul>'
