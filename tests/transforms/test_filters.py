from __future__ import annotations

import csv
import io
import math
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, KNOWS, known_pairs
from alignrec_pyg.transforms import KCore, MinRating

pairs = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 6)), min_size=1, max_size=45)


def graph(links, num_users=8, num_items=7):
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = num_users, num_items
    data["user"].id = np.array([f"u{n}" for n in range(num_users)])
    data["item"].id = np.array([f"i{n}" for n in range(num_items)])
    data["item"].x_text = torch.arange(float(num_items)).unsqueeze(1)
    data["item"].mask_text = torch.arange(num_items) % 2 == 0
    data["item"].text = [f"text {n}" for n in range(num_items)]
    data["item"].image = torch.arange(num_items, dtype=torch.uint8).view(-1, 1, 1, 1)
    data[INTERACTS].edge_index = torch.tensor(links).T.reshape(2, -1)
    data[INTERACTS].time = torch.arange(len(links)) * 10
    data[INTERACTS].rating = torch.arange(len(links)) * 0.5
    data[INTERACTS].split = torch.arange(len(links)) % 3
    return data


def slow_core(links, k):
    """Drops one user or item at a time, as long as there is one to drop."""
    kept = list(range(len(links)))
    while True:
        for side in (0, 1):
            ends = [links[row][side] for row in kept]
            weak = next((end for end in ends if ends.count(end) < k), None)
            if weak is not None:
                kept = [row for row in kept if links[row][side] != weak]
                break
        else:
            return kept


@settings(max_examples=80, deadline=None)
@given(links=pairs, k=st.integers(1, 4))
def test_equals_dropping_one_at_a_time(links, k):
    kept = slow_core(links, k)
    data = graph(links)
    if not kept:
        with pytest.raises(ValueError, match="leaves no interactions"):
            KCore(k)(data)
        return
    core = KCore(k)(data)
    user, item = core[INTERACTS].edge_index.numpy()
    found = list(zip(core["user"].id[user], core["item"].id[item], strict=True))
    assert found == [(f"u{links[row][0]}", f"i{links[row][1]}") for row in kept]
    assert (core[INTERACTS].time // 10).tolist() == kept
    assert (core[INTERACTS].rating * 2).tolist() == kept
    assert core[INTERACTS].split.tolist() == [row % 3 for row in kept]
    assert core["user"].num_nodes == len({links[row][0] for row in kept}) == len(core["user"].id)
    items = sorted({links[row][1] for row in kept})
    assert core["item"].num_nodes == len(items)
    assert core["item"].x_text[:, 0].tolist() == items
    assert core["item"].mask_text.tolist() == [n % 2 == 0 for n in items]
    assert core["item"].text == [f"text {n}" for n in items]
    assert core["item"].image.flatten().tolist() == items
    assert np.bincount(user).min() >= k
    assert np.bincount(item).min() >= k


def test_leaves_its_input_alone():
    data = graph([(0, 0), (1, 1), (1, 2)])
    KCore(1)(data)
    assert data["user"].num_nodes == 8
    assert data["item"].x_text.shape == (7, 1)
    assert data[INTERACTS].edge_index.tolist() == [[0, 1, 1], [0, 1, 2]]


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_rejects_k(k):
    with pytest.raises(ValueError, match="'k' needs to be"):
        KCore(k)


def test_rejects_item_graphs_and_splits():
    data = graph([(0, 0)])
    data["item", "knn_text", "item"].edge_index = torch.zeros(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="build item graphs after KCore"):
        KCore(1)(data)
    data = graph([(0, 0)])
    data[INTERACTS].edge_label_index = data[INTERACTS].edge_index
    with pytest.raises(ValueError, match="apply KCore before the split"):
        KCore(1)(data)


def test_rejects_misaligned_attributes():
    data = graph([(0, 0)])
    data["item"].text = ["too few"]
    with pytest.raises(ValueError, match="'text' needs one row for each of the 7 items"):
        KCore(1)(data)


def test_repr():
    assert repr(KCore(3)) == "KCore(k=3)"


@pytest.mark.parametrize(
    ("lowest", "expected"), [(0, (89_993, 610, 3_621)), (4, (41_083, 601, 1_937))]
)
def test_movielens(data_folder, lowest, expected):
    """The published counts: movies with both a plot text and a poster."""
    folder = data_folder / "ml-latest-small"
    with (folder / "overviews.csv").open(encoding="utf-8", newline="") as file:
        movies = {row["movieId"] for row in csv.DictReader(file) if row["overview"]}
    with zipfile.ZipFile(folder / "posters_112.zip") as archive:
        movies &= {name.split("/")[-1].removesuffix(".jpg") for name in archive.namelist()}
    rows = csv.DictReader(io.StringIO((folder / "ratings.csv").read_text(encoding="utf-8")))
    links = [
        (int(row["userId"]), int(row["movieId"]))
        for row in rows
        if row["movieId"] in movies and float(row["rating"]) >= lowest
    ]
    user, item = (np.unique(side, return_inverse=True)[1] for side in np.array(links).T)
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = int(user.max()) + 1, int(item.max()) + 1
    data[INTERACTS].edge_index = torch.from_numpy(np.stack([user, item]))
    core = KCore(5)(data)
    assert (
        core[INTERACTS].edge_index.size(1),
        core["user"].num_nodes,
        core["item"].num_nodes,
    ) == expected


def rated_graph():
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 3, 3
    data[INTERACTS].edge_index = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    data[INTERACTS].rating = torch.tensor([5.0, 3.5, 4.0, 1.0])
    data[INTERACTS].time = torch.tensor([10, 20, 30, 40])
    return data


def test_keeps_what_is_rated_so_or_higher():
    data = rated_graph()
    likes = MinRating(4)(data)
    assert likes[INTERACTS].edge_index.tolist() == [[0, 1], [0, 1]]
    assert likes[INTERACTS].rating.tolist() == [5.0, 4.0]
    assert likes[INTERACTS].time.tolist() == [10, 30]
    assert (likes["user"].num_nodes, likes["item"].num_nodes) == (3, 3)
    assert KCore(1)(likes)["user"].num_nodes == 2
    assert data[INTERACTS].edge_index.size(1) == 4  # the input stays


def test_lower_ratings_become_known_pairs():
    likes = MinRating(4)(rated_graph())
    assert known_pairs(likes).tolist() == [[0, 2], [1, 2]]
    assert likes[KNOWS].rating.tolist() == [3.5, 1.0]
    assert likes[KNOWS].time.tolist() == [20, 40]
    higher = MinRating(5)(likes)
    assert known_pairs(higher).tolist() == [[0, 2, 1], [1, 2, 1]]
    assert higher[KNOWS].rating.tolist() == [3.5, 1.0, 4.0]
    assert known_pairs(likes).size(1) == 2  # the input stays
    core = KCore(1)(likes)
    assert known_pairs(core).tolist() == [[0], [1]]  # user 2 and item 2 have no interaction
    assert (core[KNOWS].rating.tolist(), core[KNOWS].time.tolist()) == ([3.5], [20])
    assert KNOWS not in MinRating(1)(rated_graph()).edge_types


def test_a_pair_that_is_rated_twice_is_no_known_pair():
    data = rated_graph()
    data[INTERACTS].edge_index = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 2]])  # 5 and 3.5
    assert known_pairs(MinRating(4)(data)).tolist() == [[1], [2]]


@settings(max_examples=40, deadline=None)
@given(links=pairs, k=st.integers(1, 3), halves=st.integers(0, 9))
def test_known_pairs_are_renumbered_with_their_users_and_items(links, k, halves):
    links, lowest = list(dict.fromkeys(links)), halves / 2
    data = graph(links)
    rows = slow_core([pair for row, pair in enumerate(links) if row * 0.5 >= lowest], k)
    if not rows:
        return
    core = KCore(k)(MinRating(lowest)(data))
    liked = [pair for row, pair in enumerate(links) if row * 0.5 >= lowest]
    users, items = {liked[row][0] for row in rows}, {liked[row][1] for row in rows}
    user, item = known_pairs(core).numpy()
    found = list(zip(core["user"].id[user], core["item"].id[item], strict=True))
    assert found == [
        (f"u{user}", f"i{item}")
        for row, (user, item) in enumerate(links)
        if row * 0.5 < lowest and user in users and item in items
    ]


def test_min_rating_rejects():
    with pytest.raises(ValueError, match="leaves no interactions .got 6, the highest of 4 ratings"):
        MinRating(6)(rated_graph())
    with pytest.raises(ValueError, match="'min_rating' needs to be finite"):
        MinRating(math.nan)
    data = rated_graph()
    del data[INTERACTS].rating
    with pytest.raises(ValueError, match="'rating' needs to be known"):
        MinRating(4)(data)
    data = rated_graph()
    data[INTERACTS].edge_label_index = data[INTERACTS].edge_index
    with pytest.raises(ValueError, match="needs to be unsplit"):
        MinRating(4)(data)


def test_min_rating_repr():
    assert repr(MinRating(3.5)) == "MinRating(3.5)"
