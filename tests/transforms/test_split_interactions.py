from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, KNOWS, known_links, known_pairs
from alignrec_pyg.transforms import SplitInteractions
from alignrec_pyg.transforms.split_interactions import rank_within_groups

MMREC_ORACLE = {5: (3, 1, 1), 9: (7, 1, 1), 10: (8, 1, 1), 15: (12, 1, 2), 20: (16, 2, 2)}


def graph(user, item=None, **attributes):
    data = HeteroData()
    user = torch.tensor(user)
    item = torch.arange(user.numel()) if item is None else torch.tensor(item)
    data["user"].num_nodes = int(user.max()) + 1
    data["item"].num_nodes = int(item.max()) + 1
    data["item"].x_text = torch.ones(data["item"].num_nodes, 2)
    data[INTERACTS].edge_index = torch.stack([user, item])
    for name, value in attributes.items():
        data[INTERACTS][name] = torch.tensor(value)
    return data


def labels(part):
    return list(zip(*part[INTERACTS].edge_label_index.tolist(), strict=True))


def known(part):
    return list(zip(*part[INTERACTS].edge_index.tolist(), strict=True))


def counts_by_rule(n):
    """The rule in words, for one user with n links: train, validation, test."""
    if n < 3:
        return n, 0, 0
    if n < 10:
        return n - 2, 1, 1
    held_out = math.floor(0.2 * n)
    return n - held_out, held_out // 2, held_out - held_out // 2


@pytest.mark.parametrize(("n", "expected"), MMREC_ORACLE.items())
def test_random_rule_of_mmrec(n, expected):
    parts = SplitInteractions("random")(graph([0] * n))
    assert tuple(part[INTERACTS].edge_label_index.size(1) for part in parts) == expected


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 27), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_random_is_a_partition_by_the_rule_of_each_user(sizes, seed):
    sizes = [*sizes, 12]  # one user at least has links to hold out
    user = [u for u, size in enumerate(sizes) for _ in range(size)]
    order = torch.randperm(len(user), generator=torch.Generator().manual_seed(seed)).tolist()
    user = [user[row] for row in order]
    data = graph(user)
    parts = SplitInteractions("random", seed=seed)(data)
    together = [pair for part in parts for pair in labels(part)]
    assert Counter(together) == Counter(known(data))
    for u, size in enumerate(sizes):
        found = tuple(sum(pair[0] == u for pair in labels(part)) for part in parts)
        assert found == counts_by_rule(size)
    for part in parts:
        assert [i for _, i in labels(part)] == sorted(i for _, i in labels(part))  # file order


def test_random_depends_on_its_seed_only():
    data = graph([0] * 40 + [1] * 40)
    torch.manual_seed(1)
    first = SplitInteractions("random", seed=3)(data)
    torch.manual_seed(2)
    again = SplitInteractions("random", seed=3)(data)
    other = SplitInteractions("random", seed=4)(data)
    assert [labels(part) for part in first] == [labels(part) for part in again]
    assert labels(first[2]) != labels(other[2])


def test_random_holds_out_every_link_equally_often():
    data = graph([0] * 10)
    tested = Counter(
        labels(SplitInteractions("random", seed=seed)(data)[2])[0][1] for seed in range(400)
    )
    assert len(tested) == 10
    assert min(tested.values()) > 15  # 40 on average
    assert max(tested.values()) < 75


def test_leave_last_out_by_time_with_ties_in_file_order():
    user = [0, 1, 0, 0, 1, 1, 0, 2, 2]
    time = [9, 5, 3, 7, 5, 5, 9, 1, 2]
    train, val, test = SplitInteractions("leave_last_out")(graph(user, time=time, rating=time))
    assert labels(test) == [(1, 5), (0, 6)]
    assert labels(val) == [(0, 0), (1, 4)]
    assert labels(train) == [(1, 1), (0, 2), (0, 3), (2, 7), (2, 8)]  # user 2 has too few
    assert train[INTERACTS].time.tolist() == [5, 3, 7, 1, 2]
    assert train[INTERACTS].rating.tolist() == [5, 3, 7, 1, 2]


@settings(max_examples=40, deadline=None)
@given(user=st.lists(st.integers(0, 3), min_size=12, max_size=30), data=st.data())
def test_leave_last_out_does_not_depend_on_the_order_of_rows(user, data):
    time = data.draw(st.permutations(range(len(user))))
    order = data.draw(st.permutations(range(len(user))))
    item = list(range(len(user)))
    parts = SplitInteractions("leave_last_out")(graph(user, item, time=time))
    shuffled = graph(
        [user[row] for row in order],
        [item[row] for row in order],
        time=[time[row] for row in order],
    )
    again = SplitInteractions("leave_last_out")(shuffled)
    assert [set(labels(part)) for part in parts] == [set(labels(part)) for part in again]


def test_global_time_keeps_equal_times_together():
    time = [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 9, 9]
    user = [0] * len(time)
    train, val, test = SplitInteractions("global_time", ratios=(0.6, 0.2, 0.2))(
        graph(user, time=time)
    )
    assert train[INTERACTS].time.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7][:7]
    assert [i for _, i in labels(val)] == [7, 8, 9]
    assert [i for _, i in labels(test)] == [10, 11, 12]


def test_global_time_without_different_times():
    with pytest.raises(ValueError, match="leaves no training links"):
        SplitInteractions("global_time")(graph([0] * 5, time=[3] * 5))


def test_labels_and_cold_users():
    data = graph([0, 0, 0, 1, 1, 2], split=[0, 1, 2, 1, 2, 2])
    train, val, test = SplitInteractions("labels")(data)
    assert labels(train) == [(0, 0)]
    assert labels(val) == [(0, 1)]
    assert labels(test) == [(0, 2)]
    assert val[INTERACTS].num_dropped_cold == 1
    assert test[INTERACTS].num_dropped_cold == 2
    _, val, test = SplitInteractions("labels", keep_cold_users=True)(data)
    assert labels(val) == [(0, 1), (1, 3)]
    assert labels(test) == [(0, 2), (1, 4), (2, 5)]
    assert test[INTERACTS].num_dropped_cold == 0


def test_counts_labels_that_are_known():
    data = graph([0, 0, 0, 0], [0, 0, 1, 1], split=[0, 2, 1, 2])
    _, val, test = SplitInteractions("labels")(data)
    assert (val[INTERACTS].num_known_labels, test[INTERACTS].num_known_labels) == (0, 1)
    _, val, test = SplitInteractions("labels", val_known_at_test=True)(data)
    assert test[INTERACTS].num_known_labels == 2


def test_what_is_known_and_what_is_shared():
    data = graph([0] * 10, time=list(range(10)))
    train, val, test = SplitInteractions("leave_last_out")(data)
    links = train[INTERACTS].edge_index
    assert val[INTERACTS].edge_index is links
    assert test[INTERACTS].edge_index is links
    assert train[INTERACTS].edge_label_index is links
    assert test["item"].x_text is data["item"].x_text
    assert "split" not in train[INTERACTS]
    assert "edge_label_index" not in data[INTERACTS]

    train, val, test = SplitInteractions("leave_last_out", val_known_at_test=True)(data)
    assert val[INTERACTS].edge_index is train[INTERACTS].edge_index
    assert known(test) == known(train) + labels(val)
    assert test[INTERACTS].time.tolist() == list(range(9))


def test_gives_no_labels_or_times_to_a_graph_without():
    train, _, _ = SplitInteractions("labels")(graph([0] * 3, split=[0, 1, 2]))
    assert set(train[INTERACTS].keys()) == {"edge_index", "edge_label_index"}


@pytest.mark.parametrize("by", ["leave_last_out", "global_time"])
def test_times_are_needed(by):
    with pytest.raises(ValueError, match=r"'time' needs to be known.*by='random'"):
        SplitInteractions(by)(graph([0] * 5))
    with pytest.raises(ValueError, match="got 1 NaN"):
        SplitInteractions(by)(graph([0] * 3, time=[1.0, float("nan"), 2.0]))


def test_labels_are_needed():
    with pytest.raises(ValueError, match=r"'split' needs to be known.*by='random'"):
        SplitInteractions("labels")(graph([0] * 5))
    with pytest.raises(ValueError, match=r"needs to be 0 .* \(got \[-1, 3\]\)"):
        SplitInteractions("labels")(graph([0] * 5, split=[0, 1, 2, 3, -1]))
    with pytest.raises(ValueError, match="leaves no validation links"):
        SplitInteractions("labels")(graph([0] * 2, split=[0, 2]))
    with pytest.raises(ValueError, match="keep_cold_users=True"):
        SplitInteractions("labels")(graph([0, 1, 1], split=[0, 1, 2]))


def test_known_pairs_are_handed_on_and_the_test_knows_the_validation_links():
    data = graph([0] * 5 + [1], [0, 1, 2, 3, 4, 0], split=[0, 0, 1, 1, 2, 0], rating=[5.0] * 6)
    data[KNOWS].edge_index = torch.tensor([[1], [3]])
    data[KNOWS].rating = torch.tensor([2.0])
    train, val, test = SplitInteractions("labels")(data)
    assert [known_pairs(part).tolist() for part in (train, val)] == [[[1], [3]]] * 2
    assert known_pairs(test).tolist() == [[1, 0, 0], [3, 2, 3]]
    assert test[KNOWS].rating.tolist() == [2.0, 5.0, 5.0]
    assert known_links(test).tolist() == [[0, 0, 1, 0, 1, 0, 0], [0, 1, 0, 4, 3, 2, 3]]
    test = SplitInteractions("labels", val_known_at_test=True)(data)[2]
    assert known_pairs(test).tolist() == [[1], [3]]
    assert data[KNOWS].edge_index.size(1) == 1  # the input stays


def test_validation_links_are_drawn_from_those_of_training():
    user = [0] * 30 + [1] * 10 + [2]
    data = graph(user, split=[0] * 24 + [2] * 6 + [0] * 8 + [2] * 2 + [0])
    train, val, test = SplitInteractions("labels", val_from_train=0.25, seed=3)(data)
    assert [len(labels(part)) for part in (train, val, test)] == [33 - 8, 8, 8]
    assert sorted(labels(train) + labels(val) + labels(test)) == sorted(known(data))
    assert labels(test) == labels(SplitInteractions("labels", val_from_train=0.5)(data)[2])
    assert labels(val) == labels(SplitInteractions("labels", val_from_train=0.25, seed=3)(data)[1])
    assert labels(val) != labels(SplitInteractions("labels", val_from_train=0.25, seed=4)(data)[1])
    train, val, _ = SplitInteractions("labels", val_from_train=0.99)(data)
    assert sorted(user for user, _ in labels(train)) == [0, 1, 2]  # one link of each stays
    assert len(labels(SplitInteractions("labels", val_from_train=0.001)(data)[1])) == 1


def test_a_validation_part_is_needed_or_drawn():
    data = graph([0] * 5, split=[0, 0, 0, 2, 2])
    with pytest.raises(ValueError, match=r"no validation links of 5: val_from_train=0.1 draws"):
        SplitInteractions("labels")(data)
    with pytest.raises(ValueError, match="without a validation part .there are 1 validation"):
        SplitInteractions("labels", val_from_train=0.5)(graph([0] * 3, split=[0, 1, 2]))
    with pytest.raises(ValueError, match=r"'val_from_train' needs by='labels' \(got by='random'"):
        SplitInteractions(val_from_train=0.5)
    with pytest.raises(ValueError, match="'val_from_train' needs to be in"):
        SplitInteractions("labels", val_from_train=1.0)
    transform = SplitInteractions("labels", val_from_train=0.5, seed=1)
    assert repr(transform) == "SplitInteractions(by='labels', seed=1, val_from_train=0.5)"


def test_splits_once():
    train, _, _ = SplitInteractions()(graph([0] * 5))
    with pytest.raises(ValueError, match="unsplit"):
        SplitInteractions()(train)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"by": "user"}, "'by'"),
        ({"seed": -1}, "'seed'"),
        ({"ratios": (0.5, 0.5)}, "'ratios'"),
        ({"ratios": (0.8, 0.1, 0.2)}, "'ratios'"),
        ({"ratios": (1.0, 0.0, 0.0)}, "'ratios'"),
    ],
)
def test_rejects_arguments(arguments, name):
    with pytest.raises(ValueError, match=name):
        SplitInteractions(**arguments)


def test_repr():
    assert repr(SplitInteractions("random", seed=2)) == "SplitInteractions(by='random', seed=2)"
    assert repr(SplitInteractions("labels")) == "SplitInteractions(by='labels')"


def test_ranks_within_groups():
    rank, size = rank_within_groups(torch.tensor([2, 0, 2, 2, 0]), 4)
    assert rank.tolist() == [0, 0, 1, 2, 1]
    assert size.tolist() == [3, 2, 3, 3, 2]
