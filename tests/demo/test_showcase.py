import pytest
import torch

from alignrec_pyg import BPR, EASE, ContentKNN, ItemKNN, Popularity, Server, evaluate
from alignrec_pyg.demo import CannotShowError, Showcase
from alignrec_pyg.demo.new_items import rank_for_users
from alignrec_pyg.demo.showcase import SimilarityScale, cosines_of_pairs
from alignrec_pyg.graph import (
    INTERACTS,
    links_to_predict,
    with_known_pairs,
    with_links_to_predict,
)


@pytest.fixture
def showcase(served):
    return Showcase(served.model, served.data, **served.parts())


def test_a_user_is_recommended_what_recommend_gives_for_the_reasons_of_explain(served, showcase):
    view = showcase.for_user(" 7 ", 6)
    asked = with_links_to_predict(served.data, torch.zeros(2, 0, dtype=torch.int64))
    server = Server(served.model, asked)
    ids = server.recommend([7], 6)[0].item
    reasons = server.explain(7, ids, 3)
    assert (view.name, view.asked) == ("user 7", 6)
    assert [entry.item.id for entry in view.recommended] == ids.tolist()
    assert [entry.item.title for entry in view.recommended] == [served.titles[i] for i in ids]
    for entry, why in zip(view.recommended, reasons, strict=True):
        assert [like.item.id for like in entry.reasons] == why.item.tolist()
        shares = [like.share_below for like in entry.reasons]
        assert shares == sorted(shares, reverse=True)
        assert {like.words[-4:] for like in entry.reasons} == {"like"}


def test_recommendations_that_were_chosen_are_marked(served, showcase):
    label = served.data[INTERACTS].edge_label_index
    marked = 0
    for user in range(20):
        chosen = set(label[1, label[0] == user].tolist())
        for entry in showcase.for_user(str(user), 30).recommended:
            assert entry.held_out == ("test" if entry.item.id in chosen else None)
            marked += entry.held_out is not None
    assert marked > 0


def test_validation_likes_are_marked_beside_those_of_the_test_and_known_pairs_left_out(served):
    likes = links_to_predict(served.val)
    (user,) = likes[0, :1].tolist()
    liked = likes[1, likes[0] == user].tolist()
    disliked = next(
        entry.item.id
        for entry in Showcase(served.model, served.data).for_user(str(user), 80).recommended
        if entry.held_out is None
    )
    pair = torch.tensor([[user], [disliked]])
    test = with_known_pairs(served.data, torch.cat([likes, pair], dim=1))
    for val, marked in ((None, []), (with_known_pairs(served.val, pair), liked)):
        entries = Showcase(served.model, test, val=val).for_user(str(user), 80).recommended
        assert disliked not in [entry.item.id for entry in entries]
        found = [entry.item.id for entry in entries if entry.held_out == "validation"]
        assert sorted(found) == sorted(marked)
        assert len(entries) == 79 - showcase_known(served, user) - (0 if marked else len(liked))


def showcase_known(served, user):
    return int((served.data[INTERACTS].edge_index[0] == user).sum())


def test_what_a_user_knows_comes_latest_first(served, showcase):
    links = served.data[INTERACTS]
    counts = torch.bincount(links.edge_index[0])
    user = int(counts.argmax())
    mine = (links.edge_index[0] == user).nonzero()[:, 0].tolist()
    mine.sort(key=lambda link: -int(links.time[link]))
    view = showcase.for_user(str(user), 1)
    assert view.num_known == len(mine) > 24
    assert [item.id for item in view.known] == links.edge_index[1, mine[:24]].tolist()


def test_users_are_listed_with_what_they_know(served, showcase):
    lines = showcase.users()
    count = int((served.data[INTERACTS].edge_index[0] == 3).sum())
    assert lines[3] == (f"user 3 · {count} items", "3")
    assert len(lines) == 60


def test_users_have_names_of_their_own(served):
    names = [f"guest no. {user}" for user in range(60)]
    showcase = Showcase(served.model, served.data, **served.parts(), user_names=names)
    label, entry = showcase.users()[3]
    assert label.startswith("guest no. 3 · ")
    assert showcase.for_user(entry, 2).name == "guest no. 3"
    ranks = showcase.new_item(served.data["item"].image[5], None, 4).ranks
    assert all(entry.name.startswith("guest no. ") for entry in ranks)
    with pytest.raises(ValueError, match=r"'user_names' needs one entry for each of the 60 users"):
        Showcase(served.model, served.data, user_names=["one"])


def test_the_most_popular_tenth_can_be_left_out(served, showcase):
    degree = torch.bincount(served.data[INTERACTS].edge_index[1], minlength=80)
    popular = set(degree.argsort(descending=True, stable=True)[:8].tolist())
    every = {entry.item.id for entry in showcase.for_user("4", 80).recommended}
    others = {entry.item.id for entry in showcase.for_user("4", 80, hide_popular=True).recommended}
    assert every - others == every & popular
    assert every & popular


def test_more_than_there_are_are_all_there_are(served):
    view = Showcase(served.model, served.data, val=served.val).for_user("0", 500)
    assert len(view.recommended) == 80 - view.num_known
    assert view.asked == 500


def test_unknown_users_are_told(showcase):
    for user, reason in (("99", "There is no user “99” here"), ("", "Pick a user"), (None, "Pick")):
        with pytest.raises(CannotShowError, match=reason):
            showcase.for_user(user, 5)


def test_a_new_item_is_like_what_a_server_gives(served, showcase):
    item = served.data["item"]
    view = showcase.new_item(item.image[5], item.text[5], 4)
    new = showcase._new_items.add(item.image[5], item.text[5])
    server = Server(new.model, new.data)
    (similar,) = server.similar([new.id], 4)
    assert [like.item.id for like in view.similar] == similar.item.tolist()
    rank, blank, left = rank_for_users(server.vectors, new.data, 80)
    best = sorted(range(60), key=lambda user: float(rank[user]) / float(blank[user]))[:6]
    assert [entry.name for entry in view.ranks] == [f"user {user}" for user in best]
    assert [entry.rank for entry in view.ranks] == rank[best].tolist()
    assert [entry.blank for entry in view.ranks] == blank[best].tolist()
    assert [entry.num_candidates for entry in view.ranks] == left[best].tolist()
    assert view.num_lists == int((rank <= 4).sum())
    assert (view.num_users, view.used, view.item.poster is None) == (60, ("image", "text"), False)
    (why,) = server.explain(best[0], [80], 3)
    assert [like.item.id for like in view.ranks[0].reasons] == why.item.tolist()


def test_more_similar_items_than_there_are(served, showcase):
    assert len(showcase.new_item(None, served.data["item"].text[5], 500).similar) == 80


def test_without_encoders_there_are_no_new_items(served):
    showcase = Showcase(served.model, served.data)
    assert showcase.reads == ()
    with pytest.raises(CannotShowError, match="no encoders"):
        showcase.new_item(None, "words", 5)


def test_about_tells_sizes_and_metrics(served, showcase):
    about = showcase.about()
    links = served.data[INTERACTS]
    assert about.model == "AlignRec"
    assert about.counts == {
        "users": 60,
        "items": 80,
        "known links": links.edge_index.size(1),
        "held-out links": links.edge_label_index.size(1),
    }
    assert about.features == {"image": 8, "mm": 16, "text": 8}
    expected = evaluate(served.model, served.data)
    assert about.metrics == {
        name: expected[name] for name in ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
    }


def test_about_has_no_metrics_on_links_that_are_known(served):
    data = served.data.clone()
    data[INTERACTS].edge_label_index = data[INTERACTS].edge_index.clone()
    assert Showcase(served.model, data).about().metrics == {}
    del data[INTERACTS]["edge_label_index"]
    showcase = Showcase(served.model, data)
    assert showcase.about().counts["held-out links"] == 0
    assert not any(entry.held_out for entry in showcase.for_user("0", 20).recommended)


def test_data_of_another_model_are_refused(served, toy):
    with pytest.raises(ValueError, match="'data' needs the 60 users"):
        Showcase(served.model, toy)


def test_shares_are_those_of_all_pairs():
    item_x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    unit = item_x / item_x.norm(dim=1, keepdim=True)
    first, second = torch.triu_indices(40, 40, offset=1)
    cosines = (unit[first] * unit[second]).sum(dim=1)
    scale = SimilarityScale(cosines_of_pairs(5 * item_x))
    for cosine in (-0.9, -0.2, 0.0, 0.5, 0.95):
        expected = float((cosines < cosine).double().mean())
        assert scale.share_below(cosine) == pytest.approx(expected, abs=0.01)
    assert (scale.share_below(-1.1), scale.share_below(1.1)) == (0.0, 1.0)


def test_words_by_share():
    angle = torch.linspace(0, torch.pi, 2000)  # cosines of pairs cover [-1, 1]
    scale = SimilarityScale(cosines_of_pairs(torch.stack([angle.cos(), angle.sin()], dim=1)))
    cosines = scale._pairs
    words = [scale.words(float(cosines[int(share * len(cosines))])) for share in SHARES]
    assert words == [
        "hardly like",
        "hardly like",
        "somewhat like",
        "somewhat like",
        "much like",
        "very much like",
    ]


SHARES = (0.1, 0.89, 0.901, 0.98, 0.991, 0.9995)


def test_items_without_a_direction_are_no_pair():
    item_x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert SimilarityScale(cosines_of_pairs(item_x)).share_below(-0.1) == 0.0
    assert SimilarityScale(cosines_of_pairs(item_x)).share_below(0.1) == 1.0
    for too_few in (item_x[:2], item_x[:0]):
        assert SimilarityScale(cosines_of_pairs(too_few)).words(0.5) == "hardly like"


@pytest.mark.parametrize("model_cls", [EASE, ItemKNN, ContentKNN, Popularity])
def test_models_without_vectors_are_shown(served, model_cls):
    model = model_cls(served.data)
    model.solve(served.data)
    showcase = Showcase(model, served.data, **served.parts())
    server = Server(model, with_links_to_predict(served.data, torch.zeros(2, 0).long()))
    view = showcase.for_user("7", 6)
    (best,) = server.recommend([7], 6)
    assert [entry.item.id for entry in view.recommended] == best.item.tolist()
    for entry, why in zip(view.recommended, server.explain(7, best.item, 3), strict=True):
        assert [like.item.id for like in entry.reasons] == why.item.tolist()
    explained = any(entry.reasons for entry in view.recommended)
    assert explained == (model_cls is not Popularity)  # where no item speaks for another
    assert showcase.about().similarity == "score"
    if model_cls is EASE:
        every = model.item_weights[~torch.eye(80, dtype=torch.bool)]
        (like, *_), (why, *_) = view.recommended[0].reasons, server.explain(7, best.item, 3)
        below = float((every < float(why.score[0])).double().mean())
        assert like.share_below == pytest.approx(below, abs=0.001)
    assert showcase.reads == ()
    assert showcase.no_new_items.startswith(f"{model_cls.__name__} cannot place a new item")
    with pytest.raises(CannotShowError, match="cannot place a new item"):
        showcase.new_item(None, "words", 5)


def test_own_scorers_are_shown_without_reasons(served):
    class Own(BPR):
        def scorer(self, data, items=None):
            return super().scorer(data, items)

    showcase = Showcase(Own(served.data), served.data, **served.parts())
    assert not any(entry.reasons for entry in showcase.for_user("7", 6).recommended)
    assert showcase.about().similarity is None
    assert showcase.no_new_items.startswith("Own cannot place a new item")
