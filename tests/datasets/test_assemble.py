import numpy as np
import pandas as pd
import pytest

from alignrec_pyg.datasets.assemble import (
    LinkColumns,
    assemble,
    joined_text,
    strings_in,
    without_copies,
)
from alignrec_pyg.datasets.columns import Column
from alignrec_pyg.graph import INTERACTS


def column(name, values):
    return Column(name, np.array(values, dtype=object), lambda row: f"line {row + 2}")


def links(**others):
    return LinkColumns(
        column("u", ["b", "a", "b", "b"]),
        column("i", ["y", "x", "x", "y"]),
        **{name: column(name, values) for name, values in others.items()},
    )


def test_users_and_items_in_order_of_their_ids():
    notes = []
    data, repeated = assemble(links(rating=[5, 4, 3, 2], time=[1, 2, 3, 4]), notes)
    assert data["user"].id.tolist() == ["a", "b"]
    assert data["item"].id.tolist() == ["x", "y"]
    assert data[INTERACTS].edge_index.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert data[INTERACTS].rating.tolist() == [5, 4, 3]
    assert data[INTERACTS].time.tolist() == [1, 2, 3]
    assert repeated == 1
    assert any("1 rows repeat" in note and "line 5" in note for note in notes)


def test_items_of_the_catalogue_come_first():
    notes = []
    data, _ = assemble(links(), notes, catalogue=column("i", ["z", "y"]))
    assert data["item"].id.tolist() == ["z", "y", "x"]
    assert data[INTERACTS].edge_index.tolist() == [[1, 0, 1], [1, 2, 2]]
    assert "1 items of the interactions are not in 'items': added last" in notes


def test_all_columns_are_told_at_once():
    bad = LinkColumns(
        column("u", ["a", None]), column("i", ["x", ""]), time=column("t", [1, "soon"])
    )
    with pytest.raises(ValueError) as caught:
        assemble(bad, [])
    lines = str(caught.value).split("\n")
    assert [line[:18] for line in lines] == [
        "line 3, column 'u'",
        "line 3, column 'i'",
        "line 3, column 't'",
    ]


def test_catalogues_are_checked():
    with pytest.raises(ValueError, match="line 3, column 'i': each item needs to be listed once"):
        assemble(links(), [], catalogue=column("i", ["x", "x"]))
    with pytest.raises(ValueError, match="item ids of one type .got 1 and 'x'."):
        assemble(links(), [], catalogue=column("i", [1, 2]))


def test_pairs_in_two_parts_and_cold_ends_are_named():
    notes = []
    assemble(links(split=[2, 0, 0, 1]), notes)
    text = "\n".join(notes)
    assert "1 repeated pairs carry another split label" in text
    assert "1 held-out interactions are of items without any for training (first: line 2)" in text
    assert "of users without" not in text
    cold = LinkColumns(
        column("u", ["a", "b"]), column("i", ["x", "x"]), split=column("s", ["train", "test"])
    )
    assemble(cold, notes)
    assert "1 held-out interactions are of users without any for training (first: line 3)" in notes


def test_taken_rows_know_their_places():
    taken = links(rating=[5, 4, "good", 2]).take(np.array([1, 2]))
    assert taken.time is None
    with pytest.raises(ValueError, match="line 4, column 'rating': a finite number"):
        assemble(taken, [])


def test_texts_are_joined():
    columns = [column("title", [" A ", None, "", 3]), column("brand", ["B", np.nan, " ", "C"])]
    assert joined_text(columns) == ["A B", None, None, "3 C"]


@pytest.mark.parametrize(
    ("value", "strings"),
    [
        (" a ", ["a"]),
        (["one", " two ", None, ""], ["one", "two"]),
        (np.array(["one", "two"], dtype=object), ["one", "two"]),
        ([["deep"], ("er",)], ["deep", "er"]),
        ({"colour": "red", "sizes": ["S", 3]}, ["colour: red", "sizes: S", "sizes: 3"]),
        (3, ["3"]),
        (0.5, ["0.5"]),
        (None, []),
        (np.nan, []),
        (pd.NA, []),
        ([], []),
    ],
)
def test_strings_are_found_in_what_tables_hold(value, strings):
    assert strings_in(value) == strings


def test_rows_that_repeat_an_item_and_its_values_are_left_out():
    notes = []
    ids = column("item", ["a", "b", "a", "c", "a"])
    title = column("title", [["x"], "y", ["x"], "z", ["x"]])
    kept, content = without_copies(ids, {"title": title}, notes)
    assert kept.values.tolist() == ["a", "b", "c"]
    assert content["title"].values.tolist() == [["x"], "y", "z"]
    assert [kept.where(row) for row in range(3)] == ["line 2", "line 3", "line 5"]
    assert notes == ["2 rows of 'items' repeat an item and its values: left out (first: line 4)"]
    title = column("title", [["x"], "y", ["other"], "z", ["x"]])
    with pytest.raises(ValueError, match="line 4, column 'item': each item .* once"):
        without_copies(ids, {"title": title}, notes)


def test_items_that_the_interactions_share_are_counted():
    links = [str(number) for number in range(10)]
    listed = column("item", [*links[:4], *(f"x{number}" for number in range(20))])
    notes = []
    graph = LinkColumns(column("user", links), column("item", links))
    assemble(graph, notes, catalogue=listed)
    assert notes[0].startswith("ATTENTION: 'items' (line 2): only 4 of 24 ids are among the 10")
    zeros = column("item", [f"{number:04}" for number in range(10)])
    message = "none of 10 is one .got '0000', the items are like '0'.: .* leading zeros"
    with pytest.raises(ValueError, match=message):
        assemble(graph, [], catalogue=zeros)
