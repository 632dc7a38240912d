from __future__ import annotations

import io
import os
import pickle
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from alignrec_pyg.encoders.images import (
    FORMATS,
    ArchivedImage,
    ImageError,
    file_bytes,
    image_patches,
    image_source,
    images_by_id,
    quiet_pillow,
    read_image,
    resize_square,
    to_pillow,
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, size=(6, 9, 3), dtype=np.uint8)  # [H, W, C]
EXPECTED = torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())
LOSSLESS = ["PNG", "BMP", "TIFF"]


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def picture():
    return Image.fromarray(PIXELS)


def promising(side):
    """A PNG of one pixel whose header promises a square."""
    content = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("form", LOSSLESS)
def test_every_source_gives_the_same_pixels(tmp_path, form):
    content = encoded(picture(), form)
    path = tmp_path / "a photo ü.jpg"  # neither the name nor its ending matters
    path.write_bytes(content)
    for source in (path, content, picture(), PIXELS, EXPECTED):
        found = read_image(source)
        assert found.dtype == torch.uint8
        assert found.is_contiguous()
        assert torch.equal(found, EXPECTED)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_close(form):
    smooth = np.linspace(0, 255, 16 * 16).reshape(16, 16).astype(np.uint8)
    found = read_image(encoded(Image.fromarray(smooth).convert("RGB"), form)).float()
    assert (found - torch.from_numpy(smooth).float()).abs().mean() < 4


def test_cmyk_becomes_rgb():
    red = Image.new("RGB", (8, 8), (200, 30, 40))
    for content in (encoded(red.convert("CMYK"), form) for form in ("JPEG", "TIFF")):
        assert Image.open(io.BytesIO(content)).mode == "CMYK"
        found = read_image(content).float().mean(dim=(1, 2))
        torch.testing.assert_close(found, torch.tensor([200.0, 30.0, 40.0]), atol=3, rtol=0)


def test_transparent_pixels_become_white():
    layer = np.zeros((2, 2, 4), dtype=np.uint8)  # black, and nothing of it seen
    layer[0, 0] = (10, 20, 30, 255)
    layer[0, 1] = (0, 0, 0, 51)  # a fifth of black on white
    expected = [[[10, 204], [255, 255]], [[20, 204], [255, 255]], [[30, 204], [255, 255]]]
    image = Image.fromarray(layer)
    for source in (image, encoded(image, "PNG"), layer, torch.from_numpy(layer).permute(2, 0, 1)):
        assert read_image(source).tolist() == expected
    grey = Image.fromarray(np.array([[[7, 255], [7, 0]]], dtype=np.uint8), "LA")
    assert read_image(encoded(grey, "PNG")).tolist() == [[[7, 255]]] * 3


def test_palettes_become_rgb():
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.putdata([0, 1])
    assert read_image(encoded(image, "PNG")).tolist() == [[[1, 4]], [[2, 5]], [[3, 6]]]
    seen = encoded(image, "PNG", transparency=1)
    assert read_image(seen).tolist() == [[[1, 255]], [[2, 255]], [[3, 255]]]


def test_sixteen_bits_become_their_upper_eight():
    values = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    expected = [[[0, 0, 1, 255]]] * 3
    for source in (Image.fromarray(values), encoded(Image.fromarray(values), "PNG"), values):
        assert read_image(source).tolist() == expected
    assert read_image(Image.fromarray(values.astype(np.int32))).tolist() == expected
    small = Image.fromarray(np.array([[0, 255]], dtype=np.int32))  # 32 bits that hold 8
    assert read_image(small).tolist() == [[[0, 255]]] * 3


def test_black_and_white_and_grey():
    assert read_image(Image.new("1", (2, 1), 1)).tolist() == [[[255, 255]]] * 3
    assert read_image(np.array([[3, 4]], dtype=np.uint8)).tolist() == [[[3, 4]]] * 3
    assert read_image(torch.tensor([[[3, 4]]], dtype=torch.uint8)).tolist() == [[[3, 4]]] * 3


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert read_image(content)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_cameras_rotation_is_applied(form):
    blocks = np.zeros((16, 24, 3), dtype=np.uint8)
    blocks[:8, :8] = 255  # white in the upper left corner
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    found = read_image(encoded(Image.fromarray(blocks), form, exif=exif))
    assert found.shape == (3, 24, 16)
    assert found[0, 4, 12] > 200  # now in the upper right one
    assert found[0, 4, 4] < 50


def test_an_image_of_several_cameras():
    content = encoded(picture(), "MPO", save_all=True, append_images=[picture()])
    assert read_image(content).shape == EXPECTED.shape


def test_one_pixel():
    assert read_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [
        [[1]],
        [[2]],
        [[3]],
    ]


JPEG = encoded(picture().resize((64, 64)), "JPEG")
SEVEN, FOUR, ANOTHER = (JPEG + name for name in (b"seven", b"four", b"another"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:-30], "truncated"),
        (encoded(picture(), "PNG")[:-40], "truncated"),
        (JPEG[:20] + bytes(100_000), "a header of more than 20,000 parts"),
        (JPEG[:2] + b"\xff\xe0\x00\x02" * 9_000 + JPEG[2:], "a header of more than 20,000 parts"),
        (b"", "no JPEG, PNG, WEBP, GIF, BMP or TIFF image"),
        (b"<html>not found</html>", "no JPEG, PNG, WEBP, GIF, BMP or TIFF image"),
        (b"P6 1 1 255\n\0\0\0", "no JPEG, PNG, WEBP, GIF, BMP or TIFF image"),
        (Image.new("F", (2, 2)), "floating-point pixels"),
        (Image.fromarray(np.full((1, 1), 70_000, dtype=np.int32)), "pixels of 32 bits"),
        (Image.fromarray(np.full((1, 1), -1, dtype=np.int32)), "pixels of 32 bits"),
        (np.zeros((2, 2, 3)), "an array of float64, neither uint8 nor uint16"),
        (torch.zeros(3, 2, 2), "an array of float32"),
        (np.zeros((3, 2, 2), dtype=np.uint8), r"another shape than \[H, W\] or \[H, W, C\]"),
        (torch.zeros(2, 2, 3, dtype=torch.uint8), r"another shape than \[C, H, W\]"),
        (torch.zeros(2, 2, dtype=torch.uint8), "another shape"),
        (np.zeros((0, 2, 3), dtype=np.uint8), "without pixels"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Image.Image) else str(value),
)
def test_what_cannot_be_read_says_why(source, reason):
    with pytest.raises(ImageError, match=reason):
        read_image(source)


def test_damaged_bytes_never_give_anything_but_an_image_error():
    sources = [encoded(picture().resize((24, 24)), form) for form in ("JPEG", "PNG", "WEBP", "BMP")]
    sources.append(encoded(picture().convert("P"), "GIF"))
    reasons = []
    with quiet_pillow():
        for content in sources * 60:
            damaged = bytearray(content)
            for position in RNG.integers(len(content), size=3):
                damaged[position] = RNG.integers(256)
            try:
                read_image(bytes(damaged))
            except ImageError as error:
                reasons.append(error.reason)
    assert 0 < len(reasons) < 60 * len(sources)
    assert all(0 < len(reason) <= 80 for reason in reasons)


def test_running_out_of_memory_is_no_damage(monkeypatch):
    def full(image):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", full)
    with pytest.raises(MemoryError):
        read_image(JPEG)


def test_bombs_are_refused_before_they_are_decoded(monkeypatch):
    small = encoded(Image.new("1", (3000, 3000)), "PNG")
    assert len(small) < 3000
    bombs = [promising(side) for side in (10_000, 20_000)]
    monkeypatch.setattr(Image.Image, "load", None)  # decoding would fail
    with pytest.raises(ImageError, match="3,000 x 3,000 pixels, more than 8,999,999"):
        read_image(small, max_pixels=8_999_999)
    for bomb in bombs:  # Pillow warns of the first and refuses the second
        with quiet_pillow(), pytest.raises(ImageError, match="more than 50,000,000"):
            read_image(bomb)
        with pytest.raises(ImageError, match="more than 50,000,000"):  # warnings are errors here
            read_image(bomb)


def test_too_large_arrays_are_refused_too():
    with pytest.raises(ImageError, match="2 x 3 pixels, more than 5"):
        read_image(np.zeros((2, 3, 3), dtype=np.uint8), max_pixels=5)


def test_files_that_are_none(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "long.jpg").write_bytes(bytes(100))
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (
        ("no.jpg", "no such file"),
        ("empty.jpg", "an empty file"),
        ("folder.jpg", "not a file"),
        ("pipe.jpg", "not a file"),
        ("long.jpg", "a file of more than 80 bytes"),
        ("x" * 300 + ".jpg", "cannot be read"),
        ("nul\0.jpg", "cannot be read|no such file"),
    ):
        with pytest.raises(ImageError, match=reason) as caught:
            read_image(tmp_path / name, max_pixels=10)
        assert str(tmp_path) in str(caught.value)
        assert str(tmp_path) not in caught.value.reason


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)

    def refused(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ImageError, match=r"a\.jpg: cannot be read .Permission denied"):
        file_bytes(path)


def test_what_a_column_holds():
    for empty in (None, float("nan"), pd.NA, "", "  "):
        assert image_source(empty) is None
    assert image_source("a/b.jpg") == Path("a/b.jpg")
    assert image_source(bytearray(b"x")) == b"x"
    assert image_source(PIXELS) is PIXELS
    assert image_source(picture) is picture  # a function that fetches
    with pytest.raises(ImageError, match="a URL, not a file"):
        image_source("https://example.org/a.jpg")
    for refused in (image_source, read_image):
        with pytest.raises(ImageError, match="neither path.*int"):
            refused(3)
    with pytest.raises(ImageError, match="neither path.*str"):  # a column's; read_image has none
        read_image("a.jpg")


def test_a_function_fetches_and_says_why_it_cannot():
    def fetch():
        return encoded(picture(), "PNG")

    assert torch.equal(read_image(fetch), EXPECTED)

    def gone():
        raise ImageError("gone")

    with pytest.raises(ImageError, match="gone"):
        read_image(gone)
    with pytest.raises(ImageError, match="more than 2"):
        read_image(fetch, max_pixels=2)


def test_a_given_image_is_left_as_it_was():
    image = Image.fromarray(np.zeros((2, 3, 4), dtype=np.uint8))
    tensor = EXPECTED.clone()
    read_image(image)
    read_image(tensor).fill_(0)
    assert (image.mode, image.size) == ("RGBA", (3, 2))
    assert torch.equal(tensor, EXPECTED)


def test_resizing_is_pillows_bicubic_and_forgets_the_aspect():
    found = resize_square(EXPECTED, 4)
    expected = np.asarray(picture().resize((4, 4), Image.Resampling.BICUBIC))
    assert found.tolist() == expected.transpose(2, 0, 1).tolist()
    assert found.is_contiguous()
    square = EXPECTED[:, :6, :6]
    assert torch.equal(resize_square(square, 6), square)
    assert to_pillow(EXPECTED).size == (9, 6)


def test_resizing_down_averages():
    """Antialiased: fine stripes become grey, whatever the phase."""
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    found = resize_square(stripes, 8).float()
    assert (found - 127.5).abs().max() < 8


def test_pillow_is_kept_quiet_others_are_not():
    with quiet_pillow():
        Image.open(io.BytesIO(promising(10_000)))  # would warn
        with pytest.warns(UserWarning, match="mine"):
            warnings.warn("mine", stacklevel=1)


@pytest.fixture
def archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.writestr("deep/7.jpg", SEVEN)
        file.writestr("__MACOSX/._7.jpg", b"rubbish")
        file.writestr("4.PNG", FOUR)
        file.writestr("notes.txt", b"no image")
    return tmp_path / "images.zip"


def test_files_of_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("1.jpg", "007.png", "deep/b.WEBP", "notes.txt", ".2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert images_by_id(str(tmp_path)) == {
        "007": tmp_path / "007.png",
        "1": tmp_path / "1.jpg",
        "b": tmp_path / "deep" / "b.WEBP",
    }


def test_members_of_an_archive(archive):
    found = images_by_id(archive)
    assert set(found) == {"7", "4"}
    assert found["7"]() == SEVEN
    assert pickle.loads(pickle.dumps(found["4"]))() == FOUR
    assert repr(found["7"]) == "images.zip:deep/7.jpg"


def test_an_archive_that_was_replaced_is_opened_anew(archive):
    old = images_by_id(archive)
    assert old["7"]() == SEVEN
    with zipfile.ZipFile(archive.with_name("new.zip"), "w") as file:
        file.writestr("first.png", b"first")
        file.writestr("deep/7.jpg", ANOTHER)
    archive.with_name("new.zip").replace(archive)
    assert images_by_id(archive)["7"]() == ANOTHER
    assert old["7"]() == ANOTHER
    archive.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        old["7"]()


def test_a_member_that_cannot_be_read(archive):
    with pytest.raises(ImageError, match=r"images.zip:missing.png cannot be read"):
        ArchivedImage(archive, "missing.png")()


def test_members_of_any_format_are_read_and_of_nothing_else(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for form in FORMATS:
            file.writestr(form, encoded(picture(), form))
        file.writestr("zeros", bytes(20 * 2**20))
    for form in FORMATS:
        assert read_image(ArchivedImage(path, form)).shape == (3, 6, 9)
    tracemalloc.start()
    with pytest.raises(ImageError, match="^no JPEG, PNG, WEBP, GIF, BMP or TIFF image$"):
        read_image(ArchivedImage(path, "zeros"))
    assert tracemalloc.get_traced_memory()[1] < 2**20  # it was not inflated
    tracemalloc.stop()


def test_rejects(tmp_path):
    with pytest.raises(ValueError, match="needs to be a folder or a zip file"):
        images_by_id(tmp_path / "missing")
    (tmp_path / "half.zip").write_bytes(b"half")
    with pytest.raises(ValueError, match="'images': .*half.zip needs to be a zip file"):
        images_by_id(tmp_path / "half.zip")
    for name in ("1.jpg", "1.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match="one image per id .'1' has two"):
        images_by_id(tmp_path)


def test_patches_row_by_row():
    images = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    expected = [
        [images[b, :, r : r + 2, c : c + 2].flatten() for r in (0, 2) for c in (0, 2, 4)]
        for b in range(2)
    ]
    found = image_patches(images, 2)
    assert torch.equal(found, torch.stack([torch.stack(rows) for rows in expected]))
