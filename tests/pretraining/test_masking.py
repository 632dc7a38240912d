from __future__ import annotations

import math

import pytest
import torch

from alignrec_pyg.pretraining.masking import block_mask, text_mask


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("grid", "ratio"), [(14, 0.4), (4, 0.4), (7, 0.75), (2, 0.5), (1, 0.9)])
def test_every_image_hides_equally_many(grid, ratio):
    drawn = generator()
    for _ in range(50):
        mask = block_mask(grid, ratio, drawn)
        assert mask.shape == (grid**2,)
        assert mask.dtype == torch.bool
        assert int(mask.sum()) == round(ratio * grid**2)


def test_78_of_196_by_default():
    assert int(block_mask(14, 0.4, generator()).sum()) == 78


def neighbours(mask, grid=14):
    """Pairs of hidden patches side by side."""
    square = mask.view(grid, grid)
    return int((square[1:] & square[:-1]).sum() + (square[:, 1:] & square[:, :-1]).sum())


def test_patches_are_hidden_in_blocks():
    drawn = generator()
    blocks = sum(neighbours(block_mask(14, 0.4, drawn)) for _ in range(100)) / 100
    singles = (
        sum(neighbours(text_mask(torch.ones(196).bool(), 0.4, drawn)) for _ in range(100)) / 100
    )
    assert singles < 70  # 364 pairs x 0.16 = 58
    assert blocks > 100


def test_the_last_block_may_hide_all_that_is_left():
    """Of 4 patches the first block hides all or, 1 x 3, all but one.

    With least blocks of 4 it has area 4 and, at aspect a, round(2 sqrt(a)) x round(2 / sqrt(a))
    patches: 2 x 2 where a is in [0.64, 1.5625], 1 x 3 or 3 x 1 where a or 1 / a is in
    [0.3265, 0.5625]; log(a) is uniform, and other blocks do not fit.
    """
    drawn = generator()
    masks = [block_mask(4, 0.25, drawn, least_block=4).view(4, 4) for _ in range(400)]
    squares = sum(
        any(bool(mask[r : r + 2, c : c + 2].all()) for r in range(3) for c in range(3))
        for mask in masks
    )
    two, three = math.log(1.5625 / 0.64), 2 * math.log(0.5625 / 0.3265)
    assert squares / 400 == pytest.approx(two / (two + three), abs=0.08)


def test_the_middle_is_hidden_more_often_than_corners():
    drawn = generator()
    share = torch.stack([block_mask(14, 0.4, drawn) for _ in range(400)]).float().mean(dim=0)
    share = share.view(14, 14)
    assert share[5:9, 5:9].mean() > 0.55
    assert share[[0, 0, -1, -1], [0, -1, 0, -1]].mean() < 0.15
    # no side is preferred
    for one, other in ((share[:7], share[7:]), (share[:, :7], share[:, 7:])):
        assert abs(one.mean() - other.mean()) < 0.05


def test_a_least_block_of_one_gives_smaller_blocks():
    small, default = generator(), generator()
    counts = [
        sum(neighbours(block_mask(14, 0.4, small, least_block=1)) for _ in range(100)),
        sum(neighbours(block_mask(14, 0.4, default)) for _ in range(100)),
    ]
    assert counts[0] < counts[1]


def test_masks_follow_the_generator():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(block_mask(14, 0.4, generator(3)), block_mask(14, 0.4, generator(3)))
    assert not torch.equal(block_mask(14, 0.4, generator(3)), block_mask(14, 0.4, generator(4)))
    eligible = torch.ones(40, dtype=torch.bool)
    assert torch.equal(
        text_mask(eligible, 0.2, generator(3)), text_mask(eligible, 0.2, generator(3))
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("length", "hidden"), [(0, 0), (1, 1), (3, 1), (9, 1), (10, 2), (20, 3), (126, 19)]
)
def test_share_of_hidden_tokens(length, hidden):
    """round(0.15 n), at least one; halves go to the even number, as everywhere in Python."""
    eligible = torch.zeros(130, dtype=torch.bool)
    eligible[1 : 1 + length] = True
    mask = text_mask(eligible, 0.15, generator())
    assert int(mask.sum()) == hidden
    assert not (mask & ~eligible).any()


def test_every_token_is_hidden_equally_often():
    drawn = generator()
    eligible = torch.arange(22).remainder(11) > 0  # 20 of 22
    share = torch.stack([text_mask(eligible, 0.15, drawn) for _ in range(4000)]).float().mean(dim=0)
    assert not share[[0, 11]].any()
    torch.testing.assert_close(share[eligible], torch.full((20,), 0.15), atol=0.02, rtol=0)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, float("nan")])
def test_rejects_ratios(ratio):
    with pytest.raises(ValueError, match=r"'ratio' needs to be in \(0, 1\)"):
        block_mask(4, ratio, generator())
    with pytest.raises(ValueError, match=r"'ratio' needs to be in \(0, 1\)"):
        text_mask(torch.ones(3).bool(), ratio, generator())


def test_rejects_sizes():
    with pytest.raises(ValueError, match="'grid' needs to be 1 or more"):
        block_mask(0, 0.4, generator())
    with pytest.raises(ValueError, match="'least_block' needs to be 1 or more"):
        block_mask(4, 0.4, generator(), least_block=0)
