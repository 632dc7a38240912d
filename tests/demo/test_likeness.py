import pytest
import torch

from alignrec_pyg.demo.likeness import Likeness


def test_shares_are_those_of_all_pairs():
    item_x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    unit = item_x / item_x.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(40, 40, offset=1)
    cosines = (unit[first] * unit[second]).sum(dim=1)
    likeness = Likeness(5 * item_x)
    for cosine in (-0.9, -0.2, 0.0, 0.5, 0.95):
        expected = float((cosines < cosine).double().mean())
        assert likeness.share_below(cosine) == pytest.approx(expected, abs=0.01)
    assert (likeness.share_below(-1.1), likeness.share_below(1.1)) == (0.0, 1.0)


def test_words_by_share():
    angle = torch.linspace(0, torch.pi, 2000)  # cosines of pairs cover [-1, 1]
    likeness = Likeness(torch.stack([angle.cos(), angle.sin()], dim=1))
    cosines = likeness._cosines
    words = [likeness.words(float(cosines[int(share * len(cosines))])) for share in SHARES]
    assert words == [
        "hardly like",
        "hardly like",
        "somewhat like",
        "somewhat like",
        "much like",
        "very much like",
    ]


SHARES = (0.1, 0.89, 0.901, 0.98, 0.991, 0.9995)


def test_items_without_a_direction_are_no_pair():
    item_x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert Likeness(item_x).share_below(-0.1) == 0.0
    assert Likeness(item_x).share_below(0.1) == 1.0
    for too_few in (item_x[:2], item_x[:0]):
        assert Likeness(too_few).words(0.5) == "hardly like"
