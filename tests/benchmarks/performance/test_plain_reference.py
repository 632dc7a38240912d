import math
import random

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.metrics import evaluate
from alignrec_pyg.graph import INTERACTS, ITEM, USER, knn_edge_type
from alignrec_pyg.models import AlignRec
from alignrec_pyg.training.sampling import TripletSampler
from alignrec_pyg.transforms import KNNItemGraph
from benchmarks.performance.plain_reference import (
    PlainAlignRec,
    dense_item_graph,
    items_of_users,
    plain_evaluate,
    sample_epoch,
)
from benchmarks.performance.speed import PARAMETERS, to_reference

NUM_USERS, NUM_ITEMS = 30, 24


@pytest.fixture
def graphs():
    """Training and validation graph; batches of 16 hold many users and items repeatedly."""
    generator = torch.Generator().manual_seed(3)
    order = torch.rand(NUM_USERS, NUM_ITEMS, generator=generator).argsort(dim=1)
    users = torch.arange(NUM_USERS)
    known = torch.stack([users.repeat_interleave(4), order[:, :4].flatten()])
    # one to three held-out items, none for the last user
    count = users % 3 + 1
    count[-1] = 0
    held_out = torch.stack(
        [users.repeat_interleave(count), torch.cat([order[u, 4 : 4 + count[u]] for u in users])]
    )
    features = torch.randn(NUM_ITEMS, 12, generator=generator)
    train, val = HeteroData(), HeteroData()
    for data, labels in ((train, known), (val, held_out)):
        data[USER].num_nodes = NUM_USERS
        data[ITEM].num_nodes = NUM_ITEMS
        data[ITEM].x_mm = features
        data[INTERACTS].edge_index = known
        data[INTERACTS].edge_label_index = labels
    graph = KNNItemGraph("mm", k=10)
    return graph(train), graph(val)


@pytest.fixture
def pair(graphs):
    torch.manual_seed(0)
    train, _ = graphs
    ours = AlignRec(train, features=["mm"], item_graph="mm", l2_batch_size=16)
    reference = PlainAlignRec(
        train[INTERACTS].edge_index, NUM_USERS, NUM_ITEMS, train[ITEM].x_mm, batch_size=16
    )
    reference.load_state_dict(to_reference(ours.state_dict()))
    return ours, reference


def test_item_graph_is_the_same(graphs):
    edges = graphs[0][knn_edge_type("mm")]
    ours = torch.zeros(NUM_ITEMS, NUM_ITEMS)
    ours[edges.edge_index[1], edges.edge_index[0]] = edges.edge_weight
    reference = dense_item_graph(graphs[0][ITEM].x_mm).to_dense()
    torch.testing.assert_close(reference, ours)


def test_loss_terms_and_gradients_are_the_same(graphs, pair):
    train, _ = graphs
    ours, reference = pair
    for batch in TripletSampler(train, batch_size=16, seed=0).epoch(0):
        total, terms = ours.loss(train, batch)
        expected_total, expected_terms = reference.loss(tuple(batch))
        torch.testing.assert_close(total, expected_total)
        assert terms.keys() == expected_terms.keys()
        for name, value in expected_terms.items():
            torch.testing.assert_close(terms[name], value, msg=lambda m, n=name: f"{n}: {m}")

        ours.zero_grad()
        reference.zero_grad()
        total.backward()
        expected_total.backward()
        parameters = dict(ours.named_parameters())
        assert parameters.keys() == set(PARAMETERS.values())
        for name, parameter in reference.named_parameters():
            torch.testing.assert_close(
                parameters[PARAMETERS[name]].grad,
                parameter.grad,
                rtol=1e-4,
                atol=1e-6,
                msg=lambda m, n=name: f"{n}: {m}",
            )


def test_training_and_evaluation_are_the_same(graphs, pair):
    train, val = graphs
    ours, reference = pair
    steps = [torch.optim.Adam(model.parameters(), lr=1e-2) for model in pair]
    sampler = TripletSampler(train, batch_size=16, seed=0)
    for batch in (batch for epoch in range(3) for batch in sampler.epoch(epoch)):
        totals = [ours.loss(train, batch)[0], reference.loss(tuple(batch))[0]]
        torch.testing.assert_close(totals[0], totals[1], rtol=1e-3, atol=1e-4)
        for step, total in zip(steps, totals, strict=True):
            step.zero_grad()
            total.backward()
            step.step()

    reference.load_state_dict(to_reference(ours.state_dict()))
    links = val[INTERACTS]
    seen, held_out = (
        items_of_users(index, NUM_USERS) for index in (links.edge_index, links.edge_label_index)
    )
    expected = plain_evaluate(reference, seen, held_out, ks=(2, 5), block=7)
    metrics = evaluate(ours, val, ks=(2, 5))
    assert 0 < expected["recall@2"] < expected["recall@5"] < 1
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name


def test_metrics_by_hand():
    # item vectors 3, 2, 1, 0 along one axis: every user ranks the items 0, 1, 2, 3
    model = PlainAlignRec(torch.tensor([[0], [0]]), 2, 12, torch.eye(12), dim=1)
    ids = torch.cat([torch.ones(2, 1), torch.arange(12.0, 0, -1)[:, None]])
    model.propagate = lambda: (ids, torch.zeros_like(ids))
    # user 0 has seen item 0, so the list is 1, 2, 3: a hit at 1 and at 3, of three to be found
    metrics = plain_evaluate(model, [{0}, set()], [{1, 3, 9}, set()], ks=(3,))
    assert metrics == pytest.approx(
        {
            "recall@3": 2 / 3,
            "ndcg@3": (1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2),
            "precision@3": 2 / 3,
            "map@3": (1 + 2 / 3) / 3,
            "mrr@3": 1.0,
        }
    )


def test_sampling_covers_every_link_once_with_unseen_items(graphs):
    links = graphs[0][INTERACTS].edge_index
    seen = items_of_users(links, NUM_USERS)
    batches = sample_epoch(links, seen, 50, random.Random(0))
    assert [len(users) for users, _, _ in batches] == [50, 50, 20]
    users, positives, negatives = (
        torch.cat(column).tolist() for column in zip(*batches, strict=True)
    )
    assert sorted(zip(users, positives, strict=True)) == sorted(map(tuple, links.t().tolist()))
    assert (users, positives) != tuple(links.tolist())
    assert all(item not in seen[user] for user, item in zip(users, negatives, strict=True))
    assert set(negatives) <= set(links[1].tolist())
