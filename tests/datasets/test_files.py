import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alignrec_pyg.datasets import from_files
from alignrec_pyg.graph import INTERACTS

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
