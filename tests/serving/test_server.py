import gc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch_geometric.data import HeteroData

from alignrec_pyg import ALS, BPR, EASE, VBPR, ItemKNN, Popularity, Server, load, recommend
from alignrec_pyg.graph import INTERACTS, KNOWS
from alignrec_pyg.ids import UnknownItemError, UnknownUserError
from alignrec_pyg.serving import fold_in_users, new_items
from alignrec_pyg.serving import server as module

USERS, ITEMS = 30, 40
EVERY_ITEM = range(ITEMS)


class Scored(BPR):
    """The scores of BPR, as a model without vectors gives them, in one block of memory."""

    def scorer(self, data, items=None):
        user_x, item_x = self(data)
        buffer = torch.empty(0)

        def scores(users):
            return torch.mm(user_x[users], item_x.t(), out=buffer.resize_(len(users), len(item_x)))

        return scores


@pytest.fixture
def data():
    """Users "u0", ...; items 100, 101, ...; links, links to predict, and known pairs."""
    made = HeteroData()
    made["user"].num_nodes, made["item"].num_nodes = USERS, ITEMS
    made["user"].id = np.array([f"u{n}" for n in range(USERS)], dtype=object)
    made["item"].id = np.arange(100, 100 + ITEMS, dtype=np.int32)
    draw = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(0))
    draw[7, 4:] = 0.0  # of this user three items are left
    draw[range(USERS), range(USERS)] = 0.0  # nobody is without links
    made[INTERACTS].edge_index = (draw < 0.1).nonzero().t().flip(1)
    made[INTERACTS].edge_label_index = ((draw > 0.2) & (draw < 0.25)).nonzero().t()
    made[KNOWS].edge_index = ((draw > 0.3) & (draw < 0.35)).nonzero().t()
    return made


def built(model_cls, data):
    torch.manual_seed(0)
    model = model_cls(data)
    if isinstance(model, BPR):
        return model
    model.solve(data)
    return model


def all_had(data):
    links = [data[INTERACTS].edge_index, data[INTERACTS].edge_label_index, data[KNOWS].edge_index]
    return set(map(tuple, torch.cat(links, dim=1).t().tolist()))


def slow_lists(scores, had, users, k, allowed=EVERY_ITEM):
    """Numbers of items and scores, one user at a time."""
    lists = []
    for user in users:
        left = [item for item in allowed if (user, item) not in had]
        best = sorted(left, key=lambda item: -float(scores[user, item]))[:k]
        values = np.array([float(scores[user, item]) for item in best], dtype=np.float32)
        lists.append(([100 + item for item in best], pytest.approx(values.tolist(), abs=2e-5)))
    return lists


def told(lists, digits=5):
    """As plain values, with rounded scores."""
    return [(row.item.tolist(), row.score.round(digits).tolist()) for row in lists]


@pytest.mark.parametrize("model_cls", [BPR, Scored])
@pytest.mark.parametrize("frame_rows", [1 << 18, 10])
def test_lists_are_those_of_all_scores(data, monkeypatch, model_cls, frame_rows):
    monkeypatch.setattr(module, "_FRAME_ROWS", frame_rows)  # one user at a time, or all
    monkeypatch.setattr("alignrec_pyg.evaluation.ranking._BLOCK_SCORES", 3 * ITEMS)
    model = built(model_cls, data)
    server = Server(model, data)
    scores = (model.user_embedding.weight @ model.item_embedding.weight.t()).detach()
    users = [7, 0, 29, 3, 7, 11]
    names = [f"u{user}" for user in users]
    had = all_had(data)
    found = server.recommend(names, k=6)
    assert slow_lists(scores, had, users, 6) == told(found)
    assert len(found[0].item) == 3
    assert found[0].item.dtype == np.int32
    assert found[0].score.dtype == np.float32
    some = [3, 4, 5, 6, 7, 8]
    limits = {"candidates": [100 + item for item in some], "exclude": [105]}
    left = [3, 4, 6, 7, 8]
    assert slow_lists(scores, had, users, 6, left) == told(server.recommend(names, k=6, **limits))
    again = server.recommend(names, k=99, exclude=[100], exclude_known=False)
    assert slow_lists(scores, set(), users, 99, range(1, ITEMS)) == told(again)
    assert recommend(model, data, names, 6)[1].tolist() == found[1].item.tolist()
    assert server.recommend([]) == []
    assert [row.item.size for row in server.recommend(names, candidates=[])] == [0] * 6


def test_a_frame_has_the_lists_in_rows_with_the_types_of_the_ids(data):
    server = Server(built(BPR, data), data)
    frame = server.recommend(["u7", "u2", "u7"], k=6, as_frame=True)
    lists = server.recommend(["u7", "u2", "u7"], k=6)
    assert frame["user_id"].tolist() == ["u7"] * 3 + ["u2"] * 6 + ["u7"] * 3
    assert frame["rank"].tolist() == [*range(1, 4), *range(1, 7), *range(1, 4)]
    assert frame["item_id"].tolist() == [item for row in lists for item in row.item]
    assert frame["score"].tolist() == [score for row in lists for score in row.score]
    assert frame["item_id"].dtype == np.int32
    empty = server.recommend([], as_frame=True)
    assert list(empty.columns) == ["user_id", "rank", "item_id", "score"]
    assert (len(empty), empty["item_id"].dtype) == (0, np.int32)


def test_frames_of_all_users(data, monkeypatch):
    server = Server(built(BPR, data), data)
    whole = server.recommend(data["user"].id, k=5, as_frame=True)
    monkeypatch.setattr(module, "_FRAME_ROWS", 40)
    parts = list(server.frames(k=5))
    assert [part["user_id"].nunique() for part in parts] == [8, 8, 8, 6]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    with pytest.raises(ValueError, match="'k' needs to be 1 or more"):
        server.frames(k=0)  # before anything is asked of the frames


def test_propagates_once_and_has_its_own_vectors(data, monkeypatch):
    model = built(BPR, data).train()
    server = Server(model, data)
    assert model.training
    before = told(server.recommend(["u1", "u2"], k=5))
    monkeypatch.setattr(BPR, "forward", lambda *_: pytest.fail("propagated again"))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
    assert told(server.recommend(["u1", "u2"], k=5)) == before
    server.similar([101])
    server.explain("u1", [101])
    server.new_users([[101]])


@pytest.mark.parametrize("model_cls", [BPR, ItemKNN])
def test_of_whom_nothing_was_learned(data, model_cls):
    links = data[INTERACTS].edge_index
    data[INTERACTS].edge_index = links[:, links[0] != 4]
    had = all_had(data)
    server = Server(built(model_cls, data), data)
    with pytest.raises(UnknownUserError, match=r"30 users.* 'u0' \(unknown: 'zoe', 5\): unkn"):
        server.recommend(["u1", "zoe", 5])
    with pytest.raises(UnknownUserError, match=r"\(got users without links: 'u4'\): unknown='popu"):
        server.recommend(["u1", "u4"])
    counts = torch.bincount(data[INTERACTS].edge_index[1], minlength=ITEMS)
    popular = (counts - torch.arange(ITEMS) / 1000).expand(USERS + 1, ITEMS)  # ties by number
    own = server.recommend(["u1", "u2"], k=5)
    lists = server.recommend(["u2", "zoe", "u4", "u1"], k=5, unknown="popular", exclude=[103])
    without = [item for item in range(ITEMS) if item != 3]
    for row, user in ((lists[1], USERS), (lists[2], 4)):
        ((items, _),) = slow_lists(popular, had, [user], 5, without)
        assert row.item.tolist() == items
        assert row.score.tolist() == counts[torch.tensor(items) - 100].tolist()
    if 103 not in own[1].item:
        assert lists[0].item.tolist() == own[1].item.tolist()
    frame = server.recommend(["zoe", "u1"], k=2, unknown="popular", as_frame=True)
    assert frame["user_id"].tolist() == ["zoe", "zoe", "u1", "u1"]
    with pytest.warns(UserWarning, match=r"1 of 30 users have no links and are left out: unknown="):
        (frame,) = server.frames(k=3)
    assert "u4" not in set(frame["user_id"])
    (frame,) = server.frames(k=3, unknown="popular")
    assert frame["user_id"].nunique() == USERS
    with pytest.raises(ValueError, match="'unknown' needs to be one of"):
        server.recommend("u1", unknown="skip")


def test_unknown_items_and_bad_lengths(data):
    server = Server(built(BPR, data), data)
    for argument in ("candidates", "exclude"):
        with pytest.raises(UnknownItemError, match=rf"'{argument}' .* 40 items.* 100 .*: '101'\)"):
            server.recommend("u1", **{argument: ["101"]})
    for call in (
        lambda: server.similar([7]),
        lambda: server.explain("u1", [7]),
        lambda: server.new_users([[101, 7]]),
    ):
        with pytest.raises(UnknownItemError, match=r"\(unknown: 7\)"):
            call()
    with pytest.raises(UnknownUserError, match="'user_id'"):
        server.explain("zoe", [101])
    for call in (
        lambda: server.recommend("u1", k=0),
        lambda: server.similar([101], k=0),
        lambda: server.explain("u1", [101], k=0),
        lambda: server.new_users([[101]], k=0),
    ):
        with pytest.raises(ValueError, match="'k' needs to be 1 or more"):
            call()
    data["item"].num_nodes += 1
    with pytest.raises(ValueError, match=r"'data' needs the 30 users and 40 items .* and 41\)"):
        Server(built(BPR, data), data).__class__(server.model, data)


@pytest.mark.parametrize("model_cls", [BPR, Scored])
def test_what_is_not_finite_is_never_listed(data, model_cls):
    model = built(model_cls, data)
    whole = Server(model, data)
    best = whole.recommend(["u1"], k=3, exclude_known=False)[0].item
    with torch.no_grad():
        model.item_embedding.weight[best[0] - 100, 5] = torch.nan
    with warnings.catch_warnings(record=True) as told_of:
        warnings.simplefilter("always")
        server = Server(model, data)
    told_of = [str(entry.message) for entry in told_of]
    vectors = model_cls is BPR
    assert (
        told_of
        == ["1 of 40 items have vectors that are not finite: they are never listed"][: int(vectors)]
    )
    for frame in (
        server.recommend(data["user"].id, k=40, exclude_known=False, as_frame=True),
        next(server.frames(k=40, exclude_known=False, candidates=best)),
        *([server.similar([best[1]], k=40, as_frame=True)] if vectors else []),
    ):
        assert not frame["item_id"].eq(best[0]).any()
        assert frame.iloc[:, -1].notna().all()
        assert len(frame) > 1
    if vectors:
        (row,) = server.new_users([best], k=40, exclude_known=False)
        assert best[0] not in row.item
        assert not np.isnan(row.score).any()
        with pytest.raises(ValueError, match=r"finite vectors of all items \(1 have none\)"):
            server.to_onnx("scorer.onnx")
        with torch.no_grad():
            model.user_embedding.weight[3] = torch.inf
            model.item_embedding.weight[best[0] - 100, 5] = 0.0
        with pytest.warns(UserWarning, match="1 of 30 users have vectors that are not finite"):
            server = Server(model, data)
        with pytest.raises(UnknownUserError, match="users without links: 'u3'"):
            server.recommend("u3")
        assert len(server.recommend("u3", unknown="popular")[0].item) == 20
    with torch.no_grad():
        model.user_embedding.weight[3] = 0.0
        model.item_embedding.weight[:] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite, so there is no ranking"):
        Server(model, data).recommend("u1")


@pytest.fixture
def small(toy):
    """Items 10 and 20 point one way, 30 another, 40 nowhere; ann disliked 30."""
    model = BPR(toy, embedding_dim=2)
    model.item_embedding.weight = nn.Parameter(
        torch.tensor([[1.0, 0.0], [4.0, 3.0], [0.0, 2.0], [0.0, 0.0]])
    )
    toy[KNOWS].edge_index = torch.tensor([[0], [2]])
    return Server(model, toy)


def test_similar_items_by_cosine(small):
    first, second, third = told(small.similar([20, 10, 40], k=2))
    assert first == ([10, 30], [0.8, 0.6])
    assert second == ([20, 30], [0.8, 0.0])
    assert third == ([], [])
    assert told(small.similar(20, k=1, exclude=10)) == [([30], [0.6])]
    only = small.similar([20, 10], candidates=[10, 20, 40])
    assert [row.item.tolist() for row in only] == [[10], [20]]
    assert small.similar([]) == []
    frame = small.similar([20, 40, 10], k=2, as_frame=True)
    assert frame["similar_to"].tolist() == [20, 20, 10, 10]
    assert frame["rank"].tolist() == [1, 2, 1, 2]
    assert frame["item_id"].tolist() == [10, 30, 20, 30]
    assert frame["cosine"].tolist() == pytest.approx([0.8, 0.6, 0.8, 0.0])
    assert len(small.similar([], as_frame=True)) == 0


def test_explains_by_the_nearest_links_of_the_user(small):
    near_30, near_20 = told(small.explain("ann", [30, 20]))
    assert near_30 == ([20, 10], [0.6, 0.0])  # not by what ann disliked
    assert near_20 == ([10], [0.8])  # not by itself
    assert told(small.explain("ann", 30, k=1)) == [([20], [0.6])]
    assert told(small.explain("cy", [10])) == [([], [])]  # 40 points nowhere


@pytest.mark.parametrize(
    "ask",
    [
        lambda server, path: server.vectors,
        lambda server, path: server.similar([101]),
        lambda server, path: server.explain("u1", [101]),
        lambda server, path: server.new_users([[101]]),
        lambda server, path: server.to_faiss(path),
        lambda server, path: server.to_onnx(path),
    ],
)
def test_what_needs_vectors_refuses_other_models(data, tmp_path, ask):
    server = Server(built(Scored, data), data)
    with pytest.raises(ValueError, match="vectors are needed .*Scored .* overrides 'scorer'"):
        ask(server, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_users", [2, 40])
@pytest.mark.parametrize("model_cls", [ItemKNN, EASE, Popularity])
def test_explains_by_what_each_item_adds_to_the_score(model_cls, num_users):
    """Also a history that is longer than there are users."""
    generator = torch.Generator().manual_seed(0)
    links = (torch.rand(num_users, 30, generator=generator) < 0.4).nonzero().t()
    links = links[:, links[0] > 0]
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = num_users, 30
    data[INTERACTS].edge_index = links
    model = model_cls(data)
    model.solve(data)
    server = Server(model, data)
    history = links[1, links[0] == 1].tolist()
    assert len(history) > 2
    (best,) = server.recommend(1, 5)
    listed = [*best.item.tolist(), history[0]]
    for number, reasons in enumerate(server.explain(1, listed, k=30)):
        if model_cls is Popularity:  # whoever asks
            assert len(reasons.item) == 0
            continue
        assert set(reasons.item.tolist()) <= set(history) - {listed[number]}
        assert (np.diff(reasons.score) <= 0).all()
        assert (reasons.score > 0).all()
        if model_cls is ItemKNN and number < 5:  # whose similarities are not negative
            assert reasons.score.sum() == pytest.approx(best.score[number], rel=1e-5)
    assert told(server.explain(0, [3, 4])) == [([], [])] * 2  # who has no history
    if model_cls is EASE and num_users == 40:
        first, strengths = server.explain(1, [listed[0]], k=1)[0]
        weights = model.item_weights[history, listed[0]]
        assert strengths[0] == pytest.approx(float(weights.max()), rel=1e-5)
        assert first[0] == history[int(weights.argmax())]


def slow_gains(model, data):
    """What each item, as the only link of a user, adds to all scores, ``[num_items, num_items]``.

    Of one item at a time, with the equation of the model's paper.
    """
    links = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    links[tuple(data[INTERACTS].edge_index)] = 1
    gains = torch.zeros(ITEMS, ITEMS, dtype=torch.float64)
    if isinstance(model, EASE):
        inverse = torch.linalg.inv(links.t() @ links + 100 * torch.eye(ITEMS))
        gains = (-inverse / inverse.diagonal()).fill_diagonal_(0)
    elif isinstance(model, ItemKNN):
        for target in range(ITEMS):
            similar = []
            for other in set(range(ITEMS)) - {target}:
                one, both = links[:, other], links[:, other] @ links[:, target]
                length = float(one.sum().sqrt() * links[:, target].sum().sqrt())
                similar.append((-float(both) / (length + 10), other))
            for value, other in sorted(similar)[: model.neighbor.size(1)]:
                gains[other, target] = -value
    return gains


@pytest.mark.parametrize("model_cls", [ItemKNN, EASE, Popularity])
def test_without_vectors_those_are_similar_whose_scores_rise_most(data, monkeypatch, model_cls):
    model = ItemKNN(data, num_neighbors=5) if model_cls is ItemKNN else model_cls(data)
    model.solve(data)
    gains = slow_gains(model, data)
    if model_cls is EASE:
        model.item_weights.fill_diagonal_(1)  # no item is similar to itself, whatever it adds
    server = Server(model, data)
    assert server.similarity == "score"

    def expected(item, allowed):
        row = {other: float(gains[item, other]) for other in allowed if other != item}
        best = sorted((-gain, other) for other, gain in row.items() if gain > 1e-9)[:6]
        strengths = [-gain for gain, _ in best]
        return [100 + other for _, other in best], pytest.approx(strengths, rel=1e-4)

    asked = [105, 139, 100, 105, *range(100, 140)]
    for block in (1 << 24, 3 * ITEMS):
        monkeypatch.setattr("alignrec_pyg.serving.ranker._BLOCK_SCORES", block)
        found = told(server.similar(asked, k=6), digits=9)
        assert [expected(item - 100, EVERY_ITEM) for item in asked] == found
    assert any(items for items, _ in found) == (model_cls is not Popularity)
    limits = {"candidates": range(100, 120), "exclude": [103, 104]}
    left = set(range(20)) - {3, 4}
    found = told(server.similar(asked, k=6, **limits), digits=9)
    assert [expected(item - 100, left) for item in asked] == found
    assert server.similar([]) == []
    frame = server.similar(asked, k=6, as_frame=True, **limits)
    assert list(frame.columns) == ["similar_to", "rank", "item_id", "score"]
    assert frame["item_id"].tolist() == [item for items, _ in found for item in items]


def test_new_users_by_least_squares(data):
    server = Server(built(BPR, data), data)
    histories = [[101, 105, 101], [103], [139, 120]]
    links = torch.tensor([[0, 0, 1, 2, 2], [1, 5, 3, 39, 20]])
    _, item_x = server.vectors
    scores = fold_in_users(item_x, links, 3, ridge=0.3) @ item_x.t()
    had = set(map(tuple, links.t().tolist()))
    expected = slow_lists(scores, had, range(3), 6)
    assert expected == told(server.new_users(histories, k=6, ridge=0.3))
    more = had | {(0, 7), (2, 9)}
    found = server.new_users(histories, k=60, ridge=0.3, known=[[107], [], [109]])
    assert slow_lists(scores, more, range(3), 60) == told(found)
    limits = {"candidates": [101, 102, 103, 104], "exclude": [102], "exclude_known": False}
    found = server.new_users(histories, k=60, ridge=0.3, known=[[103], [], []], **limits)
    assert slow_lists(scores, set(), range(3), 60, [1, 3, 4]) == told(found)
    assert server.new_users([]) == []
    with pytest.raises(ValueError, match=r"'known' needs a list .* of the 1 histories \(got 2\)"):
        server.new_users([[101]], known=[[], []])
    with pytest.raises(ValueError, match=r"'histories\[1\]' needs at least one item"):
        server.new_users([[101], []])


@pytest.mark.parametrize("model_cls", [ItemKNN, EASE, Popularity])
def test_new_users_with_the_links_of_known_ones_get_their_lists(data, model_cls):
    del data[INTERACTS].edge_label_index
    del data[KNOWS]
    server = Server(built(model_cls, data), data, keep_model=False)
    user, item = data[INTERACTS].edge_index
    users = [3, 9, 1]
    histories = [(100 + item[user == u]).tolist() for u in users]
    expected = server.recommend([f"u{u}" for u in users], k=8)
    for ours, theirs in zip(server.new_users(histories, k=8), expected, strict=True):
        np.testing.assert_allclose(ours.score, theirs.score, atol=1e-6)
        if model_cls is not ItemKNN:  # which gives equal scores, 0
            assert ours.item.tolist() == theirs.item.tolist()
    with pytest.raises(ValueError, match=r"'histories' needs at most 30 at a time.*\(got 31\)"):
        server.new_users([[101]] * 31)


def test_new_items_join(toy):
    torch.manual_seed(0)
    model = VBPR(toy, features=["image"])
    server = Server(model, toy)
    rows = {"image": toy["item"].x_image[:1]}
    grown = server.new_items(new_items([50], features=rows))
    assert server.recommend("ann", k=9)[0].item.size == 2
    assert set(grown.recommend("ann", k=9)[0].item) == {30, 40, 50}
    assert grown.model.num_items == 5
    assert "image" in grown.data["item"].to_dict() or grown.data["item"].num_nodes == 5
    with pytest.raises(ValueError, match=r"got a server with keep_model=False\): call add_items"):
        Server(model, toy, keep_model=False).new_items(new_items([50], features=rows))


def test_model_and_graph_are_let_go(data):
    data = data.clone()  # which nobody else holds
    model = built(BPR, data)
    held = [weakref.ref(model), weakref.ref(model.user_embedding), weakref.ref(data)]
    server = Server(model, data, keep_model=False)
    del model, data
    gc.collect()
    assert [ref() for ref in held] == [None, None, None]
    assert server.recommend("u1", k=3)[0].item.size == 3


@pytest.mark.parametrize("model_cls", [BPR, Scored])
def test_many_threads_get_what_one_gets(data, model_cls):
    server = Server(built(model_cls, data), data)
    users = [f"u{number % USERS}" for number in range(120)]
    expected = [told(server.recommend(user, k=5)) for user in users]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda user: told(server.recommend(user, k=5)), users))
    assert found == expected


def test_a_saved_model_with_its_graph_serves(data, tmp_path):
    model = built(ALS, data)
    model.save_pretrained(tmp_path, data)
    server = Server(*load(tmp_path))
    expected = Server(model, data).recommend(["u3", "u7"], k=5)
    for ours, theirs in zip(server.recommend(["u3", "u7"], k=5), expected, strict=True):
        assert ours.item.tolist() == theirs.item.tolist()
        assert ours.item.dtype == np.int32


def test_users_without_ids_go_by_number(toy):
    del toy["user"].id, toy["item"].id
    server = Server(BPR(toy), toy)
    assert sorted(server.recommend(torch.tensor([2]), k=9)[0].item) == [0, 1, 2]
    with pytest.raises(UnknownUserError, match=r"like 0 \(unknown: '2'\)"):
        server.recommend(["2"])
    with pytest.raises(ValueError, match=r"one list of ids \(got shape \(1, 2\)\)"):
        server.recommend([[1, 2]])
