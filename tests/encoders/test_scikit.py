from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from alignrec_pyg.encoders import ItemContent, PatchPCAEncoder, TfidfEncoder, resize_square
from alignrec_pyg.encoders.images import to_pillow

TOPICS = ["apple pear plum fig", "wheel brake gear pedal", "violin cello flute oboe"]


def texts(n=60, seed=0):
    """Three topics in turn, three of four words each."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.permutation(TOPICS[row % 3].split())[:3]) for row in range(n)]


def images(n=60, seed=0):
    """Three colours in turn, with noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, size=(n, 3, 8, 8))
    for row in range(n):
        pixels[row, row % 3] += 150
    return torch.from_numpy(pixels.astype(np.uint8))


ENCODERS = [
    (lambda **kwargs: TfidfEncoder(4, **kwargs), lambda n=60: ItemContent(text=texts(n))),
    (
        lambda **kwargs: PatchPCAEncoder(4, patch_size=4, patch_dim=6, **kwargs),
        lambda n=60: ItemContent(image=images(n)),
    ),
]


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_topics_are_told_apart(make, content):
    encoder = make()
    encoder.fit(content())
    rows = encoder(content())
    assert rows.shape == (60, encoder.out_dim)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    unit = torch.nn.functional.normalize(rows)
    cosine = unit @ unit.T
    same = torch.arange(60).remainder(3).unsqueeze(0) == torch.arange(60).remainder(3).unsqueeze(1)
    assert cosine[same].mean() > cosine[~same].mean() + 0.3


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_deterministic_and_free_of_global_randomness(make, content):
    encoder, again = make(seed=3), make(seed=3)
    np.random.seed(0)  # noqa: NPY002 the global generator is what must not matter
    encoder.fit(content())
    np.random.seed(1)  # noqa: NPY002
    again.fit(content())
    assert torch.equal(encoder(content()), again(content()))
    assert encoder.cache_key == again.cache_key


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_cache_key_changes_with_arguments_and_what_was_learned(make, content):
    encoder = make()
    keys = {encoder.cache_key, make(seed=1).cache_key}
    encoder.fit(content(60))
    keys.add(encoder.cache_key)
    encoder.fit(content(30))
    keys.add(encoder.cache_key)
    assert len(keys) == 4


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_rows_do_not_depend_on_the_batch(make, content):
    encoder = make()
    encoder.fit(content())
    whole = encoder(content())
    parts = torch.cat([encoder(content().select(range(s, s + 7))) for s in range(0, 56, 7)])
    torch.testing.assert_close(parts, whole[:56])


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_rows_have_length_1(make, content):
    encoder = make()
    encoder.fit(content())
    torch.testing.assert_close(encoder(content()).norm(dim=1), torch.ones(60))


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_needs_fitting(make, content):
    with pytest.raises(ValueError, match="needs to be fitted first"):
        make()(content())


def test_missing_content_gives_zero_rows():
    encoder = TfidfEncoder(4)
    encoder.fit(ItemContent(text=[*texts(), None, "  "]))
    rows = encoder(ItemContent(text=[None, "apple pear", "", "the unknownword", "\ud800 🍐"]))
    assert [bool(row.any()) for row in rows] == [False, True, False, False, False]

    encoder = PatchPCAEncoder(4, patch_size=4, patch_dim=6)
    encoder.fit(ItemContent(image=[*images(), None]))
    rows = encoder(ItemContent(image=[None, images()[0]]))
    assert not rows[0].any()
    assert rows[1].any()
    assert not encoder(ItemContent(image=[None])).any()


def test_words_weigh_by_the_logarithm_of_their_count_and_by_their_rarity():
    """Without a direction left out, cosines are those of the TF-IDF vectors."""
    counts = np.array([[1, 0, 0, 0], [9, 1, 0, 0], [2, 0, 3, 3], [0, 5, 1, 1], [0, 0, 1, 1]])
    words = ["apple", "wheel", "violin", "oboe"]  # the last two together: three directions in all
    content = ItemContent(text=[" ".join(np.repeat(words, row)) for row in counts])
    encoder = TfidfEncoder(3)
    encoder.fit(content)
    idf = [math.log(6 / (1 + (column > 0).sum())) + 1 for column in counts.T]
    expected = [
        [(1 + math.log(n)) * w if n else 0.0 for n, w in zip(row, idf, strict=True)]
        for row in counts
    ]
    unit = torch.nn.functional.normalize(torch.tensor(expected))
    rows = encoder(content)
    torch.testing.assert_close(rows @ rows.T, unit @ unit.T, atol=1e-5, rtol=0)


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


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_arguments_key_does_not_change_with_what_was_learned(make, content):
    encoder = make()
    before = encoder.arguments_key
    assert before == encoder.cache_key
    encoder.fit(content())
    assert encoder.arguments_key == before != encoder.cache_key
    assert make(seed=1).arguments_key != before


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


def test_too_wide_for_the_content():
    with pytest.raises(
        ValueError, match=r"'out_dim' needs to be in \[1, 11\] for 60 texts with 12"
    ):
        TfidfEncoder(12).fit(ItemContent(text=texts()))
    with pytest.raises(ValueError, match=r"'out_dim' needs to be in \[1, 8\] for 60 images of 4"):
        PatchPCAEncoder(9, patch_size=4, patch_dim=2).fit(ItemContent(image=images()))
    with pytest.raises(ValueError, match=r"'patch_dim' needs to be in \[1, 2\] for 2 patches"):
        PatchPCAEncoder(1, patch_size=8).fit(ItemContent(image=images(2)))
    with pytest.raises(ValueError, match=r"'patch_dim' needs to be in \[1, 12\]"):
        PatchPCAEncoder(patch_size=2, patch_dim=13)


@pytest.mark.parametrize("given", [["the of and"] * 3, [None, ""], []])
def test_texts_without_words(given):
    with pytest.raises(ValueError, match="needs texts with words"):
        TfidfEncoder(1).fit(ItemContent(text=given))


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


@pytest.mark.parametrize("make", [TfidfEncoder, PatchPCAEncoder])
def test_rejects_arguments(make):
    with pytest.raises(ValueError, match="'out_dim' needs to be 1 or more"):
        make(0)
    assert repr(make(8)).startswith(f"{make.__name__}(out_dim=8")


def test_terms_that_hardly_repeat_are_told():
    """Titles of a language without blanks are one term each."""
    signs = [chr(0x4E00 + number) for number in range(120)]
    titles = ["".join(signs[(7 * n + 11 * k) % 120] for k in range(6)) for n in range(60)]
    encoder = TfidfEncoder(4)
    encoder.fit(ItemContent(text=titles))
    (note,) = encoder.notes
    assert note.startswith("ATTENTION: only 0 of 60 terms occur in more than one text")
    words = ["red", "blue", "cup", "tea", "lamp"]
    texts = [f"{words[n % 5]} {words[(n + n // 5) % 5]}" for n in range(25)]
    encoder.fit(ItemContent(text=texts))
    assert encoder.notes == ()
