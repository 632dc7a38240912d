import math

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.groups import activity_groups, long_tail_links, popularity_groups
from alignrec_pyg.evaluation.metrics import UserMetrics, user_metrics
from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.graph import INTERACTS

USERS, ITEMS = 30, 25


def graph(num_users, num_items, links):
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = num_users, num_items
    data[INTERACTS].edge_index = torch.as_tensor(links, dtype=torch.int64).reshape(-1, 2).t()
    return data


@pytest.fixture
def case():
    """A training graph with many ties, links to predict and random rankings of ten."""
    generator = torch.Generator().manual_seed(1)
    chance = torch.linspace(0.02, 0.6, ITEMS) * torch.linspace(0.3, 1, USERS).unsqueeze(1)
    train = graph(USERS, ITEMS, (torch.rand(USERS, ITEMS, generator=generator) < chance).nonzero())
    links = (torch.rand(USERS, ITEMS, generator=generator) < 0.15).nonzero().t()
    users = links[0].unique()
    lists = [torch.randperm(ITEMS, generator=generator)[:10] for _ in users]
    return train, links, Ranking(users, torch.stack(lists).int())


def degree(train, end):
    count = [0] * (USERS, ITEMS)[end]
    for link in train[INTERACTS].edge_index.t().tolist():
        count[link[end]] += 1
    return count


@pytest.mark.parametrize(("of", "end"), [("user", 0), ("item", 1)])
@pytest.mark.parametrize("below", [1, 4, 100])
def test_long_tail_keeps_links_of_few(case, of, end, below):
    train, links, _ = case
    count = degree(train, end)
    expected = [link for link in links.t().tolist() if count[link[end]] < below]
    assert long_tail_links(train, links, below=below, of=of).t().tolist() == expected
    if below == 4:
        assert 0 < len(expected) < links.size(1)


def test_long_tail_is_of_items_with_less_than_four_links_as_in_the_paper():
    train = graph(5, 3, [(u, 0) for u in range(4)] + [(u, 1) for u in range(3)])
    links = torch.tensor([[4, 4, 3, 4], [0, 1, 2, 2]])
    assert long_tail_links(train, links).tolist() == [[4, 3, 4], [1, 2, 2]]
    lists = Ranking(torch.tensor([3, 4]), torch.tensor([[2], [0]]))
    assert user_metrics(lists, long_tail_links(train, links), 1).recall.tolist() == [1, 0]


def test_long_tail_names_wrong_arguments(case):
    train, links, _ = case
    with pytest.raises(
        ValueError, match=r"'of' needs to be one of \('item', 'user'\) \(got 'items'\)"
    ):
        long_tail_links(train, links, of="items")
    with pytest.raises(ValueError, match="'below' needs to be 1 or more"):
        long_tail_links(train, links, below=0)
    with pytest.raises(ValueError, match="'train' needs to be a HeteroData"):
        long_tail_links(links, links)


@pytest.mark.parametrize("num_groups", [1, 2, 4, 7])
def test_activity_groups_average_over_the_users_between_quantiles(case, num_groups):
    train, links, ranking = case
    metrics = user_metrics(ranking, links, 10)
    links_of = [degree(train, 0)[user] for user in metrics.user.tolist()]
    groups = activity_groups(metrics, train, num_groups=num_groups)
    assert len(groups) == num_groups
    before = -1
    for number, group in enumerate(groups, start=1):
        # the smallest count that at least number / num_groups of the users do not exceed
        quantile = min(
            count
            for count in links_of
            if sum(c <= count for c in links_of) * num_groups >= number * len(links_of)
        )
        inside = [n for n, count in enumerate(links_of) if before < count <= quantile]
        assert group.max_degree == quantile
        assert group.num_users == len(inside)
        assert all(group.min_degree <= links_of[n] <= group.max_degree for n in inside)
        if inside:
            assert group.recall == pytest.approx(
                sum(metrics.recall[n].item() for n in inside) / len(inside)
            )
            assert group.ndcg == pytest.approx(
                sum(metrics.ndcg[n].item() for n in inside) / len(inside)
            )
        before = quantile
    assert sum(group.num_users for group in groups) == metrics.user.numel()


def test_activity_groups_by_hand_with_ties():
    train = graph(6, 3, [(u, i) for u in range(5) for i in range((1, 1, 1, 2, 3)[u])])
    metrics = UserMetrics(
        torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0.0, 1, 1, 1, 0]), torch.ones(5)
    )
    least, none, most = activity_groups(metrics, train, num_groups=3)
    assert (least.min_degree, least.max_degree, least.num_users) == (1, 1, 3)
    assert least.recall == pytest.approx(2 / 3)
    assert (none.min_degree, none.max_degree, none.num_users) == (2, 2, 1)
    assert (most.min_degree, most.max_degree, most.num_users, most.recall) == (3, 3, 1, 0)
    groups = activity_groups(metrics, train, num_groups=5)
    assert [group.num_users for group in groups] == [3, 0, 0, 1, 1]
    assert groups[1].max_degree < groups[1].min_degree
    assert math.isnan(groups[1].recall)
    assert math.isnan(groups[1].ndcg)


def test_activity_groups_of_nobody():
    metrics = UserMetrics(torch.tensor([], dtype=torch.int64), torch.empty(0), torch.empty(0))
    groups = activity_groups(metrics, graph(2, 2, [(0, 0)]))
    assert [group.num_users for group in groups] == [0] * 4
    assert all(math.isnan(group.recall) for group in groups)
    with pytest.raises(ValueError, match=r"'num_groups' needs to be 1 or more \(got 0\)"):
        activity_groups(metrics, graph(2, 2, [(0, 0)]), num_groups=0)


@pytest.mark.parametrize("shares", [(0.2, 0.2), (0.5, 0.5), (0.0, 0.3), (0.9, 0.0), (0.6, 0.35)])
def test_popularity_groups_average_over_the_links_of_their_items(case, shares):
    train, links, ranking = case
    head_share, tail_share = shares
    count = degree(train, 1)
    total = sum(count)
    names = []
    for own in count:
        more = sum(other for other in count if other > own) / total
        names.append(
            "head" if more < head_share else "tail" if more >= 1 - tail_share else "middle"
        )
    groups = popularity_groups(
        ranking, train, links, 5, head_share=head_share, tail_share=tail_share
    )
    assert [group.name for group in groups] == ["head", "middle", "tail"]
    for group in groups:
        own = torch.tensor([names[item] == group.name for item in links[1].tolist()])
        metrics = user_metrics(ranking, links[:, own], 5)
        assert group.num_items == names.count(group.name)
        assert group.num_links == int(own.sum())
        assert group.num_users == metrics.user.numel()
        if group.num_links:
            assert group.recall == pytest.approx(metrics.recall.mean().item())
            assert group.ndcg == pytest.approx(metrics.ndcg.mean().item())
        else:
            assert math.isnan(group.recall)
            assert math.isnan(group.ndcg)
        for item, name in enumerate(names):
            assert (name == group.name) == (group.min_degree <= count[item] <= group.max_degree)
    assert sum(group.num_links for group in groups) == links.size(1)


def test_popularity_groups_by_hand():
    # links per item: 4, 3, 2, 1, 0; shares before them: 0, .4, .7, .9, 1
    train = graph(4, 5, [(u, i) for i, count in enumerate((4, 3, 2, 1, 0)) for u in range(count)])
    lists = Ranking(torch.tensor([1, 2, 3]), torch.tensor([[2, 3], [4, 1], [5, 5]]))
    links = torch.tensor([[1, 1, 2, 2, 3], [2, 3, 4, 2, 1]])
    head, middle, tail = popularity_groups(lists, train, links, 2)
    assert (head.min_degree, head.max_degree, head.num_items) == (4, 4, 1)
    assert (head.num_links, head.num_users) == (0, 0)
    assert math.isnan(head.recall)
    assert (middle.min_degree, middle.max_degree, middle.num_items) == (2, 3, 2)
    assert (middle.num_links, middle.num_users) == (3, 3)
    assert middle.recall == pytest.approx(1 / 3)  # user 1 gets item 2, users 2 and 3 nothing
    assert (tail.min_degree, tail.max_degree, tail.num_items) == (0, 1, 2)
    assert (tail.num_links, tail.num_users, tail.recall) == (2, 2, 1)
    assert tail.ndcg == pytest.approx((1 / math.log2(3) + 1) / 2)


def test_popularity_groups_name_wrong_shares(case):
    train, links, ranking = case
    for head, tail in ((-0.1, 0.2), (0.2, -0.1), (0.6, 0.5), (math.nan, 0.2)):
        with pytest.raises(ValueError, match="'head_share' and 'tail_share' need to be 0 or more"):
            popularity_groups(ranking, train, links, head_share=head, tail_share=tail)
    with pytest.raises(ValueError, match=r"'k' needs to be in \[1, 10\] \(got 20\)"):
        popularity_groups(ranking, train, links)
