import functools

import pytest
import torch

from alignrec_pyg import BPR, evaluate
from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.encoders import TfidfEncoder
from alignrec_pyg.feature_eval import item_cf, zero_shot
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.transforms import EncodeItems, SplitInteractions


def rows_of(data, features):
    """The concatenated table of rows at length 1, zeros where missing."""
    parts = []
    for name in features:
        table = data["item"][f"x_{name}"].double()
        mask = data["item"].get(f"mask_{name}", torch.zeros(len(table), dtype=torch.bool))
        table = torch.where(mask.unsqueeze(1), 0, table)
        parts.append(table / table.norm(dim=1, keepdim=True).clamp(min=1e-30))
    return torch.cat(parts, dim=1)


def slow_rank(vector, table, target, candidates):
    """Place of the target among candidates, from 0; behind all where nothing can be said."""
    if not vector.any():
        return len(candidates)
    value = torch.cosine_similarity(vector.unsqueeze(0), table, eps=1e-30).tolist()
    order = sorted(candidates, key=lambda item: (-round(value[item], 9), item))
    return order.index(target)


@pytest.mark.parametrize("features", [("image",), ("text",), ("image", "text")])
@pytest.mark.parametrize("exclude_history", [False, True])
def test_zero_shot_equals_a_loop_over_users(case, features, exclude_history):
    table = rows_of(case, features)
    user, item = case[INTERACTS].edge_index
    time = case[INTERACTS].time
    ranks, candidates_of = {}, {}
    for number in range(30):
        mine = (user == number).nonzero()[:, 0].tolist()
        if len(mine) < 2:
            continue
        latest = max(mine, key=lambda row: (int(time[row]), row))
        history = [int(item[row]) for row in mine if row != latest]
        candidates = [i for i in range(25) if not (exclude_history and i in history)]
        vector = table[history].mean(0)
        ranks[number] = slow_rank(vector, table, int(item[latest]), candidates)
        candidates_of[number] = len(candidates)
    found = zero_shot(case, list(features), ks=[1, 5], exclude_history=exclude_history)
    assert found.query.tolist() == list(ranks)
    assert found.rank.tolist() == list(ranks.values())
    assert found.num_candidates.tolist() == list(candidates_of.values())
    for k in (1, 5):
        assert found.recall[k] == sum(rank < k for rank in ranks.values()) / len(ranks)
        expected = sum(k / count for count in candidates_of.values()) / len(ranks)
        assert found.random[k] == pytest.approx(expected)


@pytest.mark.parametrize("features", [("text",), ("image", "text")])
def test_item_cf_equals_a_loop_over_items(case, features):
    case[INTERACTS].edge_index = case[INTERACTS].edge_index[:, :65]  # few links tie often
    table = rows_of(case, features)
    linked = torch.zeros(30, 25, dtype=torch.float64)
    linked[tuple(case[INTERACTS].edge_index)] = 1
    common, size = linked.T @ linked, linked.sum(0)
    ranks, best, targets = {}, {}, []
    several = 0
    for j in range(25):
        others = [i for i in range(25) if i != j]
        met = [i for i in others if common[i, j] > 0]
        if not met:
            continue
        score = {i: float(common[i, j] / (size[i] * size[j]).sqrt()) for i in met}
        tied = [i for i in met if score[i] > max(score.values()) - 1e-12]
        one = min(tied, key=lambda i: (-common[i, j], -size[i], i))
        places = {i: slow_rank(table[j], table, i, others) for i in tied}
        ranks[j], best[j] = places[one], min(places.values())
        targets.append(one)
        several += len(tied) > 1
    found = item_cf(case, features, ks=3)
    assert found.query.tolist() == list(ranks)
    assert found.rank.tolist() == list(ranks.values())
    assert found.recall == {3: sum(rank < 3 for rank in ranks.values()) / len(ranks)}
    assert found.any_tied.recall == {3: sum(rank < 3 for rank in best.values()) / len(best)}
    assert found.num_tied == several > 5
    assert found.num_candidates.unique().tolist() == [24]
    assert found.random == pytest.approx({3: 3 / 24})
    assert found.num_unranked == sum(not table[j].any() for j in ranks)
    order = (-size).argsort(stable=True).tolist()
    popular = [
        order.index(int(t)) - (order.index(j) < order.index(int(t)))
        for j, t in zip(found.query.tolist(), targets, strict=True)
    ]
    assert found.popularity_rank.tolist() == popular


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_labels_with_history_left_out_give_the_recall_of_evaluate(case, similarity):
    case[INTERACTS].split = (torch.arange(225) % 4 - 1).clamp(min=0)
    train, _, test = SplitInteractions("labels")(case)
    table = torch.nn.functional.normalize(case["item"].x_image)
    user, item = train[INTERACTS].edge_index
    mean = torch.zeros(30, 6).index_add_(0, user, table[item])

    class Fixed(BPR):
        def forward(self, data):
            return mean, table

    expected = evaluate(Fixed(train, embedding_dim=6), test, ks=(2, 6))
    options = {"targets": "labels", "similarity": similarity, "exclude_history": True}
    found = zero_shot(test, "image", ks=(2, 6), **options)
    assert found.num_queries == expected["num_users"]
    for k in (2, 6):
        assert found.recall[k] == pytest.approx(expected[f"recall@{k}"])
    assert bool((torch.bincount(found.row) > 1).any())
    assert found.num_candidates.max() < 25


def test_options_reach_what_they_are_for(case):
    plain = zero_shot(case, ["image", "text"])
    for option in (
        {"similarity": "dot"},
        {"ties": "min_id"},
        {"normalize_parts": False},
        {"normalize_items": True},
    ):
        assert not torch.equal(zero_shot(case, ["image", "text"], **option).rank, plain.rank)
    scaled = case.clone()
    for name in ("image", "text"):
        table = scaled["item"][f"x_{name}"]
        scaled["item"][f"x_{name}"] = table / table.norm(dim=1, keepdim=True)
    scaled["item"].mask_text = case["item"].mask_text
    stored = {"normalize_parts": False}
    assert torch.equal(zero_shot(scaled, ["image", "text"], **stored).rank, plain.rank)
    items = zero_shot(case, "image", normalize_items=True, **stored)
    assert torch.equal(zero_shot(case, "image").rank, items.rank)
    plain = item_cf(case, ["image", "text"])
    for option in ({"similarity": "dot"}, {"normalize_parts": False}):
        assert not torch.equal(item_cf(case, ["image", "text"], **option).rank, plain.rank)
    assert item_cf(case, "image", score="pearson", min_common=3).num_queries < plain.num_queries
    seeds = [zero_shot(case, "image", ties="random", seed=seed).rank for seed in (0, 0, 1)]
    assert torch.equal(seeds[0], seeds[1])
    assert not torch.equal(seeds[0], seeds[2])


@pytest.mark.parametrize("protocol", [zero_shot, item_cf])
def test_block_size_changes_nothing(case, protocol):
    whole = protocol(case, ["text", "image"])
    for block_size in (1, 3, 8):
        blocked = protocol(case, ["text", "image"], block_size=block_size)
        assert torch.equal(blocked.rank, whole.rank)
        assert torch.equal(blocked.popularity_rank, whole.popularity_rank)


def test_features_that_know_the_topics_beat_noise_on_synthetic_data():
    data = Synthetic(num_users=200, num_items=150, num_interactions=3000, seed=1).data
    data = EncodeItems(TfidfEncoder(32), name="text")(data)
    generator = torch.Generator().manual_seed(0)
    data["item"].x_noise = torch.randn(150, 32, generator=generator)
    for protocol in (functools.partial(zero_shot, exclude_history=True), item_cf):
        text, noise = protocol(data, "text"), protocol(data, "noise")
        assert text.recall[10] > 1.5 * text.random[10]
        assert noise.recall[10] < 1.5 * noise.random[10]
        assert text.recall[10] > noise.recall[10]
        assert text.popularity == noise.popularity


def test_wrong_arguments_are_named(case):
    for options, message in (
        ({"targets": "test"}, r"'targets' needs to be one of \('time', 'labels'\) \(got 'test'\)"),
        ({"similarity": "l2"}, "'similarity' needs to be one of"),
        ({"ties": "first"}, "'ties' needs to be one of"),
        ({"ks": 0}, "'ks' needs to hold positive integers"),
        ({"block_size": 0}, r"'block_size' needs to be 1 or more \(got 0\)"),
    ):
        with pytest.raises(ValueError, match=message):
            zero_shot(case, "image", **options)
    for options, message in (
        ({"score": "jaccard"}, "'score' needs to be one of .*'iuf'"),
        ({"similarity": "l2"}, "'similarity' needs to be one of"),
        ({"min_common": 1.0}, "'min_common' needs to be an integer"),
        ({"ks": []}, "'ks' needs to hold positive integers"),
        ({"block_size": True}, "'block_size' needs to be an integer"),
        ({"eval_items": 0}, "'eval_items' needs to be 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            item_cf(case, "image", **options)
    for protocol in (zero_shot, item_cf):
        with pytest.raises(ValueError, match="'data' needs to be a HeteroData"):
            protocol([case], "image")
        with pytest.raises(ValueError, match="'audio' needs to be one of the feature tables"):
            protocol(case, "audio")
