from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from alignrec_pyg.encoders import BEiT3Encoder, ItemContent
from alignrec_pyg.encoders.images import ImageError
from alignrec_pyg.pretraining import catalogue as catalogue_module
from alignrec_pyg.pretraining.catalogue import Catalogue, read_catalogue, write_features

FRAME = pd.DataFrame(
    {
        "id": ["a1", "a2", "a3", "a4"],
        "title": ["Red &amp; blue", "Lamp", None, "Chair"],
        "brand": ["Acme", None, None, ""],
        "description": ["soft", " ", None, "of wood"],
        "photo": ["red.png", None, "x/y.png", "  "],
    }
)


@pytest.fixture
def folder(tmp_path):
    FRAME.to_csv(tmp_path / "items.csv", index=False)
    FRAME.to_csv(tmp_path / "items.tsv", index=False, sep="\t")
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "images" / "a1.JPG").write_bytes(b"GIF89a one")
    (tmp_path / "images" / "deep" / "a3.png").write_bytes(b"three")
    (tmp_path / "images" / "a2.txt").write_bytes(b"no image")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("deep/a1.jpg", b"GIF89a one")
        archive.writestr("__MACOSX/._a1.jpg", b"rubbish")
        archive.writestr("a4.png", b"GIF89a four")
    return tmp_path


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_texts_and_images_by_id(folder, suffix):
    found = read_catalogue(folder / f"items.{suffix}", images=folder / "images")
    assert found.id == ["a1", "a2", "a3", "a4"]
    assert found.text == ["Red & blue Acme soft", "Lamp", None, "Chair of wood"]
    images = [None if image is None else image.name for image in found.image]
    assert images == ["a1.JPG", None, "a3.png", None]
    assert found.pairs() == [0]
    assert found.report == (
        f"4 items in items.{suffix}: 3 with a text (title + brand + description), 2 with an "
        "image, 1 pairs"
    )


def test_other_fields(folder):
    found = read_catalogue(
        folder / "items.csv", fields=["brand", "title"], images=folder / "images"
    )
    assert found.text[0] == "Acme Red & blue"


def test_a_column_of_paths(folder):
    found = read_catalogue(folder / "items.csv", image="photo")
    assert found.image == [folder / "red.png", None, folder / "x/y.png", None]
    found = read_catalogue(folder / "items.csv", image="photo", images=folder / "images")
    assert found.image[2] == folder / "images" / "x" / "y.png"
    found = read_catalogue(folder / "items.csv", image="photo", images=folder / "images.zip")
    assert repr(found.image[2]) == "images.zip:x/y.png"


def test_an_archive(folder):
    found = read_catalogue(folder / "items.csv", images=folder / "images.zip")
    assert [image is None for image in found.image] == [False, True, True, False]
    assert found.image[0]() == b"GIF89a one"
    assert found.image[3]() == b"GIF89a four"


def test_numbers_as_ids_and_lists_and_bytes_of_a_parquet_file(folder):
    frame = pd.DataFrame(
        {"id": [7, 8], "title": [["Red", "shoe"], None], "image": [b"seven", None]}
    )
    frame.to_parquet(folder / "items.parquet")
    found = read_catalogue(folder / "items.parquet", fields=["title"], image="image")
    assert found.id == ["7", "8"]
    assert found.text == ["Red shoe", None]
    assert found.image == [b"seven", None]


def test_ids_keep_their_zeros(folder):
    (folder / "z.csv").write_text("id,title\n007,Red\n")
    with pytest.raises(ValueError, match="images, by .* none of 2 is one .got 'a1', .* like '007'"):
        read_catalogue(folder / "z.csv", fields=["title"], images=folder / "images")
    (folder / "images" / "007.png").write_bytes(b"seven")
    assert read_catalogue(folder / "z.csv", fields=["title"], images=folder / "images").id == [
        "007"
    ]


def test_the_column_of_ids_has_a_usual_name_or_the_one_that_is_said(folder):
    (folder / "images" / "7.png").write_bytes(b"seven")
    for header, id in (("movieId,sku", None), ("sku,movieId", "sku"), ("movieId,id", "movieId")):
        (folder / "u.csv").write_text(f"title,{header}\nRed,7,8\n")
        found = read_catalogue(folder / "u.csv", fields=["title"], id=id, images=folder / "images")
        assert found.id == ["7"]
    (folder / "u.csv").write_text("title,sku\nRed,7\n")
    with pytest.raises(ValueError, match="needs columns .'id'."):
        read_catalogue(folder / "u.csv", fields=["title"], images=folder / "images")


def test_whole_floats_are_whole_numbers(folder):
    pd.DataFrame({"id": [7.0, 8.0], "title": ["a", "b"]}).to_parquet(folder / "f.parquet")
    (folder / "images" / "7.png").write_bytes(b"seven")
    found = read_catalogue(folder / "f.parquet", fields=["title"], images=folder / "images")
    assert found.id == ["7", "8"]
    assert found.pairs() == [0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,title\n1,a\n1,b\n", "needs every id once"),
        ("id,title\n1,a\n,b\n", "needs an id in every row"),
        ("sku,title\n1,a\n", r"needs columns \['id'\] \(it has \['sku', 'title'\]\)"),
    ],
)
def test_rejects_tables(folder, content, message):
    (folder / "bad.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_catalogue(folder / "bad.csv", fields=["title"], images=folder / "images")


def test_rejects_files(folder):
    with pytest.raises(
        ValueError, match="a table of items needs to be a .csv, .tsv, .parquet file"
    ):
        read_catalogue(folder / "items.xlsx", images=folder)
    with pytest.raises(ValueError, match="a table of items needs to be"):
        read_catalogue(folder / "missing.csv", images=folder)
    with pytest.raises(ValueError, match="is needed"):
        read_catalogue(folder / "items.csv")
    with pytest.raises(ValueError, match="needs to be a folder or a zip file"):
        read_catalogue(folder / "items.csv", images=folder / "missing")
    (folder / "half.zip").write_bytes(b"half")
    with pytest.raises(ValueError, match="needs to be a zip file"):
        read_catalogue(folder / "items.csv", images=folder / "half.zip")
    (folder / "images" / "a1.png").write_bytes(b"again")
    with pytest.raises(ValueError, match="'a1' has two"):
        read_catalogue(folder / "items.csv", images=folder / "images")
    assert Path(folder / "images").is_dir()


IMAGES = [torch.full((3, 20, 20), 50 * n, dtype=torch.uint8) for n in range(4)]


def broken():
    raise ImageError("not in the archive")


@pytest.fixture
def encoder(stage1):
    return BEiT3Encoder(stage1.objective().model, stage1.tokenizer, max_tokens=8)


@pytest.fixture
def catalogue():
    """Both, an image, a text, an image that cannot be read beside a text, nothing."""
    return Catalogue(
        ["a", "b", "c", "d", "e"],
        ["red", None, "green blue", "grey", None],
        [IMAGES[0], IMAGES[1], None, broken, None],
        "5 items",
    )


def write(folder, encoder, catalogue, **arguments):
    lines = []
    settings = {"device": "cpu", "num_workers": 0, "max_failures": 0.5, "log": lines.append}
    write_features(folder, encoder, catalogue, **settings | arguments)
    return lines


def test_tables_of_both_and_of_either_modality(encoder, catalogue, tmp_path):
    lines = write(tmp_path, encoder, catalogue)
    found = {name: np.load(tmp_path / f"{name}.npy") for name in catalogue_module.TABLES}
    text, image = catalogue.text, [*IMAGES[:2], None, None, None]
    expected = {
        "features": encoder(ItemContent(text, image)),
        "features_of_text": encoder(ItemContent(text)),
        "features_of_image": encoder(ItemContent(None, image)),
    }
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], rows.numpy(), atol=1e-5)
        about = json.loads((tmp_path / f"{name}.json").read_text())
        assert about["id"] == catalogue.id
    assert "1 not in the archive (items 3)" in lines[0]
    again = write(tmp_path, encoder, catalogue)
    assert "(4 from the cache)" in again[0]
    assert not list(tmp_path.glob("*.part"))


def test_a_table_is_there_when_it_is_whole(encoder, catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue_module, "_BATCH", 1)
    encode = BEiT3Encoder.__call__
    done = []

    def encode_two(self, items):
        if len(done) == 2:
            raise RuntimeError("the power is gone")
        done.append(items)
        return encode(self, items)

    with monkeypatch.context() as patched:
        patched.setattr(BEiT3Encoder, "__call__", encode_two)
        with pytest.raises(RuntimeError, match="the power is gone"):
            write(tmp_path, encoder, catalogue)
    assert not list(tmp_path.glob("*.npy"))
    assert "(2 from the cache)" in write(tmp_path, encoder, catalogue)[0]


def test_too_many_unreadable_images(encoder, catalogue, tmp_path):
    with pytest.raises(ValueError, match="'max_failures' needs to be larger"):
        write(tmp_path, encoder, catalogue, max_failures=0.1)
