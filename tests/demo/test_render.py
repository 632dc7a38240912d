import re

import pytest

from alignrec_pyg.demo import render
from alignrec_pyg.demo.catalogue import ShownItem
from alignrec_pyg.demo.page_data import (
    About,
    ItemRank,
    NewItemView,
    Recommendation,
    SimilarItem,
    UserView,
)

STRANGE = "<script>alert('${x}')</script> {{name}} `a` & \"b\""


def item(number, title=None, poster=None):
    return ShownItem(number, title or f"Title {number}", poster)


def user_view(**changes):
    like = SimilarItem(item(2, poster="data:two"), "much like", 0.9956)
    values = {
        "name": "user 17",
        "num_known": 30,
        "known": (item(2), item(3)),
        "recommended": (
            Recommendation(item(5, poster="data:five"), (like,), "test"),
            Recommendation(item(6), (), None),
        ),
        "asked": 2,
    }
    return UserView(**{**values, **changes})


def new_item_view(**changes):
    like = SimilarItem(item(2), "very much like", 0.9999)
    values = {
        "item": item(80, "The new item", "data:new"),
        "text": "a ship",
        "used": ("image", "text"),
        "notes": (),
        "similar": (like,),
        "ranks": (ItemRank("user 17", 3, 900, 1_200, (like,)),),
        "num_lists": 4,
        "num_users": 601,
        "asked": 1,
    }
    return NewItemView(**{**values, **changes})


def words(page):
    """The text a person sees, roughly."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)).strip()


def test_known_items_with_their_number():
    page = render.known_items(user_view())
    assert "What user 17 knows 30 items" in words(page)
    assert "and 28 more" in page
    assert page.count("<figure") == 2
    one = render.known_items(user_view(num_known=1, known=(item(2),)))
    assert "knows 1 item " in words(one)
    assert "more" not in words(one)
    none = render.known_items(user_view(num_known=0, known=()))
    assert 'role="alert"' in none
    assert "User 17 has no known items" in none


def test_recommendations_with_reasons_and_marks():
    page = render.recommendations(user_view())
    assert page.count('class="ar-row"') == 2
    assert "1 Title 5 ✓ did choose it (test)" in words(page)
    assert "Why? It is much like Title 2" in words(page)
    assert "closer than 99.6% of all pairs of items" in page
    assert "2 Title 6 No known item of the user can be compared with it." in words(page)
    assert '<img src="data:five" alt="Title 5">' in page
    assert page.count("did choose it") == 1
    assert "role" not in page


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"asked": 50}, "Only 2 of the 50 asked for"),
        ({"recommended": ()}, "nothing left to recommend to user 17"),
    ],
)
def test_short_lists_are_told(changes, told):
    page = render.recommendations(user_view(**changes))
    assert 'role="alert"' in page
    assert told in words(page)


def test_what_is_seen_is_said():
    marked = words(render.recommendations(user_view()))
    assert "best first, with the known items that each is most like. They chose 1 of" in marked
    none = user_view(recommended=(Recommendation(item(6), (), None),), asked=1)
    assert "✓" not in render.recommendations(none)
    assert "most like" not in render.recommendations(none)
    assert "the latest first" in words(render.known_items(user_view()))
    assert render.known_items(user_view()).startswith("<details open><summary>")  # folds away


def test_the_preview_of_an_upload():
    assert '<img src="data:x" alt="The image of the new item">' in render.preview("data:x")
    assert render.preview(None) == ""


def test_items_without_a_poster_are_shown_by_their_title():
    assert '<div class="ar-poster ar-none"><span>Title 3</span></div>' in render.known_items(
        user_view()
    )


def test_a_new_item_with_what_was_used():
    page = words(render.new_item(new_item_view()))
    assert "Placed by its image and text together, without training. a ship" in page
    assert "Title 2 very much like it" in page
    assert "For whom it moves up most" in page
    assert "knows nothing. 4 of 601 users have it among their best 1." in page
    assert "User 17 rank 3 of 1,200, without its content 900" in page
    nobody = words(render.new_item(new_item_view(num_lists=0)))
    assert "No user has it yet among their best 1." in nobody
    assert "0 of 601" not in nobody
    alone = render.new_item(new_item_view(used=("text",), notes=("No image.",), text="x" * 400))
    assert "Placed by its text alone" in words(alone)
    assert 'role="alert">No image.</div>' in alone
    assert "x" * 280 + " …" in alone
    assert "x" * 281 not in alone


def test_few_or_no_similar_items_are_told():
    fewer = words(render.new_item(new_item_view(asked=10)))
    assert "The catalogue has only 1 items to compare it with." in fewer
    assert "No item of the catalogue can be compared with it" in render.new_item(
        new_item_view(similar=())
    )


def test_the_invitation_names_what_is_read():
    assert "Provide an image or a text, or both:" in render.invitation(("image", "text"))
    assert "Provide a text: the" in render.invitation(("text",))


def test_about_shows_tables():
    view = About("AlignRec", {"k": 2}, {"users": 1_234}, {"mm": 64}, {"recall@20": 0.25}, "cosine")
    page = words(render.about(view))
    for part in ("users 1,234", "mm 64 wide", "recall@20 0.2500", "Model: AlignRec k 2"):
        assert part in page
    assert "whose vector has the highest cosine" in page
    score = words(render.about(About("M", {}, {}, {}, {}, "score")))
    assert "held-out links recall" not in score
    assert "adds most to the score of the recommended one" in score
    assert "cosine" not in score
    assert "gives no reasons" in render.about(About("M", {}, {}, {}, {}, None))


def test_nothing_from_outside_is_taken_for_html_or_for_a_template():
    strange = item(1, STRANGE)
    like = SimilarItem(strange, "much like", 0.99)
    pages = [
        render.message(STRANGE),
        render.known_items(user_view(known=(strange,), name=STRANGE)),
        render.recommendations(
            user_view(recommended=(Recommendation(strange, (like,), None),), name=STRANGE)
        ),
        render.new_item(
            new_item_view(
                text=STRANGE,
                notes=(STRANGE,),
                similar=(like,),
                ranks=(ItemRank(STRANGE, 1, 2, 2, (like,)),),
            )
        ),
        render.about(About(STRANGE, {STRANGE: STRANGE}, {}, {STRANGE: 1}, {}, None)),
    ]
    for page in pages:
        assert "<script" not in page
        assert not set("{}$`") & set(page)
        assert "&lt;script&gt;" in page
