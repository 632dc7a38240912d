from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from alignrec_pyg.encoders import ItemContent, PatchPCAEncoder, resize_square
from alignrec_pyg.encoders.images import to_pillow


def images(n=60, seed=0):
    """Three colours in turn, with noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, size=(n, 3, 8, 8))
    for row in range(n):
        pixels[row, row % 3] += 150
    return torch.from_numpy(pixels.astype(np.uint8))


def test_the_basis_of_patches_comes_from_all_images():
    """Of 25,600 patches it is fitted on a sample: here the first 20,000 are of red images."""
    shade = torch.randint(0, 100, (400, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    pixels = torch.zeros(400, 3, 8, 8, dtype=torch.uint8)
    pixels[:320, 0] = shade[:320]
    pixels[320:, 2] = shade[320:] * 2  # blue, and more of it
    encoder = PatchPCAEncoder(8, patch_size=1, patch_dim=1)
    encoder.fit(ItemContent(image=pixels))
    other = PatchPCAEncoder(8, patch_size=1, patch_dim=1, seed=1)
    other.fit(ItemContent(image=pixels))
    rows, blue = encoder(ItemContent(image=pixels)), pixels[320:].clone()
    assert not torch.equal(rows, other(ItemContent(image=pixels)))
    blue[:, 2] = 0
    assert not torch.allclose(encoder(ItemContent(image=blue)), rows[320:], atol=0.1)


def test_patches_are_coded_place_by_place():
    """With every component kept, both bases are rotations: cosines are those of centred pixels."""
    pixels = images(12)
    encoder = PatchPCAEncoder(11, patch_size=2, patch_dim=12)
    encoder.fit(ItemContent(image=pixels))
    flat = pixels.flatten(1).float() / 255
    centred = torch.nn.functional.normalize(flat - flat.mean(dim=0))
    rows = encoder(ItemContent(image=pixels))
    torch.testing.assert_close(rows @ rows.T, centred @ centred.T, atol=1e-3, rtol=0)


def test_equal_images_work():
    encoder = PatchPCAEncoder(2, patch_size=4, patch_dim=3)
    content = ItemContent(image=torch.full((10, 3, 8, 8), 77, dtype=torch.uint8))
    encoder.fit(content)
    assert encoder(content).isfinite().all()


def test_photos_of_any_size_and_kind_are_resized_first(tmp_path):
    photos = [resize_square(image, 20)[:, :, : 10 + n] for n, image in enumerate(images(12))]
    paths = [tmp_path / f"{n}.png" for n in range(12)]
    for path, photo in zip(paths, photos, strict=True):
        to_pillow(photo).save(path)
    rows = []
    for given in (photos, paths, [resize_square(photo, 8) for photo in photos]):
        encoder = PatchPCAEncoder(4, patch_size=4, patch_dim=6, image_size=8)
        encoder.fit(ItemContent(image=[*given, None]))
        rows.append(encoder(ItemContent(image=[None, *given])))
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])
    stacked = torch.stack([resize_square(photo, 8) for photo in photos])
    plain = PatchPCAEncoder(4, patch_size=4, patch_dim=6)
    plain.fit(ItemContent(image=stacked))
    assert torch.equal(rows[0][1:], plain(ItemContent(image=stacked)))
    assert "resized to 8" in encoder.cache_key
    assert "resized" not in plain.cache_key
    with pytest.raises(ValueError, match=r"choose an 'image_size'"):
        plain.fit(ItemContent(image=photos))
    with pytest.raises(ValueError, match="'image_size' needs to be a multiple of patch_size=8"):
        PatchPCAEncoder(image_size=20)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 3, 9, 8, dtype=torch.uint8), "multiples of patch_size=4"),
        (torch.zeros(3, 1, 8, 8, dtype=torch.uint8), "RGB pixels, uint8"),
        (torch.zeros(3, 3, 8, 8), "RGB pixels, uint8"),
        ([images(1)[0], torch.zeros(3, 4, 4, dtype=torch.uint8)], "images of one size"),
        ([Path("a.jpg")], r"a\.jpg: no such file"),
        ([None], "at least one image"),
    ],
)
def test_images_of_another_form(image, message):
    with pytest.raises(ValueError, match=message):
        PatchPCAEncoder(1, patch_size=4, patch_dim=2).fit(ItemContent(image=image))


def test_images_of_another_size_than_fitted():
    encoder = PatchPCAEncoder(2, patch_size=4, patch_dim=2)
    encoder.fit(ItemContent(image=images()))
    with pytest.raises(ValueError, match="fitted on"):
        encoder(ItemContent(image=torch.zeros(1, 3, 4, 4, dtype=torch.uint8)))
