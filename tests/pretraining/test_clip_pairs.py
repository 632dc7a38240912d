from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from alignrec_pyg.encoders import ItemContent
from alignrec_pyg.pretraining.clip_pairs import find_pairs

IMAGE = torch.zeros(3, 2, 2, dtype=torch.uint8)


def png(path, colour):
    Image.new("RGB", (2, 2), colour).save(path)
    return path


def test_items_with_both_and_why_not_the_others(tmp_path):
    red = png(tmp_path / "red.png", "red")
    images = [str(red), None, tmp_path / "gone.png", IMAGE, red.read_bytes(), red]
    texts = ["<b>red</b>", "no image", "gone", "zero", None, " "]
    pairs = find_pairs(ItemContent(texts, images), map, max_failures=0.5)
    assert pairs.texts == ["red", "zero"]
    assert pairs.images[0] == red
    assert pairs.images[1] is IMAGE
    assert pairs.unreadable == {2: f"{tmp_path / 'gone.png'}: no such file"}
    with pytest.raises(ValueError, match="larger than 20.00%.*1 of 3 cannot be read .item 2: "):
        find_pairs(ItemContent(texts, images), map, max_failures=0.2)


def test_content_follows_pixels_and_texts_not_files(tmp_path):
    def content(images, texts=("a", "b")):
        return find_pairs(ItemContent(list(texts), images), map, max_failures=0).content

    red, again = png(tmp_path / "1.png", "red"), png(tmp_path / "2.bmp", "red")
    same = content([red, IMAGE])
    assert same == content([again, IMAGE])
    buffer = io.BytesIO(red.read_bytes())
    assert same == content([Image.open(buffer), IMAGE])
    assert same != content([IMAGE, red])
    assert same != content([red, IMAGE], ("a", "c"))
    assert same != content([red, IMAGE + 1])


def test_too_few():
    with pytest.raises(ValueError, match=r"at least two items with image and text .got 1"):
        find_pairs(ItemContent(["a", None], [IMAGE, IMAGE]), map, max_failures=0)
    for items in (ItemContent(text=["a"]), ItemContent(image=[IMAGE])):
        with pytest.raises(ValueError, match="'items' needs texts and images"):
            find_pairs(items, map, max_failures=0)
