from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from alignrec_pyg.encoders import BEiT3Encoder, ItemContent
from alignrec_pyg.encoders.images import ImageError
from alignrec_pyg.pretraining import features
from alignrec_pyg.pretraining.catalogue import Catalogue

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
    settings = {"device": "cpu", "num_workers": 0, "max_failures": 0.5, "tell": lines.append}
    features.write_features(folder, encoder, catalogue, **settings | arguments)
    return lines


def test_tables_of_both_and_of_either_modality(encoder, catalogue, tmp_path):
    lines = write(tmp_path, encoder, catalogue)
    found = {name: np.load(tmp_path / f"{name}.npy") for name in features.TABLES}
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
    monkeypatch.setattr(features, "_BATCH", 1)
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
