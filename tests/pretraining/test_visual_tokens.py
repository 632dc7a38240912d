from __future__ import annotations

import numpy as np
import pytest
import torch

from alignrec_pyg.pretraining.visual_tokens import PatchCodebook
from alignrec_pyg.storage import CheckpointError


def pictures(n=40, size=16, seed=0):
    """4 x 4 cells of 5 colours with noise."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(30, 225, size=(5, 3))
    cells = palette[rng.integers(5, size=(n, 4, 4))].transpose(0, 3, 1, 2)
    pixels = cells.repeat(size // 4, axis=2).repeat(size // 4, axis=3)
    noisy = pixels + rng.normal(scale=8, size=pixels.shape)
    return torch.from_numpy(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def fitted():
    return PatchCodebook.fit(pictures(), 4, vocab_size=12, dim=20)


def test_tokens_are_the_nearest_codes(fitted):
    """Against a loop over patches and codes."""
    codebook, _ = fitted
    images = pictures(3, seed=1)
    tokens = codebook(images)
    assert tokens.shape == (3, 16)
    assert tokens.dtype == torch.int64
    assert codebook.grid == 4
    for image in range(3):
        for place in range(16):
            row, column = 4 * (place // 4), 4 * (place % 4)
            patch = images[image, :, row : row + 4, column : column + 4].flatten() / 255
            reduced = codebook._components @ (patch - codebook._mean)
            distances = (codebook._centers - reduced).square().sum(dim=1)
            assert tokens[image, place] == distances.argmin()


def test_tokens_are_the_same_in_half_precision():
    """Close codes, which bfloat16 mixes up."""
    codebook, _ = PatchCodebook.fit(pictures(), 4, vocab_size=200)
    images = pictures(20, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = codebook(images)
    assert torch.equal(tokens, codebook(images))


def test_colours_are_told_apart():
    """As many codes as colours: k-means with all directions finds the cells."""
    codebook, report = PatchCodebook.fit(pictures(), 4, vocab_size=5, seed=3)
    assert report.used_codes > 1
    images = pictures(20, seed=0)
    tokens = codebook(images)
    colours = images.float().unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(4, 5)).flatten(2)
    for code in tokens.unique():
        spread = colours.transpose(1, 2)[tokens == code].std(dim=0)
        assert spread.mean() < colours.transpose(1, 2).flatten(0, 1).std(dim=0).mean()


def test_the_same_images_give_the_same_codebook(fitted):
    codebook, report = fitted
    np.random.seed(5)  # noqa: NPY002 the global generator is what must not matter
    again, report_again = PatchCodebook.fit(pictures(), 4, vocab_size=12, dim=20)
    assert again.fingerprint == codebook.fingerprint
    assert report_again == report
    other, _ = PatchCodebook.fit(pictures(), 4, vocab_size=12, dim=20, seed=1)
    assert other.fingerprint != codebook.fingerprint


def test_save_and_load(fitted, tmp_path):
    codebook, _ = fitted
    codebook.save(tmp_path)
    loaded = PatchCodebook.load(tmp_path)
    assert loaded.fingerprint == codebook.fingerprint
    assert repr(loaded) == "PatchCodebook(vocab_size=12, grid=4, image_size=16)"
    assert torch.equal(loaded(pictures(4)), codebook(pictures(4)))
    (path,) = tmp_path.glob("codebook-*.safetensors")
    path.write_bytes(b"half")
    with pytest.raises(CheckpointError, match="is damaged"):
        PatchCodebook.load(tmp_path)


def test_report(fitted):
    codebook, report = fitted
    tokens = codebook(pictures())
    share = torch.bincount(tokens.flatten(), minlength=12) / tokens.numel()
    entropy = -(share[share > 0] * share[share > 0].log()).sum()
    assert report.num_patches == tokens.numel() == 640
    assert report.num_codes == 12
    assert report.used_codes == int((share > 0).sum())
    assert report.perplexity == pytest.approx(float(entropy.exp()), rel=1e-4)
    assert report.flat_share == 0


def on_white(share=0.9):
    images = pictures(60)
    rng = np.random.default_rng(1)
    white = torch.from_numpy(rng.random((60, 1, 4, 4)) < share)
    return torch.where(white.repeat_interleave(4, 2).repeat_interleave(4, 3), 255, images)


def test_white_background_does_not_fill_the_codebook():
    images = on_white()

    def white_codes(flat_share):
        codebook, report = PatchCodebook.fit(images, 4, vocab_size=20, flat_share=flat_share)
        assert report.flat_share == pytest.approx(0.9, abs=0.03)
        centers = codebook._centers @ codebook._components + codebook._mean
        return int((centers.mean(dim=1) > 0.97).sum())

    assert white_codes(0.1) <= 3
    assert white_codes(1.0) > white_codes(0.1)


def test_number_of_codes_from_the_data():
    codebook, _ = PatchCodebook.fit(pictures(), 4)
    assert codebook.vocab_size == 640 // 50
    codebook, report = PatchCodebook.fit(pictures(), 4, num_patches=200)
    assert report.num_patches == 200
    assert codebook.vocab_size == 4


def test_patches_are_worked_on_in_blocks(fitted, monkeypatch):
    monkeypatch.setattr("alignrec_pyg.pretraining.visual_tokens._BLOCK", 7)
    codebook, report = PatchCodebook.fit(pictures(), 4, vocab_size=12, dim=20)
    torch.testing.assert_close(codebook._centers, fitted[0]._centers)
    assert report == fitted[1]
    assert torch.equal(codebook(pictures(4)), fitted[0](pictures(4)))


def test_blank_images_give_one_code():
    blank = torch.full((3, 3, 8, 8), 255, dtype=torch.uint8)
    codebook, report = PatchCodebook.fit(blank, 4)
    assert (codebook.vocab_size, report.used_codes, report.flat_share) == (1, 1, 1.0)
    with pytest.raises(ValueError, match=r"'vocab_size' needs to be in \[1, 1\]"):
        PatchCodebook.fit(blank, 4, vocab_size=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "'images' needs images"),
        ({"images": [torch.zeros(3, 8, 12).byte()]}, r"got shapes \[\(3, 8, 12\)\]"),
        ({"images": torch.zeros(1, 3, 9, 9).byte()}, "a multiple of 4"),
        ({"images": pictures(1), "vocab_size": 0}, "'vocab_size' needs to be 1 or more"),
        ({"images": pictures(1), "flat_share": 2}, "'flat_share' needs to be in"),
    ],
)
def test_rejects_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchCodebook.fit(patch_size=4, **arguments)


def test_rejects_images_and_shapes(fitted):
    codebook, _ = fitted
    for images in (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 8, 8).byte()):
        with pytest.raises(ValueError, match=r"'images' needs to be uint8 \[B, 3, 16, 16\]"):
            codebook(images)
    with pytest.raises(ValueError, match=r"need shapes \[3 \* side\*\*2\]"):
        PatchCodebook(torch.zeros(12), torch.zeros(2, 11), torch.zeros(3, 2), 8)
    with pytest.raises(ValueError, match="a multiple of the patch size 2"):
        PatchCodebook(torch.zeros(12), torch.zeros(2, 12), torch.zeros(3, 2), 7)
