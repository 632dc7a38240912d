import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignrec_pyg.datasets import from_files
from alignrec_pyg.graph import INTERACTS, KNOWS, known_pairs

RATINGS = "who,what,stars,when\nu1,10,4.5,1700000001\nu2,20,3,1700000002\nu1,30,5,1700000003\n"
ITEMS = (
    '{"what": 20, "title": "Two", "photo": "b.jpg", "at": "http://x/b.jpg"}\n'
    '{"what": 10, "title": "One"}\n'
)
NAMES = {"user": "who", "item": "what"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ratings.csv").write_text(RATINGS)
    (tmp_path / "items.jsonl").write_text(ITEMS)
    np.save(tmp_path / "clip.npy", np.arange(1, 7, dtype=np.float32).reshape(2, 3))
    (tmp_path / "clip.txt").write_text("30\n10\n")
    return tmp_path


def test_reads_everything(folder):
    dataset = from_files(
        folder / "ratings.csv",
        folder / "items.jsonl",
        {"clip": (folder / "clip.npy", folder / "clip.txt")},
        rating="stars",
        time="when",
        text="title",
        image="photo",
        image_url="at",
        **NAMES,
    )
    data = dataset.data
    assert data["user"].id.tolist() == ["u1", "u2"]
    assert data["item"].id.tolist() == [20, 10, 30]
    assert data[INTERACTS].edge_index.tolist() == [[0, 1, 0], [1, 0, 2]]
    assert data[INTERACTS].rating.tolist() == [4.5, 3, 5]
    assert data[INTERACTS].time.tolist() == [1700000001, 1700000002, 1700000003]
    assert data["item"].text == ["Two", "One", None]
    assert data["item"].image_path == [folder / "b.jpg", None, None]
    assert data["item"].image_url == ["http://x/b.jpg", None, None]
    assert data["item"].x_clip.tolist() == [[0, 0, 0], [4, 5, 6], [1, 2, 3]]
    assert data["item"].mask_clip.tolist() == [True, False, False]


def test_ids_that_are_numbers_in_one_file_only(folder):
    (folder / "ratings.csv").write_text(RATINGS + "u2,x7,1,1700000004\n")
    (folder / "items.csv").write_text("what,title\n20,Two\n10,One\n")
    data = from_files(folder / "ratings.csv", folder / "items.csv", text=["title"], **NAMES).data
    assert data["item"].id.tolist() == ["20", "10", "30", "x7"]
    assert data[INTERACTS].edge_index.tolist() == [[0, 1, 0, 1], [1, 0, 2, 3]]


@pytest.mark.parametrize("floats", ["interactions", "items"])
@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_whole_floats_are_whole_numbers(tmp_path, floats, form):
    """A column that once held a missing value is one of floats."""
    tables = {
        "interactions": pd.DataFrame({"user": ["a", "b"], "item": [1, 2]}),
        "items": pd.DataFrame({"item": [1, 2], "title": ["one", "two"]}),
    }
    paths = {}
    for name, table in tables.items():
        ending = form if name == floats else "csv"
        paths[name] = tmp_path / f"{name}.{ending}"
        if name == floats:
            table = table.assign(item=table["item"].astype(float))
        if ending == "csv":
            table.to_csv(paths[name], index=False)
        elif ending == "parquet":
            table.to_parquet(paths[name])
        else:
            rows = ({**row, "item": float(row["item"])} for row in table.to_dict("records"))
            paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = from_files(*paths.values(), text="title").data
    assert data["item"].id.tolist() == [1, 2]
    assert data["item"].text == ["one", "two"]


def test_ids_that_never_meet_are_refused(folder):
    (folder / "a.csv").write_text("user,item\na,0001\nb,0002\n")
    (folder / "b.csv").write_text("item,title\n1,one\n2,two\n")
    message = "'items' .*b.csv, line 2.*: none of 2 is one .got '1', the items are like '0001'."
    with pytest.raises(ValueError, match=message):
        from_files(folder / "a.csv", folder / "b.csv", text="title")


def test_the_id_of_items_may_have_another_name(folder):
    (folder / "items.csv").write_text("sku,title\n20,Two\n10,One\n")
    data = from_files(folder / "ratings.csv", folder / "items.csv", items_id="sku", **NAMES).data
    assert data["item"].id.tolist() == [20, 10, 30]


def test_texts_as_they_come(folder):
    """Lists of strings, numbers and objects, in json lines and in parquet."""
    rows = [
        {"what": 10, "title": "One", "description": ["a", "b"]},
        {"what": 20, "title": 1984, "description": "c"},
        {"what": 30, "title": None, "description": [1.50, {"size": "M"}]},
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pa.table(
        {
            "what": [10, 20, 30],
            "title": ["One", "1984", None],
            "description": pa.array([["a", "b"], ["c"], None]),
        }
    )
    pq.write_table(table, folder / "items.parquet")
    found = {
        name: from_files(
            folder / "ratings.csv", folder / name, text=["title", "description"], **NAMES
        )
        .data["item"]
        .text
        for name in ("items.jsonl", "items.parquet")
    }
    assert found["items.jsonl"] == ["One a b", "1984 c", "1.5 size: M"]
    assert found["items.parquet"] == ["One a b", "1984 c", None]


def test_a_list_of_images_gives_the_first(folder):
    rows = [{"what": 10, "at": ["http://x/1.jpg", "http://x/2.jpg"]}, {"what": 20, "at": []}]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = from_files(folder / "ratings.csv", folder / "items.jsonl", image_url="at", **NAMES).data
    assert data["item"].image_url == ["http://x/1.jpg", None, None]


def test_exact_copies_of_an_item_are_merged(folder):
    (folder / "items.csv").write_text("what,title,n\n20,Two,1\n10,One,2\n20,Two,3\n")
    dataset = from_files(folder / "ratings.csv", folder / "items.csv", text="title", **NAMES)
    assert dataset.data["item"].text == ["Two", "One", None]
    assert any("1 rows of 'items' repeat an item" in note for note in dataset.report.notes)


def test_times_are_read_in_forms_that_the_message_names(folder):
    for text in ("31/12/2020", "yesterday"):
        (folder / "a.csv").write_text(f"user,item,when\na,x,{text}\nb,y,{text}\n")
        with pytest.raises(ValueError, match="in the form 2020-12-31 or 2020-12-31 23:59:59"):
            from_files(folder / "a.csv", time="when")
    for text in ("2020-12-31", "2020-12-31 00:00:00", "1609372800000"):
        (folder / "a.csv").write_text(f"user,item,when\na,x,{text}\n")
        data = from_files(folder / "a.csv", time="when").data
        assert data[INTERACTS].time.tolist() == [1609372800000]


def test_quotes_may_be_ordinary_characters(folder):
    (folder / "a.tsv").write_text('user\titem\tnote\na\tx\t"so so\nb\ty\tfine\n')
    with pytest.raises(ValueError, match="line 2: a field begins with a double quote"):
        from_files(folder / "a.tsv")
    assert from_files(folder / "a.tsv", quoted=False).report.interactions == 2


def test_parquet_with_splits(folder):
    path = folder / "links.parquet"
    pq.write_table(pa.table({"user": [1, 1], "item": ["a", "b"], "part": ["train", "test"]}), path)
    data = from_files(path, split="part").data
    assert data[INTERACTS].split.tolist() == [0, 2]
    pq.write_table(pa.table({"user": [1, 1], "item": ["a", "b"], "part": ["val", "x"]}), path)
    with pytest.raises(ValueError, match="links.parquet, row 1, column 'part': a split label"):
        from_files(path, split="part")


def test_every_bad_column_is_told(folder):
    (folder / "ratings.csv").write_text(RATINGS + "u3,,good,1700000000000\n")
    with pytest.raises(ValueError) as caught:
        from_files(folder / "ratings.csv", rating="stars", time="when", **NAMES)
    lines = str(caught.value).split("\n")
    assert len(lines) == 3
    for line, name in zip(lines, ("what", "stars", "when"), strict=True):
        assert f"ratings.csv, line 5, column '{name}': " in line


def test_arguments_are_checked(folder):
    with pytest.raises(ValueError, match="need the file 'items'"):
        from_files(folder / "ratings.csv", text="title", **NAMES)
    with pytest.raises(ValueError, match="attribute-safe names, like 'a_b'"):
        from_files(folder / "ratings.csv", features={"a-b": ("x", "y")}, **NAMES)
    features = {"clip": (folder / "clip.npy", folder / "clip.txt")}
    for text, message in (
        ("", "clip.txt, line 1: at least one id"),
        ("30\nx\n", "clip.txt, line 2, column 'ids': an id needs to be a whole number"),
        ("30\n30\n", "each id needs to occur once"),
        ("30\n", "needs the shape"),
    ):
        (folder / "clip.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            from_files(folder / "ratings.csv", features=features, **NAMES)
    with pytest.raises(ValueError, match="line 1: a header with 'user', 'item'"):
        from_files(folder / "ratings.csv")


def test_known_pairs_of_their_own_file(tmp_path):
    (tmp_path / "a.csv").write_text("user,item,rating\n1,10,5\n2,x,4\n1,x,4\n")
    (tmp_path / "views.tsv").write_text("item\tuser\trating\n10\t2\t1.5\n10\t1\t1\n")
    data = from_files(tmp_path / "a.csv", rating="rating", known=tmp_path / "views.tsv").data
    user, item = known_pairs(data).tolist()
    assert (data["user"].id[user].tolist(), data["item"].id[item].tolist()) == ([2], ["10"])
    assert data[KNOWS].rating.tolist() == [1.5]
