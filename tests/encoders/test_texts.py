from __future__ import annotations

from alignrec_pyg.encoders.texts import clean_text, item_text


def test_fields_that_hold_something_are_joined():
    item = {"title": " Red shoe ", "brand": None, "description": ["light", "", "soft"], "x": "no"}
    assert item_text(item) == "Red shoe light soft"
    assert item_text(item, ["x", "title"]) == "no Red shoe"
    assert item_text({"title": "  "}) is None


def test_cleaning():
    assert clean_text("a &amp;  b\n\ud800c").text == "a & b c"
    assert clean_text(float("nan")).text is None
    assert clean_text(" ").text is None
