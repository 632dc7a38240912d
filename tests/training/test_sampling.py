import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.training.sampling import TripletSampler, seeded_generator


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
    batches = list(sampler.epoch(0))
    assert len(batches) == len(sampler)
    assert [batch.user.numel() for batch in batches[:-1]] == [32] * (len(batches) - 1)
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
    num_epochs = 2000
    for epoch in range(num_epochs):
        (batch,) = sampler.epoch(epoch)
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
    (batch,) = TripletSampler(data).epoch(0)
    assert batch.neg_item[batch.user == 0].tolist() == [2, 2, 2]


def test_same_seed_and_epoch_give_the_same_batches_others_do_not():
    data = random_graph()

    def draw(seed: int, epoch: int) -> torch.Tensor:
        (batch,) = TripletSampler(data, batch_size=10_000, seed=seed).epoch(epoch)
        return torch.stack(list(batch))

    assert torch.equal(draw(0, 5), draw(0, 5))
    assert not torch.equal(draw(0, 5), draw(0, 6))
    assert not torch.equal(draw(0, 5), draw(1, 5))


def test_positives_are_the_links_to_predict_where_given():
    data = graph([(0, 0), (0, 1), (1, 2)], 2, 3)
    data[INTERACTS].edge_label_index = torch.tensor([[0], [1]])
    (batch,) = TripletSampler(data).epoch(0)
    assert (batch.user.tolist(), batch.pos_item.tolist(), batch.neg_item.tolist()) == (
        [0],
        [1],
        [2],
    )


def test_user_linked_to_everything_is_an_error_that_names_the_user():
    data = graph([(0, 0), (1, 0), (1, 1)], 2, 2)
    with pytest.raises(ValueError, match="user 1 is linked to all 2 items"):
        TripletSampler(data)


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
    *_, last = TripletSampler(train, batch_size=7).epoch(0)
    assert last.user.numel() < 7
    assert last.full_size == 7
