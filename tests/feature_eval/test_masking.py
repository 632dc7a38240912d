from functools import partial

import pytest
import torch

from alignrec_pyg.feature_eval import item_cf, mask_features, mask_modality, masked_items, zero_shot


def test_one_permutation_per_seed():
    items = masked_items(25, seed=4)
    assert len(items) == 12
    assert items.unique().numel() == 12
    assert torch.equal(masked_items(25, ratio=0.2, seed=4), items[:5])
    assert not torch.equal(masked_items(25, seed=5), items)
    assert masked_items(100, ratio=0.29).numel() == 29  # 0.29 * 100 < 29 in floating point
    assert masked_items(25, ratio=0).numel() == 0
    assert sorted(masked_items(25, ratio=1).tolist()) == list(range(25))
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="'ratio' needs to be in"):
            masked_items(25, ratio=ratio)


def test_masked_rows_become_zeros_and_the_input_stays(case):
    image, mask = case["item"].x_image.clone(), case["item"].mask_text.clone()
    changed = mask_features(case, "image", ratio=0.4, seed=1)
    drawn = masked_items(25, ratio=0.4, seed=1)
    assert changed["item"].mask_image.nonzero()[:, 0].tolist() == sorted(drawn.tolist())
    assert not changed["item"].x_image[drawn].any()
    kept = ~changed["item"].mask_image
    assert torch.equal(changed["item"].x_image[kept], image[kept])
    assert torch.equal(case["item"].x_image, image)
    assert "mask_image" not in case["item"]
    changed = mask_features(case, "text", ratio=0.4, seed=1)
    expected = sorted({2, 17, *drawn.tolist()})
    assert changed["item"].mask_text.nonzero()[:, 0].tolist() == expected
    assert torch.equal(case["item"].mask_text, mask)


def test_a_replacement_gives_rows_and_mask(case):
    case["item"].x_other = torch.randn(25, 4)
    case["item"].mask_other = torch.zeros(25, dtype=torch.bool)
    drawn = masked_items(25)
    case["item"].mask_other[drawn[3]] = True
    case["item"].mask_text[drawn[0]] = True
    changed = mask_features(case, "text", replacement="other")
    kept = torch.ones(25, dtype=torch.bool)
    kept[drawn] = False
    assert torch.equal(changed["item"].x_text[drawn], case["item"].x_other[drawn])
    assert torch.equal(changed["item"].mask_text[drawn], case["item"].mask_other[drawn])
    assert torch.equal(changed["item"].mask_text[kept], case["item"].mask_text[kept])
    same = (changed["item"].x_text == case["item"].x_text) | case["item"].x_text.isnan()
    assert bool(same[kept].all())
    with pytest.raises(ValueError, match=r"the shape \(25, 6\) of 'image' \(got \(25, 4\)\)"):
        mask_features(case, "image", replacement="other")


@pytest.mark.parametrize("protocol", [zero_shot, item_cf, partial(zero_shot, similarity="dot")])
def test_the_protocol_runs_on_what_is_left(case, protocol):
    found = mask_modality(case, ["image", "text"], "text", ratio=0.8, seed=2, protocol=protocol)
    zeros = case.clone()
    zeros["item"].x_text[masked_items(25, ratio=0.8, seed=2)] = 0
    assert torch.equal(found.rank, protocol(zeros, ["image", "text"]).rank)
    assert not torch.equal(found.rank, protocol(case, ["image", "text"]).rank)
    assert torch.equal(found.popularity_rank, protocol(case, ["image", "text"]).popularity_rank)


def test_zero_shot_on_half_of_the_items_is_the_default(case):
    found = mask_modality(case, ["image", "text"], "image")
    expected = zero_shot(mask_features(case, "image", ratio=0.5, seed=0), ["image", "text"])
    assert torch.equal(found.rank, expected.rank)


def test_a_fused_table_takes_the_rows_of_the_other_modality_alone(case):
    case["item"].x_of_text = torch.randn(25, 6)
    found = mask_modality(case, "image", "image", replacement="of_text")
    mixed = case.clone()
    drawn = masked_items(25)
    mixed["item"].x_image[drawn] = case["item"].x_of_text[drawn]
    assert torch.equal(found.rank, zero_shot(mixed, "image").rank)


def test_wrong_arguments_are_named(case):
    with pytest.raises(ValueError, match=r"'masked' needs to be one of the features \('image',\)"):
        mask_modality(case, "image", "text")
    with pytest.raises(ValueError, match="'image' is the only feature table, so that masked items"):
        mask_modality(case, ["image"], "image")
