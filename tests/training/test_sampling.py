import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, with_known_pairs
from alignrec_pyg.training.sampling import TripletSampler, _shuffled, seeded_generator


def graph(links: list[tuple[int, int]], num_users: int, num_items: int) -> HeteroData:
    data = HeteroData()
    data["user"].num_nodes = num_users
    data["item"].num_nodes = num_items
    data[INTERACTS].edge_index = torch.tensor(links).t()
    return data


def random_graph(num_users: int = 20, num_items: int = 15) -> HeteroData:
    generator = torch.Generator().manual_seed(0)
    liked = torch.rand(num_users, num_items, generator=generator) < 0.4
    liked[:, 3] = False  # item 3 never occurs in training
    return graph(liked.nonzero().tolist(), num_users, num_items)


def test_epoch_is_a_permutation_of_the_links_and_batches_have_the_asked_size():
    data = random_graph()
    sampler = TripletSampler(data, batch_size=32, seed=1)
    batches = [sampler.batch(0, step) for step in range(len(sampler))]
    assert [batch.user.numel() for batch in batches[:-1]] == [32] * (len(sampler) - 1)
    seen = [
        (u, i) for b in batches for u, i in zip(b.user.tolist(), b.pos_item.tolist(), strict=True)
    ]
    links = list(map(tuple, data[INTERACTS].edge_index.t().tolist()))
    assert sorted(seen) == sorted(links)
    assert seen != links


def test_negatives_are_uniform_over_the_items_of_training_not_linked_to_the_user():
    data = random_graph()
    known = {u: set() for u in range(20)}
    for u, i in data[INTERACTS].edge_index.t().tolist():
        known[u].add(i)
    occurring = set(data[INTERACTS].edge_index[1].tolist())
    assert 3 not in occurring
    counts = torch.zeros(20, 15)
    sampler = TripletSampler(data, batch_size=10_000)
    num_epochs = 500
    for epoch in range(num_epochs):
        batch = sampler.batch(epoch, 0)
        counts.index_put_((batch.user, batch.neg_item), torch.ones(1), accumulate=True)
    for u in range(20):
        allowed = sorted(occurring - known[u])
        draws = num_epochs * len(known[u])
        assert counts[u].sum() == draws
        assert counts[u, allowed].sum() == draws  # never a known or an unseen item
        expected = draws / len(allowed)
        chi_square = ((counts[u, allowed] - expected) ** 2 / expected).sum()
        assert chi_square < 40  # 99.9 % quantile for 14 degrees of freedom is 36


def test_user_with_one_item_left_gets_that_item():
    data = graph([(0, 0), (0, 1), (0, 3), (1, 2)], 2, 4)
    batch = TripletSampler(data).batch(0, 0)
    assert batch.neg_item[batch.user == 0].tolist() == [2, 2, 2]


def test_same_seed_and_epoch_give_the_same_batches_others_do_not():
    data = random_graph()

    def draw(seed: int, epoch: int) -> torch.Tensor:
        batch = TripletSampler(data, batch_size=10_000, seed=seed).batch(epoch, 0)
        return torch.stack(list(batch))

    sampler = TripletSampler(data, batch_size=10_000)
    for epoch in (6, 5):  # any batch at any time
        assert torch.equal(draw(0, epoch), torch.stack(list(sampler.batch(epoch, 0))))
    for other in (draw(0, 6), draw(1, 5)):
        assert (draw(0, 5)[:2] != other[:2]).float().mean() > 0.5  # another order
        assert (draw(0, 5)[2] != other[2]).float().mean() > 0.5


def test_order_of_the_links_depends_neither_on_the_batch_size_nor_on_the_batches_before():
    data = random_graph()
    expected = {e: list(TripletSampler(data, batch_size=10_000).batch(e, 0)) for e in (0, 1)}
    sampler = TripletSampler(data, batch_size=1)
    assert len(sampler) > 100  # so many that they are not shuffled all at once
    for epoch, (user, item, _) in expected.items():
        for step in (*range(len(sampler)), 99, 2):
            batch = sampler.batch(epoch, step)
            assert (batch.user, batch.pos_item) == (user[step], item[step])


def test_positives_are_the_links_to_predict_where_given():
    data = graph([(0, 0), (0, 1), (1, 2)], 2, 3)
    data[INTERACTS].edge_label_index = torch.tensor([[0], [1]])
    batch = TripletSampler(data).batch(0, 0)
    assert (batch.user.tolist(), batch.pos_item.tolist(), batch.neg_item.tolist()) == (
        [0],
        [1],
        [2],
    )


def test_no_negative_is_a_known_link_also_where_the_links_to_predict_are_others():
    data = random_graph()
    links = data[INTERACTS].edge_index
    data[INTERACTS].edge_index, data[INTERACTS].edge_label_index = links[:, ::2], links[:, 1::2]
    pairs = set(map(tuple, links.t().tolist()))
    sampler = TripletSampler(data, batch_size=10_000)
    drawn = [sampler.batch(epoch, 0) for epoch in range(100)]
    assert all(batch.user.numel() == links[:, 1::2].size(1) for batch in drawn)
    negatives = {
        pair for b in drawn for pair in zip(b.user.tolist(), b.neg_item.tolist(), strict=True)
    }
    assert not negatives & pairs
    # and all others are drawn
    users, items = links[0, 1::2].unique().tolist(), links[1].unique().tolist()
    assert negatives == {(u, i) for u in users for i in items} - pairs


def test_several_negatives_repeat_user_and_positive():
    sampler = TripletSampler(random_graph(), batch_size=32, num_negatives=3, seed=1)
    single = TripletSampler(random_graph(), batch_size=32, seed=1)
    assert len(sampler) == len(single)
    for step in range(len(sampler)):
        batch, one = sampler.batch(0, step), single.batch(0, step)
        assert batch.full_size == 96
        for copy in range(3):
            assert torch.equal(batch.user[copy::3], one.user)
            assert torch.equal(batch.pos_item[copy::3], one.pos_item)
    apart = batch.neg_item.view(-1, 3)
    assert (apart[:, 0] != apart[:, 1]).any()
    assert (apart[:, 1] != apart[:, 2]).any()


def test_batches_of_an_epoch_draw_apart():
    sampler = TripletSampler(graph([(u, u) for u in range(1000)], 1000, 1000), batch_size=500)
    first, second = (sampler.batch(0, step) for step in (0, 1))
    assert (first.neg_item != second.neg_item).float().mean() > 0.5


def test_user_linked_to_everything_is_left_out_with_a_note():
    data = graph([(0, 0), (1, 0), (1, 1), (1, 2), (0, 1), (2, 2)], 3, 4)
    data["user"].id = np.array(["a", "b", "c"])
    with pytest.warns(UserWarning, match=r"all 3 items that occur .* user 1 \(id 'b'\)$"):
        sampler = TripletSampler(data, batch_size=2)
    batches = [sampler.batch(0, step) for step in range(len(sampler))]
    assert sorted(torch.cat([batch.user for batch in batches]).tolist()) == [0, 0, 2]
    for batch in batches:
        assert all(batch.neg_item[batch.user == 0] == 2)
        assert not (batch.neg_item[batch.user == 2] == 2).any()


def test_of_many_users_linked_to_everything_five_are_named():
    data = graph([(u, i) for u in range(7) for i in range(2)] + [(7, 0)], 8, 2)
    with pytest.warns(UserWarning, match=r"user 0, 1, 2, 3, 4 and 2 more$"):
        TripletSampler(data)


def test_all_users_linked_to_everything_are_an_error():
    with pytest.raises(ValueError, match="all are linked to all 2 items .*: add items or"):
        TripletSampler(graph([(0, 0), (1, 0), (1, 1), (0, 1)], 2, 2))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 16, 97, 121, 122, 1024, 9973, 10_000])
def test_shuffling_gives_everything_once(count):
    order = _shuffled(torch.arange(count), count, seeded_generator(0))
    assert order.sort().values.tolist() == list(range(count))
    part = torch.arange(count // 3, count)  # by itself
    assert torch.equal(_shuffled(part, count, seeded_generator(0)), order[part])


def test_shuffled_places_are_uniform_and_neighbours_independent():
    """2,000 orders of 97; of chi-square with 96 degrees of freedom 144 is the 99.9 % quantile."""
    count, places = 97, torch.arange(97)
    orders = torch.stack(
        [_shuffled(places, count, seeded_generator(1, epoch)) for epoch in range(2000)]
    )

    def chi_square(values, low):
        counts = torch.bincount(values.flatten(), minlength=count)[low:].double()
        expected = counts.sum() / (count - low)
        return float(((counts - expected) ** 2 / expected).sum())

    for place in (0, 1, 9, 10, 50, 96):
        assert chi_square(orders[:, place], 0) < 144
    for distance in (1, 2, 10):  # the grid is 10 wide
        assert chi_square((orders[:, distance:] - orders[:, :-distance]) % count, 1) < 144
    same = (orders[1:] == orders[:-1]).double().mean()  # from one epoch to the next
    assert abs(same * count - 1) < 0.05


def test_no_links_and_bad_batch_size_are_errors():
    data = random_graph()
    with pytest.raises(ValueError, match="'batch_size' needs to be 1 or more"):
        TripletSampler(data, batch_size=0)
    data[INTERACTS].edge_index = torch.empty(2, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least one link"):
        TripletSampler(data)


def test_generators_depend_on_their_key_alone():
    first = torch.rand(3, generator=seeded_generator(1, 2, 3))
    assert torch.equal(first, torch.rand(3, generator=seeded_generator(1, 2, 3)))
    assert not torch.equal(first, torch.rand(3, generator=seeded_generator(1, 3, 2)))


def test_a_shorter_last_batch_knows_the_size_of_a_full_one(checkerboard):
    train, _ = checkerboard
    sampler = TripletSampler(train, batch_size=7)
    last = sampler.batch(0, len(sampler) - 1)
    assert last.user.numel() < 7
    assert last.full_size == 7


def test_links_of_label_0_are_no_positives_and_repeated_ones_train_once():
    data = graph([(0, 0), (1, 1), (2, 2)], 3, 4)
    data[INTERACTS].edge_label_index = torch.tensor([[0, 0, 1, 2, 1], [1, 2, 3, 3, 3]])
    data[INTERACTS].edge_label = torch.tensor([1.0, 0, 1, 0, 1])
    batch = TripletSampler(data).batch(0, 0)
    seen = sorted(zip(batch.user.tolist(), batch.pos_item.tolist(), strict=True))
    assert seen == [(0, 1), (1, 3)]


def drawn_negatives(data: HeteroData, user: int, known_negatives: float | None) -> list[int]:
    sampler = TripletSampler(data, num_negatives=400, known_negatives=known_negatives)
    batch = sampler.batch(0, 0)
    return batch.neg_item[batch.user == user].tolist()


def test_known_pairs_are_negatives_only_where_that_is_asked_for():
    links = graph([(0, 0), (0, 1), (1, 2), (1, 3), (2, 0), (2, 4)], 3, 6)
    data = with_known_pairs(links, torch.tensor([[0, 0, 0, 2], [2, 5, 1, 0]]))  # (0, 1) is a link
    assert set(drawn_negatives(data, 0, None)) == {3, 4}
    assert set(drawn_negatives(data, 0, 0.0)) == {2, 3, 4}  # 5 occurs in no link
    assert set(drawn_negatives(data, 0, 1.0)) == {2, 5}
    half = drawn_negatives(data, 0, 0.5)
    assert half.count(5) / len(half) == pytest.approx(1 / 4, abs=0.05)
    assert half.count(2) / len(half) == pytest.approx(1 / 4 + 1 / 6, abs=0.05)
    for share in (None, 0.0, 1.0):  # without known pairs
        assert drawn_negatives(data, 1, share) == drawn_negatives(links, 1, None)
    with pytest.raises(ValueError, match=r"'known_negatives' needs to be in \[0, 1\] \(got 2\)"):
        TripletSampler(data, known_negatives=2)
