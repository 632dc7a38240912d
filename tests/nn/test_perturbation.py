import copy

import torch

from alignrec_pyg.nn import (
    LinkPruning,
    dropout,
    sample_links,
    signed_noise,
    user_item_adjacency,
)

LINKS = torch.tensor([[0, 0, 0, 1], [0, 1, 2, 3]])


def test_links_are_kept_with_probability_proportional_to_their_weight():
    # One link survives: its probability is exactly its share of the weights.
    weight = torch.tensor([1 / 3**0.5, 1 / 3**0.5, 1 / 3**0.5, 1.0])
    counts = torch.zeros(4)
    num_draws = 4000
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_draws):
        counts[sample_links(LINKS, 2, 4, 0.25, generator)] += 1
    expected = num_draws * weight / weight.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 99.9 % quantile, 3 degrees


def test_a_whole_number_of_links_is_drawn_without_replacement():
    links = torch.stack([torch.arange(100) % 7, torch.arange(100)])
    kept = sample_links(links, 7, 100, 0.2, torch.Generator().manual_seed(0))
    assert kept.numel() == 20
    assert kept.unique().numel() == 20
    assert sample_links(links, 7, 100, 0.208, torch.Generator().manual_seed(0)).numel() == 20


def test_graph_of_an_epoch_is_that_of_the_links_drawn_normalised_anew():
    pruning = LinkPruning(0.5)
    assert pruning(LINKS) is None  # nothing is drawn yet
    pruning.draw(LINKS, 2, 4, torch.Generator().manual_seed(3))
    kept = LINKS[:, sample_links(LINKS, 2, 4, 0.5, torch.Generator().manual_seed(3))]
    assert kept.size(1) == 2
    expected = user_item_adjacency(kept, 2, 4).matrix.to_dense()
    torch.testing.assert_close(pruning(LINKS).matrix.to_dense(), expected)
    assert pruning(LINKS.clone()) is None
    assert copy.deepcopy(pruning)(LINKS) is None
    assert pruning.eval()(LINKS) is None


def test_all_links_are_no_graph_of_an_epoch():
    pruning = LinkPruning(1.0)
    pruning.draw(LINKS, 2, 4, torch.Generator())
    assert pruning(LINKS) is None


def test_a_single_link_has_weight_one():
    pruning = LinkPruning(0.3)
    pruning.draw(LINKS, 2, 4, torch.Generator().manual_seed(0))  # floor(1.2) links
    assert pruning(LINKS).matrix.values().tolist() == [1.0, 1.0]


def test_dropout_zeroes_that_share_and_scales_the_rest():
    x = torch.ones(200, 100)
    found = dropout(x, 0.2, torch.Generator().manual_seed(0))
    assert set(found.unique().tolist()) == {0.0, 1.25}
    assert abs((found == 0).float().mean().item() - 0.2) < 0.01  # 3.5 standard deviations
    assert torch.equal(found, dropout(x, 0.2, torch.Generator().manual_seed(0)))
    assert torch.equal(dropout(x, 0.0, None), x)


def test_signed_noise_by_hand(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.tensor([[0.3, 0.4]]))
    found = signed_noise(torch.tensor([[1.0, -2.0]]), 0.1, None)
    torch.testing.assert_close(found, torch.tensor([[1.06, -2.08]]))


def test_signed_noise_has_its_length_and_flips_no_sign():
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    found = signed_noise(x, 0.1, torch.Generator().manual_seed(1))
    torch.testing.assert_close((found - x).norm(dim=1), torch.full((50,), 0.1))
    assert torch.equal(found.sign(), x.sign())
    assert (found.abs() >= x.abs()).all()
