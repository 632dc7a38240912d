from __future__ import annotations

import html
import re
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignrec_pyg.encoders import TfidfEncoder, clean_text, item_text
from alignrec_pyg.encoders.base import ItemContent
from alignrec_pyg.encoders.texts import CONTROL, CUT, HTML, SURROGATES, CleanText


@pytest.mark.parametrize("value", [None, float("nan"), np.nan, pd.NA, pd.NaT, "", " \n\t\u3000 "])
def test_nothing_is_none(value):
    assert clean_text(value) == CleanText(None)


@pytest.mark.parametrize(
    ("text", "expected", "repairs"),
    [
        ("  two\n words ", "two words", ()),
        ("x < y > z & w; a<3", "x < y > z & w; a<3", ()),
        ("a<br/>b<p class='x'>c</p>", "a b c", (HTML,)),
        ("Tom &amp; Jerry&#39;s caf&eacute;", "Tom & Jerry's café", (HTML,)),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold", (HTML,)),
        ("&amp;lt;br&amp;gt;twice", "twice", (HTML,)),
        ("<style>.a{b:c}</style>hi<script>if (a<b) {c()}</SCRIPT >there", "hi there", (HTML,)),
        ("<script>never closed", "never closed", (HTML,)),
        ("a<!-- not seen -->b <!-- open", "a b <!-- open", (HTML,)),
        ("<!DOCTYPE html><title>x</title>", "x", (HTML,)),
        ("a\x00b\x07c\ufeff", "a b c", (CONTROL,)),
        ("a\ud800b\udc00", "ab", (SURROGATES,)),
        ("pear \ud83c\udf50", "pear 🍐", (SURROGATES,)),
        ("\ud800", None, (SURROGATES,)),
        ("<br>", None, (HTML,)),
        ("&#" + "1" * 5000 + ";x", "x", (HTML,)),
    ],
)
def test_repairs(text, expected, repairs):
    assert clean_text(text) == CleanText(expected, repairs)


@pytest.mark.parametrize(
    "text",
    [
        "日本語の説明 中文描述 한국어",
        "وصف المنتج \u200fباللغة",
        "सुंदर किताब \u200dक्\u200cष",
        "👩\u200d👩\u200d👧 family 🇩🇪",
        "Ελληνικά Кириллица ไทย עברית",
        "naïve café — “quoted” 5 µm²",
    ],
)
def test_any_script_stays_as_it_is(text):
    assert clean_text(text) == CleanText(text)


def test_long_texts_are_cut():
    clean = clean_text("word " * 200_000)
    assert len(clean.text) == 19_999  # the blank at the end goes
    assert clean.repairs == (CUT,)
    assert clean_text("abcdef", max_chars=3) == CleanText("abc", (CUT,))
    assert clean_text("abc", max_chars=3) == CleanText("abc")


@pytest.mark.parametrize(
    "piece", ["<script>", "<!--", "<", "&", "&#", "<a ", "&amp;", "\ud800", "<style></style>"]
)
def test_a_megabyte_of_anything_is_quick(piece):
    start = time.process_time()
    clean_text(piece * (1_000_000 // len(piece)))
    assert time.process_time() - start < 5


@given(st.text(st.characters(exclude_categories=()), max_size=60))
@settings(max_examples=300, deadline=None)
def test_what_comes_out_can_be_encoded_and_stays(text):
    clean = clean_text(text).text
    if clean is not None:
        assert clean.encode().decode() == clean == clean.strip()
        assert not re.search("[\x00-\x1f\x7f]", clean)
        if "&" not in clean:
            assert clean_text(clean) == CleanText(clean)


@given(st.text(st.characters(categories=("L", "N", "P")), max_size=40))
@settings(deadline=None)
def test_escaping_is_undone(text):
    if not re.search("[<&]", text):
        assert clean_text(html.escape(text)).text == clean_text(text).text


@pytest.mark.parametrize("value", [3, ["a"], b"bytes", {"a": 1}])
def test_other_things_are_refused(value):
    with pytest.raises(ValueError, match="needs to be a string, or None .*item_text"):
        clean_text(value)


def test_fields_are_joined_in_order():
    item = {"brand": " Acme ", "title": "Cup", "description": ["Red.", ["", None, "Round."]]}
    assert item_text(item) == "Cup Acme Red. Round."
    assert item_text(item, ["description", "title", "colour"]) == "Red. Round. Cup"
    assert item_text({"title": float("nan"), "brand": None, "description": [" "]}) is None
    assert item_text({"title": "A", "brand": 7, "description": pd.NA}) == "A 7"
    with pytest.raises(ValueError, match="'brand' needs to hold strings.*got dict"):
        item_text({"brand": [{"name": "Acme"}]})


def test_a_text_of_stop_words_only_has_a_row_of_zeros():
    encoder = TfidfEncoder(2)
    encoder.fit(ItemContent(text=["red car", "blue car", "red boat", "the"]))
    assert not encoder(ItemContent(text=[clean_text("<p>The &amp; of</p>").text])).any()
