import pytest
import torch

from benchmarks import generated


def test_generated_links_have_the_shape_asked_for():
    shape = generated.Shape(num_users=300, num_items=200, train=1500, val=330, test=340)
    train, val = generated.generate_links(shape)
    assert train.shape == (2, 1500)
    assert val.shape == (2, 330)
    pairs = set(map(tuple, torch.cat([train, val], dim=1).t().tolist()))
    assert len(pairs) == 1830
    assert int(train.min()) >= 0
    assert torch.cat([train, val], dim=1).amax(dim=1).tolist() <= [299, 199]
    assert int(torch.bincount(train[0], minlength=300).min()) >= 3
    assert int(torch.bincount(val[0], minlength=300).min()) >= 1
    by_item = torch.bincount(train[1], minlength=200).sort(descending=True).values
    assert int(by_item[:20].sum()) > 2 * 1500 * 20 / 200  # the top tenth has far more than a tenth
    again, _ = generated.generate_links(shape)
    assert torch.equal(again, train)


def test_generated_links_refuse_an_impossible_shape():
    with pytest.raises(ValueError, match="'shape'"):
        generated.generate_links(
            generated.Shape(num_users=10, num_items=50, train=20, val=10, test=10)
        )
    with pytest.raises(ValueError, match="'shape'"):
        generated.generate_links(
            generated.Shape(num_users=10, num_items=6, train=50, val=10, test=10)
        )


def test_features_have_low_rank_structure():
    features = generated.generate_features(200)
    assert features.shape == (200, generated.FEATURE_DIM)
    assert features.dtype == torch.float32
    spectrum = torch.linalg.svdvals(features - features.mean(dim=0))
    assert float(spectrum[31] / spectrum[33]) > 2
    assert torch.equal(generated.generate_features(200), features)
