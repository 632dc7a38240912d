import pytest
import torch
from torch import Tensor

from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models.dualgnn_user_graph import (
    common_item_neighbors,
    polya_urn_counts,
    user_adjacency,
)


def random_links(num_users: int, num_items: int, share: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    links = (torch.rand(num_users, num_items, generator=generator) < share).nonzero().t()
    return links[:, torch.randperm(links.size(1), generator=generator)]


def slow_neighbors(links: Tensor, num_users: int, k: int) -> list[list[tuple[int, int]]]:
    """Pairs of neighbour and count, user by user, set by set."""
    items = [set(links[1, links[0] == user].tolist()) for user in range(num_users)]
    lists = []
    for user in range(num_users):
        counts = [(v, len(items[user] & items[v])) for v in range(num_users) if v != user]
        lists.append(sorted((p for p in counts if p[1]), key=lambda p: (-p[1], p[0]))[:k])
    return lists


def as_lists(neighbors: Tensor, counts: Tensor) -> list[list[tuple[int, int]]]:
    return [
        [(int(v), int(c)) for v, c in zip(row, count, strict=True) if c]
        for row, count in zip(neighbors, counts, strict=True)
    ]


def test_neighbours_of_the_toy_graph(toy):
    neighbors, counts = common_item_neighbors(toy[INTERACTS].edge_index, 3, 4, k=2)
    assert neighbors.tolist() == [[1, 0], [0, 0], [0, 0]]  # ann and bob share item 1
    assert counts.tolist() == [[1, 0], [1, 0], [0, 0]]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("block_size", [1, 100, 10**6])
def test_neighbours_equal_those_counted_one_by_one(share, k, block_size):
    for seed in range(3):
        links = random_links(30, 12, share, seed)
        neighbors, counts = common_item_neighbors(links, 30, 12, k, block_size=block_size)
        assert neighbors.shape == counts.shape == (30, k)
        assert as_lists(neighbors, counts) == slow_neighbors(links, 30, k)
        assert not neighbors[counts == 0].any()
        assert (counts[:, :-1] >= counts[:, 1:]).all()  # padding comes last


def test_a_graph_without_links_has_no_neighbours():
    neighbors, counts = common_item_neighbors(torch.zeros(2, 0, dtype=torch.int64), 3, 4, k=2)
    assert not neighbors.any()
    assert not counts.any()


def test_many_users_take_no_memory_of_users_by_users():
    num_users = 200_000  # squared, 160 GB; every item is shared by users 2i and 2i + 1
    user = torch.arange(num_users)
    neighbors, counts = common_item_neighbors(
        torch.stack([user, user // 2]), num_users, num_users // 2, k=2
    )
    assert torch.equal(neighbors[:, 0].long(), user ^ 1)
    assert counts.sum() == num_users


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"k": 0}, "'k' needs .* 0"), ({"k": 2, "block_size": 0}, "'block_size' needs .* 0")],
)
def test_sizes_need_to_be_positive(toy, arguments, message):
    with pytest.raises(ValueError, match=message):
        common_item_neighbors(toy[INTERACTS].edge_index, 3, 4, **arguments)


def test_a_repeated_link_is_an_error():
    links = torch.tensor([[0, 1, 1], [3, 2, 2]])
    with pytest.raises(ValueError, match="user 1 and item 2 are linked twice"):
        common_item_neighbors(links, 3, 4, k=2)


def test_lists_are_filled_up_as_by_a_polya_urn():
    # From (1, 1), two draws give (1, 3), (2, 2) and (3, 1) with one third each.
    num_users = 6000
    counts = torch.zeros(num_users, 4)
    counts[:, 0], counts[:, 1] = 5, 2
    drawn = polya_urn_counts(counts, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.sum(1), torch.full((num_users,), 4))
    assert not drawn[:, 2:].any()
    found = torch.bincount(drawn[:, 0], minlength=4)[1:].double()
    assert found.sum() == num_users
    assert ((found - 2000) ** 2 / 2000).sum() < 13.8  # 99.9 % quantile, 2 degrees


def test_only_short_lists_are_drawn_and_the_generator_decides():
    counts = torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    drawn = polya_urn_counts(counts, torch.Generator().manual_seed(0))
    assert drawn.tolist() == [[1, 1, 1], [0, 0, 0], [3, 0, 0]]
    counts = (torch.rand(50, 20) < 0.5).float().sort(dim=1, descending=True).values
    first, second, third = (
        polya_urn_counts(counts, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(first > 0, counts > 0)


@pytest.mark.parametrize("drawn", [False, True])
def test_weights_are_the_softmax_over_the_lists_with_their_repeats(drawn):
    links = random_links(12, 9, 0.2, 0)
    neighbors, counts = common_item_neighbors(links, 12, 9, k=5)
    multiplicity = polya_urn_counts(counts, torch.Generator().manual_seed(3)) if drawn else None
    expected = torch.zeros(12, 12)
    for user, pairs in enumerate(as_lists(neighbors, counts)):
        times = [1] * len(pairs) if multiplicity is None else multiplicity[user].tolist()
        repeated = [pair for pair, n in zip(pairs, times, strict=False) for _ in range(n)]
        weights = torch.tensor([float(c) for _, c in repeated]).softmax(0)
        for (other, _), weight in zip(repeated, weights, strict=True):
            expected[user, other] += weight
    adjacency = user_adjacency(neighbors, counts, multiplicity)
    torch.testing.assert_close(adjacency.matrix.to_dense(), expected)
    torch.testing.assert_close(adjacency.transpose.to_dense(), expected.t())
    assert (expected.sum(1) == 0).any()  # somebody shares nothing
    if drawn:
        assert multiplicity.max() > 1


def test_large_counts_do_not_overflow():
    neighbors, counts = (
        torch.tensor([[1, 2], [0, 0], [0, 0]]),
        torch.tensor([[900.0, 899], *2 * [[0.0, 0]]]),
    )
    weight = user_adjacency(neighbors.int(), counts).matrix.to_dense()[0]
    torch.testing.assert_close(weight, torch.tensor([0.0, 1, torch.e**-1]) / (1 + torch.e**-1))
