import gzip
import json

import numpy as np
import pytest

from alignrec_pyg.datasets import amazon_items
from alignrec_pyg.datasets.amazon_items import (
    FIELDS,
    IMAGE_FEATURE_DIM,
    read_image_features,
    read_metadata,
)

ITEMS = np.array(["B1", "B2", "B3"], dtype=object)
FOUR = ("title", "brand", "categories", "description")
OLD = [
    {
        "asin": "B2",
        "title": 'It\'s "soft"',
        "brand": "Acme",
        "price": 3.5,
        "categories": [["Baby", "Toys"], ["Baby", "Soft"]],
        "description": "For <b>you</b>",
        "imUrl": "http://ecx.images-amazon.com/images/I/2.jpg",
        "related": {"also_bought": ["B1", "B3"]},
    },
    {"asin": "B9", "title": "another"},
    {"asin": "B1", "title": "", "related": {"also_viewed": ["B2"]}},
]
NEW = [
    {
        "parent_asin": "B1",
        "title": "One",
        "store": "Acme",
        "categories": ["Baby", "Toys"],
        "features": ["warm", "light"],
        "description": [],
        "details": {"Size": "L", "Sizes": {"w": 3}},
        "images": [
            {"thumb": "http://m.media-amazon.com/t.jpg", "hi_res": None},
            {"hi_res": "http://m.media-amazon.com/h.jpg"},
        ],
    },
    {"parent_asin": "B2", "title": None, "images": []},
]


def write(path, lines):
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_python_literals_of_2014(tmp_path):
    path = write(tmp_path / "meta_Toy.json.gz", map(repr, OLD))
    notes = []
    meta = read_metadata(path, "2014", ITEMS, FOUR, notes)
    assert meta.text == [None, 'It\'s "soft" Acme Baby Toys Soft For <b>you</b>', None]
    assert meta.image_url == [None, "http://ecx.images-amazon.com/images/I/2.jpg", None]
    assert notes == [
        "meta_Toy.json.gz: 1 of 3 items have no metadata",
        "meta_Toy.json.gz: 2 of 3 items have no text",
        "meta_Toy.json.gz: 2 of 3 items have no image address",
    ]
    assert read_metadata(path, "2014", ITEMS, ["brand"], []).text == [None, "Acme", None]


def test_json_of_2023(tmp_path):
    path = write(tmp_path / "meta_Toy.jsonl", map(json.dumps, NEW))
    meta = read_metadata(path, "2023", ITEMS, FIELDS, [])
    assert meta.text == ["One Acme Baby Toys warm light Size: L Sizes: w: 3", None, None]
    assert meta.image_url == ["http://m.media-amazon.com/t.jpg", None, None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'asin': 'B1', 'title': __import__('os').getcwd()}", "line 2: a Python literal is"),
        ("{'asin': 'B1', 'title': 'x'", "line 2: a Python literal is needed"),
        ("[{'asin': 'B1'}]", "line 2: a Python literal with fields is needed"),
        ("{'asin': 'B1', 'title': " + "[" * 5000 + "]" * 5000 + "}", "line 2: a Python literal"),
    ],
)
def test_bad_lines_run_nothing_and_are_named(tmp_path, line, message):
    path = write(tmp_path / "meta_Toy.json", ["{'asin': 'B2'}", line])
    with pytest.raises(ValueError, match=message):
        read_metadata(path, "2014", ITEMS, FOUR, [])


def test_lines_of_other_items_are_not_parsed(tmp_path):
    lines = ["{'asin': 'B1', 'title': 'x'}", "{'asin': 'B7', broken"]
    path = write(tmp_path / "meta_Toy.json", lines)
    assert read_metadata(path, "2014", ITEMS, FOUR, []).text == ["x", None, None]


def test_damaged_files_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "meta_Toy.json.gz", [repr({"asin": f"B{row}"}) for row in range(2000)])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        read_metadata(path, "2014", ITEMS, FOUR, [])
    path = write(tmp_path / "meta_Toy.json", ["{'asin': 'B1', 'title': 'xxxx'}"])
    monkeypatch.setattr("alignrec_pyg.datasets.amazon_items._MAX_LINE_BYTES", 20)
    with pytest.raises(ValueError, match="line 1: a line needs to be below 20 bytes"):
        read_metadata(path, "2014", ITEMS, FOUR, [])


def record(asin, value):
    return asin.encode() + np.full(IMAGE_FEATURE_DIM, value, dtype="<f4").tobytes()


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "image_features_Toy.b"
    rows = [("B000000003", 3), ("B000000001", 1), ("B000000009", 9), ("B000000001", 7)]
    path.write_bytes(b"".join(record(*row) for row in rows))
    return path


@pytest.mark.parametrize("block", [1, 3, 4096])
def test_rows_of_the_items_asked_for(vectors, monkeypatch, block):
    monkeypatch.setattr(amazon_items, "_BLOCK_RECORDS", block)
    items = np.array(["B000000001", "B000000002", "B000000003"], dtype=object)
    notes = []
    ids, table = read_image_features(vectors, items, notes)
    assert ids.tolist() == ["B000000001", "B000000003"]
    assert table.dtype == np.float32
    assert table.shape == (2, IMAGE_FEATURE_DIM)
    assert table[:, 0].tolist() == [1, 3]
    assert table[:, -1].tolist() == [1, 3]
    assert notes == ["image_features_Toy.b: 1 further rows of an item left out"]


def test_other_image_features_are_refused(vectors):
    items = np.array(["B000000002"], dtype=object)
    with pytest.raises(ValueError, match="a row for none of 1 items"):
        read_image_features(vectors, items, [])
    vectors.write_bytes(vectors.read_bytes()[:-1])
    with pytest.raises(ValueError, match="records of 16,394 bytes.*may be cut off"):
        read_image_features(vectors, items, [])
    vectors.write_bytes(b"")
    with pytest.raises(ValueError, match="got 0 bytes"):
        read_image_features(vectors, items, [])
    vectors.write_bytes("é".encode() + record("B0000000", 1))
    with pytest.raises(ValueError, match="ids need to be ASCII"):
        read_image_features(vectors, items, [])
