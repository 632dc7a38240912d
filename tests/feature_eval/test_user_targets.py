import pytest
import torch

from alignrec_pyg.feature_eval.user_targets import held_out_links, latest_links
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.transforms import SplitInteractions


def told(queries):
    """Targets and histories by user."""
    users = queries.id.tolist()
    found = {user: ([], []) for user in users}
    for kind, pairs in ((0, queries.target), (1, queries.history)):
        assert pairs[0].tolist() == sorted(pairs[0].tolist())
        for row, item in pairs.t().tolist():
            found[users[row]][kind].append(item)
    return {user: (target, sorted(history)) for user, (target, history) in found.items()}


@pytest.mark.parametrize("ties", ["last", "min_id", "max_id", "random"])
def test_the_latest_link_is_found_by_a_loop(case, ties):
    user, item = case[INTERACTS].edge_index.tolist()
    time = case[INTERACTS].time.tolist()
    found = told(latest_links(case, ties=ties, seed=3))
    assert sorted(found) == [u for u in range(30) if user.count(u) > 1]
    assert 7 not in found  # a single link
    several = 0
    for number, (target, history) in found.items():
        rows = [row for row in range(len(user)) if user[row] == number]
        latest = max(time[row] for row in rows)
        tied = [item[row] for row in rows if time[row] == latest]
        several += len(tied) > 1
        expected = {"last": tied[-1], "min_id": min(tied), "max_id": max(tied)}
        assert target[0] in tied
        assert target[0] == expected.get(ties, target[0])
        assert sorted(history + target) == sorted(item[row] for row in rows)
    assert several > 10


def test_random_ties_follow_the_seed_and_reach_every_item(graph):
    data = graph(1, 3, [(0, 0), (0, 1), (0, 2)], time=[5, 5, 1])
    drawn = [told(latest_links(data, ties="random", seed=seed))[0][0][0] for seed in range(60)]
    assert set(drawn) == {0, 1}
    assert 15 < drawn.count(0) < 45
    again = [told(latest_links(data, ties="random", seed=seed))[0][0][0] for seed in range(60)]
    assert again == drawn


def test_popularity_leaves_out_what_is_to_be_found(case):
    queries = latest_links(case, ties="last", seed=0)
    item = case[INTERACTS].edge_index[1]
    expected = torch.bincount(item, minlength=25)
    for target in queries.target[1].tolist():
        expected[target] -= 1
    assert torch.equal(queries.popularity, expected)
    assert int(expected[3]) > 0  # the only link of user 7 is nobody's target


def test_links_to_predict_are_found_with_known_links_as_history(case):
    case[INTERACTS].split = torch.arange(225) % 4 - 1
    case[INTERACTS].split.clamp_(min=0)
    train, _, test = SplitInteractions("labels")(case)
    found = told(held_out_links(test))
    known, label = train[INTERACTS].edge_index, test[INTERACTS].edge_label_index
    for user, (target, history) in found.items():
        assert target == label[1, label[0] == user].tolist()
        assert history == sorted(known[1, known[0] == user].tolist())
    assert sorted(found) == label[0].unique().tolist()
    assert max(len(target) for target, _ in found.values()) > 1
    counted = torch.bincount(known[1], minlength=25)
    assert torch.equal(held_out_links(test).popularity, counted)


def test_users_without_known_links_are_left_out(graph):
    data = graph(3, 4, [(0, 0), (0, 1)])
    data[INTERACTS].edge_label_index = torch.tensor([[2, 0], [3, 2]])
    assert told(held_out_links(data)) == {0: ([2], [0, 1])}
    data[INTERACTS].edge_label_index = torch.tensor([[2, 1], [3, 2]])
    with pytest.raises(ValueError, match="needs known links of the users to predict for"):
        held_out_links(data)


def test_missing_times_are_told_with_a_way_out(case, graph):
    case[INTERACTS].time = case[INTERACTS].time.double()
    case[INTERACTS].time[4] = torch.nan
    with pytest.raises(ValueError, match=r"\(got 1 NaN\): .* or use targets='labels'"):
        latest_links(case, ties="last", seed=0)
    case[INTERACTS].time = torch.zeros(3)
    with pytest.raises(ValueError, match=r"'time' needs shape \(225,\) \(got \(3,\)\)"):
        latest_links(case, ties="last", seed=0)
    del case[INTERACTS].time
    with pytest.raises(ValueError, match=r"\.time is missing\): .* targets='labels'"):
        latest_links(case, ties="last", seed=0)
    with pytest.raises(ValueError, match=r"at least two links.*got 2 links"):
        latest_links(graph(2, 2, [(0, 0), (1, 1)], time=[1, 2]), ties="last", seed=0)


def test_labels_need_links_that_are_not_known(case):
    with pytest.raises(ValueError, match="needs links to predict"):
        held_out_links(case)
    train, _, _ = SplitInteractions("random")(case)
    with pytest.raises(ValueError, match="that are not known .* pass the validation or test"):
        held_out_links(train)
