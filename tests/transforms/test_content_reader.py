from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from alignrec_pyg.transforms import content_reader
from alignrec_pyg.transforms.content_reader import ContentReader, LoadedImage

PIXELS = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)


def png(pixels=PIXELS):
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def sources(folder):
    folder.mkdir(exist_ok=True)
    (folder / "good.png").write_bytes(png())
    (folder / "bad.png").write_bytes(png()[:-30])
    return [
        str(folder / "good.png"),
        None,
        folder / "bad.png",
        PIXELS,
        "http://example.org/a.png",
        png(),
        folder / "none.png",
        PIXELS.permute(1, 2, 0).numpy(),
        float("nan"),
    ]


def reader(images, **options):
    return ContentReader(image=images, **options)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_reads_in_the_order_asked_for(tmp_path, num_workers):
    rows = [8, 7, 6, 5, 4, 3, 2, 1, 0] * 5
    with reader(sources(tmp_path), num_workers=num_workers) as given:
        assert given.present() == {"image": [0, 2, 3, 4, 5, 6, 7]}
        decoded = given.decode(given.load(rows))
    for row, image in zip(rows, decoded, strict=True):
        if row in (0, 3, 5, 7):
            assert torch.equal(image.content, PIXELS)
        else:
            assert image.content is None
    reasons = dict(zip(rows, [image.failure for image in decoded], strict=True))
    assert reasons == {
        **dict.fromkeys((0, 1, 3, 5, 7, 8)),
        2: "truncated",
        4: "a URL, not a file: download it first",
        6: "no such file",
    }


def test_digests_stand_for_content_not_for_names_and_times(tmp_path):
    first, second = sources(tmp_path / "a"), sources(tmp_path / "b")
    os.utime(tmp_path / "b" / "good.png", (1, 1))
    rows = range(9)

    def digests(images, **parts):
        given = reader(images, **parts)
        return given.digests(rows, given.load(rows))

    assert digests(first) == digests(second)
    changed = [*second]
    changed[3] = PIXELS + 1
    (tmp_path / "b" / "good.png").write_bytes(png(PIXELS + 1))
    pairs = zip(digests(first), digests(changed), strict=True)
    assert [a == b for a, b in pairs] == [False, True, True, False, *[True] * 5]
    texts, ids = [None, *"abcdefgh"], range(9)
    keys = {
        tuple(digests(first)),
        tuple(digests(first, text=texts)),
        tuple(digests(first, text=["None", *texts[1:]])),
        tuple(digests(first, id=ids)),
        tuple(digests(first, id=[str(number) for number in ids])),
    }
    assert len(keys) == 5


def test_digests_tell_shapes_kinds_and_absence_apart():
    held = [
        LoadedImage(),
        LoadedImage(b""),
        LoadedImage(failure="no such file"),
        LoadedImage(failure="an empty file"),
        LoadedImage(PIXELS),
        LoadedImage(PIXELS.reshape(3, 5, 4)),
        LoadedImage(PIXELS.numpy().tobytes()),
    ]
    assert len({image.digest() for image in held[1:]}) == len(held) - 1


def test_content_of_what_is_read():
    given = ContentReader(text=["a", None, "c"], id=np.array([7, 8, 9]))
    assert given.present() == {"text": [0, 2], "id": [0, 1, 2]}
    assert given.load([0, 2]) == [LoadedImage(), LoadedImage()]
    assert given.sources([0]) is None
    content = given.content([2, 0], [None, None])
    assert (content.text, content.image, content.id) == (["c", "a"], None, [9, 7])
    given = reader(torch.stack([PIXELS, PIXELS + 1]))
    assert torch.equal(given.content([1], given.sources([1])).image[0], PIXELS + 1)


def test_a_damaged_image_does_not_stop_the_threads(tmp_path):
    images = [png()[:-30], png()] * 20
    with reader(images, num_workers=4) as given:
        decoded = given.decode(given.load(range(40)))
    assert [image.failure for image in decoded] == ["truncated", None] * 20


def test_images_are_loaded_in_blocks_of_bounded_size(monkeypatch):
    monkeypatch.setattr(content_reader, "MOST_BYTES", 200)
    large = torch.zeros(3, 20, 20, dtype=torch.uint8)
    images = [PIXELS, PIXELS, PIXELS, None, large, None, PIXELS]
    with reader(images * 5) as given:
        blocks = list(given.blocks(range(35)))
    sizes = [sum(image.num_bytes for image in loaded) for _, loaded in blocks]
    assert [rows for rows, _ in blocks[:4]] == [[0, 1, 2, 3], [4], [5, 6, 7, 8], [9, 10]]
    assert sizes[:4] == [180, 1200, 180, 60]
    assert [row for rows, _ in blocks for row in rows] == list(range(35))


@pytest.mark.parametrize("form", ["bytes", "file", "function"])
def test_a_file_counts_with_its_pixels_and_is_dropped_if_it_is_no_image(tmp_path, form):
    def given(content):
        path = tmp_path / str(len(content))
        path.write_bytes(content)
        return {"bytes": content, "file": path, "function": lambda: content}[form]

    image, rubbish = reader([given(png()), given(bytes(1000))]).load([0, 1])
    assert image.num_bytes == len(png()) + PIXELS.numel()
    assert (rubbish.content, rubbish.num_bytes) == (None, 0)
    assert rubbish.failure.startswith("no JPEG")
