from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from alignrec_pyg.encoders.images import resize_square
from alignrec_pyg.pretraining import PairConfig, PairDataset, PretrainConfig
from alignrec_pyg.pretraining.pairs import _random_crop, load

TEXTS = ["red green blue", "red", "", "grey grey green", "blue blue blue blue blue red"]


@pytest.fixture
def pairs(stage1):
    images = [
        torch.randint(0, 256, (3, 20 + n, 30), generator=torch.Generator().manual_seed(n)).byte()
        for n in range(len(TEXTS))
    ]
    config = PairConfig(image_size=16, patch_size=4, max_tokens=6)
    return PairDataset(TEXTS, images, stage1.tokenizer, config, seed=3)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_batch(pairs, stage1):
    batch = pairs[0, (3, 0, 2)]
    assert batch.images.shape == (3, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    expected = stage1.tokenizer([TEXTS[3], TEXTS[0], TEXTS[2]], 6)
    assert torch.equal(batch.tokens, expected.ids)
    assert torch.equal(batch.padding, expected.padding)
    assert batch.image_mask.shape == (3, 16)
    assert batch.image_mask.sum(dim=1).tolist() == [6, 6, 6]  # round(0.4 * 16)
    assert batch.token_mask.sum(dim=1).tolist() == [1, 1, 0]
    assert not batch.token_mask[:, 0].any()
    assert not (batch.token_mask & batch.padding).any()
    assert not (batch.token_mask & (batch.tokens == stage1.tokenizer.eos_id)).any()
    assert int(batch.unreadable) == 0


def test_draws_come_from_seed_epoch_and_pair(pairs, stage1):
    assert same(pairs[1, (0, 3)], pairs[1, (0, 3)])
    alone, beside = pairs[1, (3,)], pairs[1, (4, 3)]
    assert torch.equal(alone.images[0], beside.images[1])
    assert torch.equal(alone.image_mask[0], beside.image_mask[1])
    later = pairs[2, (3,)]
    assert not torch.equal(alone.images, later.images)
    assert not torch.equal(alone.image_mask, later.image_mask)
    other = PairDataset(TEXTS, pairs.images, stage1.tokenizer, pairs.config, seed=4)
    assert not torch.equal(other[1, (3,)].images, alone.images)


def test_validation_shows_whole_images_and_the_same_masks(pairs):
    batch = pairs[None, (0, 1)]
    assert torch.equal(batch.images[0], resize_square(pairs.images[0], 16))
    assert torch.equal(batch.images[1], resize_square(pairs.images[1], 16))
    assert same(batch, pairs[None, (0, 1)])


def test_crops_and_mirrored_images(stage1):
    """An image whose left half is dark and whose rows count up shows what became of it."""
    image = torch.arange(32, dtype=torch.uint8).view(1, 32, 1).expand(3, 32, 32).clone()
    image[:, :, 16:] += 100
    config = PairConfig(image_size=32, patch_size=4, crop=1.0)
    whole = PairDataset(["red"], [image], stage1.tokenizer, config)
    seen = [whole[epoch, (0,)].images[0] for epoch in range(60)]
    mirrored = [torch.equal(shown, image.flip(2)) for shown in seen]
    assert all(torch.equal(shown, image) for shown, m in zip(seen, mirrored, strict=True) if not m)
    assert 15 < sum(mirrored) < 45
    config = PairConfig(image_size=32, patch_size=4, crop=1.0, flip=False)
    still = PairDataset(["red"], [image], stage1.tokenizer, config)
    assert all(torch.equal(still[epoch, (0,)].images[0], image) for epoch in range(5))


def test_crops_are_parts_of_the_asked_area():
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    image = torch.stack([rows, columns, rows]).byte()
    draw = torch.Generator().manual_seed(0)
    areas, corners = [], set()
    for _ in range(300):
        crop = _random_crop(image, 0.5, draw)
        height, width = crop.shape[1:]
        areas.append(height * width / 2400)
        corners.add((int(crop[0, 0, 0]), int(crop[1, 0, 0])))
        top, left = int(crop[0, 0, 0]), int(crop[1, 0, 0])
        assert torch.equal(crop, image[:, top : top + height, left : left + width])
        assert 0.7 < width / height < 1.55 or (height, width) == (40, 60)
    assert min(areas) > 0.48
    assert max(areas) > 0.7
    assert len(corners) > 50
    assert _random_crop(image[:, :1], 0.5, draw).shape == (3, 1, 60)  # no such part: the whole


def test_area_and_shape_of_crops_are_uniform():
    """The area, and the logarithm of the aspect ratio; parts that do not fit are drawn again."""
    draw = torch.Generator().manual_seed(0)
    image = torch.zeros(3, 300, 300, dtype=torch.uint8)
    sizes = [_random_crop(image, 0.2, draw).shape[1:] for _ in range(2000)]
    fits = [(h * w / 300**2, math.log(w / h)) for h, w in sizes if h * w <= 0.6 * 300**2]
    area, shape = torch.tensor(fits).T  # up to 0.6 parts of any shape fit
    quarters = torch.linspace(0.25, 0.75, 3)
    torch.testing.assert_close(area.quantile(quarters), 0.2 + 0.4 * quarters, atol=0.02, rtol=0)
    expected = (2 * quarters - 1) * math.log(4 / 3)
    torch.testing.assert_close(shape.quantile(quarters), expected, atol=0.03, rtol=0)
    assert shape.abs().max() > 0.95 * math.log(4 / 3)


def test_files_bytes_and_functions(stage1, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    pixels = torch.randint(0, 256, (3, 16, 16)).byte()
    picture = image_module.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    config = PairConfig(image_size=16, patch_size=4)
    images = [tmp_path / "a.png", content, lambda: content, pixels]
    pairs = PairDataset(["red"] * 4, images, stage1.tokenizer, config)
    batch = pairs[None, range(4)]
    assert all(torch.equal(shown, pixels) for shown in batch.images)


def test_unreadable_images_give_way_and_are_counted(stage1):
    good = torch.zeros(3, 16, 16).byte()
    config = PairConfig(image_size=16, patch_size=4)
    images = [good, Path("missing.png"), b"no image", good + 7]
    texts = ["red", "green", "blue", "grey"]
    pairs = PairDataset(texts, images, stage1.tokenizer, config)
    batch = pairs[None, (0, 1, 2)]
    assert int(batch.unreadable) == 2  # pair 3 stands in for 1 and for 2
    assert same(batch[:5], pairs[None, (0, 3, 3)][:5])
    broken = pairs.select([1, 2])
    with pytest.raises(ValueError, match="needs images that can be read"):
        broken[None, (0,)]


def test_split(stage1):
    pairs = stage1.pairs(50)
    train, val = pairs.split(0.1)
    assert (len(train), len(val)) == (45, 5)
    again = pairs.split(0.1)
    assert again[1].fingerprint == val.fingerprint
    shown = [image.numpy().tobytes() for part in (train, val) for image in part.images]
    assert sorted(shown) == sorted(image.numpy().tobytes() for image in pairs.images)
    assert len(pairs.split(0.001)[1]) == 2
    with pytest.raises(ValueError, match="needs 3 pairs or more"):
        pairs.select([0, 1]).split(0.5)
    with pytest.raises(ValueError, match=r"'share' needs to be in \(0, 1\)"):
        pairs.split(1.0)


def test_fingerprint(pairs, stage1):
    def make(texts=TEXTS, images=None, config=pairs.config, seed=3):
        return PairDataset(texts, images or pairs.images, stage1.tokenizer, config, seed=seed)

    other_image = [*pairs.images[:-1], pairs.images[-1] + 1]
    variants = [
        make(),
        make(texts=[*TEXTS[:-1], "red"]),
        make(images=other_image),
        make(images=[Path("a.png"), *pairs.images[1:]]),
        make(images=[Path("b.png"), *pairs.images[1:]]),
        make(images=[b"a", *pairs.images[1:]]),
        make(images=[np.zeros((20, 20, 3), np.uint8), *pairs.images[1:]]),
        make(images=[np.eye(20, dtype=np.uint8), *pairs.images[1:]]),
        make(images=[np.zeros((20, 20, 3)), *pairs.images[1:]]),  # of a type that is not read
        make(config=PairConfig(image_size=16, patch_size=4)),
        make(seed=5),
        pairs.select([1, 0, 2, 3, 4]),
    ]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    assert make().fingerprint == pairs.fingerprint
    picture = pytest.importorskip("PIL.Image").fromarray(np.zeros((20, 20, 3), np.uint8))
    same_pixels = make(images=[picture, *pairs.images[1:]])
    assert same_pixels.fingerprint == variants[6].fingerprint
    moved = make(images=[Path("elsewhere/a.png"), *pairs.images[1:]])
    assert moved.fingerprint == variants[3].fingerprint


def test_can_be_sent_to_loading_processes(pairs):
    assert same(pickle.loads(pickle.dumps(pairs))[1, (0, 3)], pairs[1, (0, 3)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "'image_size' needs to be 1 or more"),
        ({"max_tokens": 2}, "'max_tokens' needs to be 3 or more"),
        ({"image_size": 20}, "'image_size' needs to be a multiple of patch_size=16"),
        ({"mask_image": 0.0}, r"'mask_image' needs to be in \(0, 1\)"),
        ({"mask_text": 1.0}, r"'mask_text' needs to be in \(0, 1\)"),
        ({"crop": 0.0}, r"'crop' needs to be in \(0, 1\]"),
    ],
)
def test_rejects_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        PairConfig(**arguments)


def test_rejects_lengths(stage1):
    for texts, images in ((["red"], []), ([], [])):
        with pytest.raises(ValueError, match="one entry for each pair"):
            PairDataset(texts, images, stage1.tokenizer)


KEYS = [(0, [1, 2]), (None, range(3)), (1, [2])]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_in_the_order_asked_for(stage1, num_workers):
    pairs = stage1.pairs(5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded = list(load(pairs, KEYS, PretrainConfig(num_workers=num_workers), torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(loaded) == 3
    for batch, key in zip(loaded, KEYS, strict=True):
        for part, expected in zip(batch, pairs[key], strict=True):
            assert torch.equal(part, expected)
