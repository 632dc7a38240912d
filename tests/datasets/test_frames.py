import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from alignrec_pyg.datasets import from_frames
from alignrec_pyg.graph import INTERACTS, known_pairs

LINKS = {"who": ["zoe", "ann", "zoe"], "what": [30, 10, 20], "when": [7, 8, 9], "part": [0, 1, 2]}
ITEMS = {
    "what": [20, 99, 10],
    "title": ["Tea", None, " "],
    "brand": ["x", None, ""],
    "file": ["a.jpg", None, "c.jpg"],
}
BACKENDS = [pd.DataFrame, pl.DataFrame, pa.table]


def read(links=LINKS, items=None, features=None, frame=pd.DataFrame, **options):
    return from_frames(
        frame(links),
        None if items is None else frame(items),
        features,
        **{"user": "who", "item": "what", **options},
    )


@pytest.mark.parametrize("frame", BACKENDS)
def test_same_from_every_frame(frame):
    dataset = read(frame=frame, time="when", split="part", rating="when")
    data = dataset.data
    assert data["user"].id.tolist() == ["ann", "zoe"]
    assert data["item"].id.tolist() == [10, 20, 30]
    assert data["item"].id.dtype == np.int64
    links = data[INTERACTS]
    assert links.edge_index.tolist() == [[1, 0, 1], [2, 0, 1]]
    assert links.time.tolist() == [7, 8, 9]
    assert links.rating.tolist() == [7.0, 8.0, 9.0]
    assert links.split.tolist() == [0, 1, 2]
    assert [part.interactions for part in dataset.report.parts] == [1, 1, 1]


@pytest.mark.parametrize("frame", BACKENDS)
def test_items_come_first_in_their_order_and_bring_content(frame):
    dataset = read(
        items=ITEMS, frame=frame, text=["title", "brand"], image="file", image_url="file"
    )
    item = dataset.data["item"]
    assert item.id.tolist() == [20, 99, 10, 30]
    assert item.text == ["Tea x", None, None, None]
    assert item.image_path == item.image_url == ["a.jpg", None, "c.jpg", None]
    assert dataset.data[INTERACTS].edge_index.tolist() == [[1, 0, 1], [3, 2, 0]]
    notes = "\n".join(dataset.report.notes)
    assert "1 items of the interactions are not in 'items'" in notes
    assert "3 of 4 items have nothing in title, brand" in notes
    assert "1 of 4 items have no interaction" in notes


def test_row_order_changes_no_number():
    forward, backward = read(), read({key: value[::-1] for key, value in LINKS.items()})
    assert forward.data["user"].id.tolist() == backward.data["user"].id.tolist()
    assert forward.data["item"].id.tolist() == backward.data["item"].id.tolist()


@pytest.mark.parametrize(
    "ids",
    [
        [30, 77, 10],
        np.array([30, 77, 10], dtype=np.int32),
        torch.tensor([30, 77, 10]),
        pd.Series([30, 77, 10]),
        pl.Series([30, 77, 10]),
        pa.chunked_array([[30, 77, 10]]),
    ],
    ids=["list", "numpy", "torch", "pandas", "polars", "pyarrow"],
)
@pytest.mark.parametrize("matrix", [np.array, torch.tensor])
def test_features_are_aligned_by_id(ids, matrix):
    dataset = read(features={"audio": (ids, matrix([[3.0, 3.0], [7.0, 7.0], [1.0, 1.0]]))})
    item = dataset.data["item"]
    assert item.x_audio.tolist() == [[1.0, 1.0], [0.0, 0.0], [3.0, 3.0]]
    assert item.mask_audio.tolist() == [False, True, False]
    notes = "\n".join(dataset.report.notes)
    assert "1 rows of unknown items left out" in notes
    assert "1 of 3 items have no row" in notes
    assert not any("ATTENTION" in note for note in dataset.report.notes)


def test_bare_matrix_follows_items_and_is_said_loudly():
    matrix = np.array([[2], [9], [1]], dtype=np.float16)
    dataset = read(items=ITEMS, features={"audio": matrix})
    assert dataset.data["item"].x_audio.flatten().tolist() == [2, 9, 1, 0]
    assert dataset.data["item"].mask_audio.tolist() == [False, False, False, True]
    assert dataset.report.features[0].dtype == "float16"
    assert any(
        "ATTENTION: feature 'audio' came without ids" in note for note in dataset.report.notes
    )
    with pytest.raises(ValueError, match="without the frame 'items' nothing says"):
        read(features={"audio": matrix})


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": ([10, 10, 20], np.ones((3, 1)))}, "row 1: each id needs to occur once"),
        ({"a": ([10, None], np.ones((2, 1)))}, "row 1, column 'ids': an id needs a value"),
        ({"a": ([10, "b"], np.ones((2, 1)))}, "row 1, column 'ids': .*all whole numbers"),
        ({"a": (["10", "20"], np.ones((2, 1)))}, "none of 2 is one"),
        ({"a": ([10, 20], np.ones((3, 1)))}, "one id for each row.*got 2 ids, 3 rows"),
        ({"a": [[10, 20], np.ones((2, 1))]}, r"\(ids, matrix\) as a tuple \(got a list\)"),
        ({"a": [np.array([10]), [[1.0]]]}, r"\(ids, matrix\) as a tuple \(got a list\)"),
        ({"a": (np.array([[10], [20]]), np.ones((2, 1)))}, r"one dimension \(got shape \[2, 1\]\)"),
        ({"a": (pd.DataFrame({"x": [10]}), np.ones((1, 1)))}, r"one dimension.*\[1, 1\]"),
        ({"a": ([10, 20], np.ones(2))}, r"got \[2\]"),
        ({"a": ([], np.ones((0, 1)))}, "at least one id"),
        ({"a": ([10], [[1.0]], "x")}, r"\(ids, matrix\)"),
        ({"a": ([10, 20], np.array([[np.nan], [1]]))}, "finite"),
        ({"my-audio": ([10], np.ones((1, 1)))}, "like 'my_audio'"),
        ({"a": np.ones((2, 1))}, r"shape \[3, dim\].*got \[2, 1\]"),
    ],
)
def test_bad_features_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        read(items=ITEMS, features=features)


def test_bare_matrix_of_two_rows_may_be_a_list():
    items = {"what": [10, 20]}
    links = {"who": ["a", "b"], "what": [10, 20]}
    data = read(links, items=items, features={"a": [[1.0, 2.0], [3.0, 4.0]]}).data
    assert data["item"].x_a.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_nonfinite_rows_may_be_missing():
    features = {"a": ([10, 20], np.array([[np.nan], [1]]))}
    data = read(features=features, nonfinite="missing").data
    assert data["item"].mask_a.tolist() == [True, False, True]


@pytest.mark.parametrize("frame", BACKENDS)
@pytest.mark.parametrize(
    ("who", "message"),
    [
        (["a", None, "b"], "'interactions' row 1, column 'who': an id needs a value"),
        ([1, None, 3], "'interactions' row 1, column 'who': an id needs a value"),
        (["a", " ", "b"], "'interactions' row 1, column 'who': .*blank"),
        ([1.0, 2.5, 3.0], "'interactions' row 1, column 'who': .*whole number"),
        ([True, False, True], "whole number"),
    ],
)
def test_bad_ids_are_refused(frame, who, message):
    with pytest.raises(ValueError, match=message):
        read({**LINKS, "who": who}, frame=frame)


def test_strings_with_lone_surrogates_are_refused_with_their_place():
    odd = pd.Series(["a", "b", "c\ud800"], dtype=object)
    told = r"row 2, column '{}': a string needs to be without lone surrogates.*got 'c\\ud800'"
    with pytest.raises(ValueError, match="'interactions' " + told.format("who")):
        from_frames(pd.DataFrame({**LINKS, "who": odd}), user="who", item="what")
    items = pd.DataFrame({**ITEMS, "title": odd})
    with pytest.raises(ValueError, match="'items' " + told.format("title")):
        from_frames(pd.DataFrame(LINKS), items, user="who", item="what", text="title")
    features = {"x": (odd.tolist(), np.ones((3, 2)))}
    with pytest.raises(ValueError, match=told.format("ids")):
        from_frames(pd.DataFrame(LINKS), features=features, user="who", item="what")


def test_mixed_ids_are_refused():
    with pytest.raises(
        ValueError, match=r"row 2, column 'who': .*all whole numbers or all strings"
    ):
        read({**LINKS, "who": [1, 2, "x"]})
    with pytest.raises(ValueError, match=r"of one type .got '20' and 10"):
        read(items={"what": ["20", "10"]})


@pytest.mark.parametrize("frame", BACKENDS)
def test_gaps_negative_and_huge_ids_are_just_ids(frame):
    dataset = read({**LINKS, "what": [-5, 2**62, 7]}, frame=frame)
    assert dataset.data["item"].id.tolist() == [-5, 7, 2**62]
    assert any("1 item ids are negative" in note for note in dataset.report.notes)


def test_categorical_ids_are_read_by_value():
    frame = pd.DataFrame({**LINKS, "who": pd.Categorical(LINKS["who"])})
    assert from_frames(frame, user="who", item="what").data["user"].id.tolist() == ["ann", "zoe"]


def test_repeated_pairs():
    links = {"who": ["a", "a", "b"], "what": [1, 1, 1], "when": [3, 5, 4]}
    assert read(links, time="when").data[INTERACTS].time.tolist() == [3, 4]
    last = read(links, time="when", keep="last")
    assert last.data[INTERACTS].time.tolist() == [5, 4]
    assert last.report.duplicates == 1


@pytest.mark.parametrize("frame", BACKENDS)
def test_date_times_and_dates(frame):
    day = dt.date(1970, 1, 2)
    stamp = dt.datetime(1970, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    local = dt.datetime(1970, 1, 2)
    for values, expected in (
        ([day] * 3, 86_400_000),
        ([local] * 3, 86_400_000),
        ([stamp] * 3, 79_200_000),
    ):
        if values[0] is day and frame is pd.DataFrame:
            continue  # pandas holds dates as objects
        links = read({**LINKS, "when": values}, frame=frame, time="when").data[INTERACTS]
        assert links.time.tolist() == [expected] * 3


@pytest.mark.parametrize("frame", BACKENDS)
def test_missing_times(frame):
    with pytest.raises(ValueError, match=r"row 1, column 'when': .*1 of 3 rows have none"):
        read({**LINKS, "when": [7, None, 9]}, frame=frame, time="when")
    days = [dt.datetime(1970, 1, 2), None, dt.datetime(1970, 1, 3)]
    with pytest.raises(ValueError, match=r"row 1, column 'when': .*1 of 3 rows have none"):
        read({**LINKS, "when": days}, frame=frame, time="when")
    empty = read({**LINKS, "when": [None] * 3}, frame=frame, time="when")
    assert "time" not in empty.data[INTERACTS]
    assert any("no value in any of 3 rows" in note for note in empty.report.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"links": {"who": [], "what": []}}, "'interactions' needs at least one row"),
        ({"links": {"u": ["a"], "what": [1]}}, "'interactions' needs a column 'who' .got"),
        ({"items": {"what": []}}, "'items' needs at least one row"),
        (
            {"items": {"what": [10, 20, 10], "name": ["a", "b", "c"]}, "text": "name"},
            "'items' row 2, column 'what': .*listed once",
        ),
        ({"items": {"what": [10, None]}}, "'items' row 1, column 'what': an id needs a value"),
        ({"items": ITEMS, "text": "name"}, "'items' needs a column 'name'"),
        ({"text": "title"}, "'text', .* need the frame 'items'"),
        ({"image": "file"}, "'image' .* need the frame 'items'"),
        ({"split": "when"}, "row 0, column 'when': a split label needs to be"),
        ({"keep": "all"}, "'keep' needs to be"),
    ],
)
def test_bad_calls_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        read(**options)


def test_only_eager_frames():
    with pytest.raises(ValueError, match="'interactions' needs to be a pandas, polars or pyarrow"):
        from_frames([("a", 1)])
    with pytest.raises(ValueError, match="collect a lazy one first"):
        from_frames(pl.LazyFrame({"user": [1], "item": [1]}))


@pytest.mark.parametrize("frame", BACKENDS)
def test_known_pairs_of_users_and_items_that_are_there(frame):
    views = {
        "who": ["ann", "bob", "dan", "ann", "bob", "ann"],
        "what": ["pot", "tea", "cup", "cup", "pan", "pot"],
        "stars": [1, 2, 3, 4, 5, 6],
    }
    links = pd.DataFrame({"who": ["ann", "ann", "bob"], "what": ["tea", "cup", "pot"]})
    dataset = from_frames(links, known=frame(views), user="who", item="what", rating=None)
    data = dataset.data
    user, item = known_pairs(data).tolist()  # (ann, cup) is a link
    assert data["user"].id[user].tolist() == ["ann", "bob"]
    assert data["item"].id[item].tolist() == ["pot", "tea"]
    assert "2 of 6 known pairs are of users or items that" in dataset.report.notes[-1]
    assert "known pairs" in str(dataset.report)


def test_known_pairs_of_nobody_are_refused():
    links = pd.DataFrame({"user": ["1", "2"], "item": ["a", "b"]})
    with pytest.raises(ValueError, match=r"'known' needs users of .*it has 1, they have '1'"):
        from_frames(links, known=pd.DataFrame({"user": [1, 2], "item": ["a", "a"]}))
    with pytest.raises(ValueError, match=r"'known' needs a column 'item'"):
        from_frames(links, known=pd.DataFrame({"user": ["1"]}))
