import math

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import RandomLinkSplit

from alignrec_pyg.graph import INTERACTS, content_hash
from alignrec_pyg.report import describe, describe_split


def graph(links, labels=None, num_users=3, num_items=4):
    data = HeteroData()
    data["user"].num_nodes = num_users
    data["item"].num_nodes = num_items
    data[INTERACTS].edge_index = torch.tensor(links).t()
    if labels is not None:
        data[INTERACTS].edge_label_index = torch.tensor(labels).t()
    return data


TRAIN = [(0, 0), (0, 1), (1, 1)]


def test_sizes_and_sparsity():
    report = describe(graph(TRAIN), duplicates=2, notes=["3 blank lines skipped"])
    assert (report.users, report.items, report.interactions) == (3, 4, 3)
    assert report.sparsity == pytest.approx(1 - 3 / 12)
    assert (report.users_without_links, report.items_without_links) == (1, 2)
    assert report.duplicates == 2
    assert report.parts == ()
    assert "75.0000%" in str(report)
    assert "3 blank lines skipped" in str(report)


def test_file_labels_count_cold_users_and_items():
    data = graph([*TRAIN, (0, 2), (2, 1), (2, 3)])
    data[INTERACTS].split = torch.tensor([0, 0, 0, 1, 2, 2], dtype=torch.int8)
    train, val, test = describe(data).parts
    assert (train.interactions, train.users, train.items) == (3, 2, 2)
    assert (train.cold_users, train.cold_items, train.in_train) == (0, 0, 0)
    assert (val.interactions, val.cold_users, val.cold_items) == (1, 0, 1)  # item 2
    assert (test.interactions, test.users, test.items) == (2, 1, 2)
    assert (test.cold_users, test.cold_items) == (1, 1)  # user 2, item 3


def test_feature_report_against_all_pairs():
    data = graph(TRAIN)
    table = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    data["item"].x_text = table
    data["item"].mask_text = torch.tensor([False, False, False, True])
    (feature,) = describe(data, dtypes={"text": "float16"}).features
    cosines = [math.sqrt(0.5), 0.0, math.sqrt(0.5)]
    assert feature.cosine_mean == pytest.approx(np.mean(cosines))
    assert feature.cosine_std == pytest.approx(np.std(cosines))
    assert (feature.name, feature.shape, feature.dtype) == ("text", (4, 2), "float16")
    assert feature.missing == 1
    assert feature.content_hash == content_hash(table)
    assert "4 x 2" in str(describe(data))


def test_sampled_cosines_approach_those_of_all_pairs():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(300, 8, generator=generator) + 1.0
    data = graph(TRAIN, num_items=300)
    data["item"].x_text = table
    rows = torch.nn.functional.normalize(table)
    cosines = (rows @ rows.t())[tuple(torch.triu_indices(300, 300, 1))]
    first, again = (describe(data, seed=3).features[0] for _ in range(2))
    assert first == again
    assert first.cosine_mean == pytest.approx(float(cosines.mean()), abs=0.02)
    assert first.cosine_std == pytest.approx(float(cosines.std()), abs=0.02)
    assert describe(data, seed=4).features[0].cosine_mean != first.cosine_mean


def test_one_present_row_has_no_cosine():
    data = graph(TRAIN)
    data["item"].x_text = torch.eye(4)
    data["item"].mask_text = torch.tensor([False, True, True, True])
    assert math.isnan(describe(data).features[0].cosine_mean)


def test_split_counts_overlap_and_cold():
    train = graph(TRAIN)
    val = graph(TRAIN, [(0, 0), (1, 2)])  # (0, 0) is a train link, item 2 is cold
    test = graph(TRAIN, [(2, 3), (1, 0)])  # user 2 and item 3 are cold
    report = describe_split(train, val, test)
    assert [part.interactions for part in report.parts] == [3, 2, 2]
    assert [part.in_train for part in report.parts] == [0, 1, 0]
    assert [part.cold_users for part in report.parts] == [0, 0, 1]
    assert [part.cold_items for part in report.parts] == [0, 1, 1]
    assert not report.val_known_at_test
    assert report.fingerprint in str(report)


def test_parts_of_pyg_are_told_without_their_negatives():
    torch.manual_seed(0)
    data = graph([(user, item) for user in range(3) for item in range(user, 4)], num_items=40)
    split = RandomLinkSplit(2, 2, edge_types=[INTERACTS], disjoint_train_ratio=0.5)
    report = describe_split(*split(data))
    assert [part.interactions for part in report.parts] == [5, 2, 2]
    assert [part.in_train for part in report.parts] == [0, 0, 0]
    assert report.val_known_at_test


def test_val_known_at_test_is_told():
    val_links = [(1, 2)]
    test = graph([*TRAIN, *val_links], [(1, 0)])
    report = describe_split(graph(TRAIN), graph(TRAIN, val_links), test)
    assert report.val_known_at_test
    assert "train and val" in str(report)


def test_fingerprint_is_of_the_sets():
    val, test = graph(TRAIN, [(1, 2), (0, 3)]), graph(TRAIN, [(1, 0)])
    report = describe_split(graph(TRAIN), val, test)
    shuffled = describe_split(graph(TRAIN[::-1]), graph(TRAIN, [(0, 3), (1, 2)]), test)
    assert report.fingerprint == shuffled.fingerprint
    moved = describe_split(graph(TRAIN), graph(TRAIN, [(1, 2), (0, 2)]), test)
    swapped = describe_split(graph(TRAIN), test, val)
    assert len({report.fingerprint, moved.fingerprint, swapped.fingerprint}) == 3


def test_parts_of_different_data_are_refused():
    other = graph(TRAIN, [(0, 0)], num_items=5)
    with pytest.raises(ValueError, match="same users and items"):
        describe_split(graph(TRAIN), other, other)
