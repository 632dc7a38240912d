from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from alignrec_pyg.encoders.images import ImageError, read_image, resize_square


def png(pixels):
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def test_sources_agree(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, size=(4, 5, 3), dtype=np.uint8)
    expected = torch.from_numpy(pixels).permute(2, 0, 1)
    (tmp_path / "a.png").write_bytes(png(pixels))
    for source in (tmp_path / "a.png", png(pixels), Image.fromarray(pixels), expected):
        assert torch.equal(read_image(source), expected)


@pytest.mark.parametrize("source", [b"", b"no image", torch.zeros(3, 2, 2)])
def test_unreadable(source, tmp_path):
    with pytest.raises(ImageError):
        read_image(source)
    with pytest.raises(ImageError):
        read_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="6 x 5 pixels are more than 29"):
        read_image(png(np.zeros((5, 6, 3), dtype=np.uint8)), max_pixels=29)


def test_resize_is_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, size=(9, 20, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BICUBIC))
    assert torch.equal(resize_square(image, 8), torch.from_numpy(expected.copy()).permute(2, 0, 1))
    assert resize_square(image[:, :8, :8], 8).shape == (3, 8, 8)
