import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.graph import INTERACTS

SMALL = {"num_users": 60, "num_items": 300, "num_interactions": 900, "num_topics": 5}


def held_out_accuracy(features, topic):
    half = len(topic) // 2
    model = LogisticRegression(max_iter=300).fit(features[:half], topic[:half])
    return float((model.predict(features[half:]) == topic[half:]).mean())


def image_accuracy(data):
    pixels = data["item"].image.numpy().reshape(len(data["item"].topic), -1) / 255.0
    return held_out_accuracy(
        PCA(20, random_state=0).fit_transform(pixels), data["item"].topic.numpy()
    )


def text_accuracy(data):
    words = TfidfVectorizer().fit_transform(data["item"].text)
    return held_out_accuracy(words, data["item"].topic.numpy())


def items_per_user(data):
    return torch.bincount(data[INTERACTS].edge_index[0], minlength=data["user"].num_nodes)


@pytest.mark.parametrize("total", [300, 900, 60 * 300])
def test_exact_number_of_distinct_links_and_five_per_user(total):
    data = Synthetic(**{**SMALL, "num_interactions": total}, image_size=8).data
    edges = data[INTERACTS].edge_index
    assert edges.size(1) == total
    assert torch.unique(edges, dim=1).size(1) == total
    assert items_per_user(data).min() >= 5
    assert data[INTERACTS].time.dtype == torch.int64
    assert (data[INTERACTS].time.diff() >= 0).all()


def test_shapes_and_types():
    data = Synthetic(**SMALL, image_size=12).data
    assert data["item"].image.shape == (300, 3, 12, 12)
    assert data["item"].image.dtype == torch.uint8
    assert len(data["item"].text) == 300
    assert all(12 <= len(text.split()) <= 16 for text in data["item"].text)
    assert torch.bincount(data["item"].topic).tolist() == [60] * 5


def test_same_seed_same_data_other_seed_other_data():
    first, again, other = (Synthetic(**SMALL, image_size=8, seed=s).data for s in (0, 0, 1))
    assert torch.equal(first[INTERACTS].edge_index, again[INTERACTS].edge_index)
    assert torch.equal(first["item"].image, again["item"].image)
    assert first["item"].text == again["item"].text
    assert not torch.equal(first[INTERACTS].edge_index, other[INTERACTS].edge_index)
    assert first["item"].text != other["item"].text


def test_signals_leave_the_rest_alone():
    full = Synthetic(**SMALL, image_size=8).data
    mute = Synthetic(**SMALL, image_size=8, image_signal=0.0).data
    assert torch.equal(full[INTERACTS].edge_index, mute[INTERACTS].edge_index)
    assert full["item"].text == mute["item"].text
    assert not torch.equal(full["item"].image, mute["item"].image)


def test_image_signal_shows_topics_and_vanishes():
    accuracy = [
        image_accuracy(Synthetic(**SMALL, image_size=16, image_signal=s).data) for s in (1.0, 0.0)
    ]
    assert accuracy[0] > 0.7
    assert accuracy[1] < 0.35  # chance is 0.2


def test_text_signal_shows_topics_and_vanishes():
    accuracy = [
        text_accuracy(Synthetic(**SMALL, image_size=8, text_signal=s).data) for s in (1.0, 0.0)
    ]
    assert accuracy[0] > 0.9
    assert accuracy[1] < 0.35


def test_no_two_images_of_a_topic_are_alike():
    data = Synthetic(**SMALL, image_size=16).data
    pixels = data["item"].image.float()[data["item"].topic == 0].flatten(1)
    assert torch.pdist(pixels).min() > 0.5 * 20.0 * pixels.size(1) ** 0.5  # pixel noise alone


def test_noise_blurs_taste():
    def concentration(noise):
        data = Synthetic(**SMALL, image_size=8, noise=noise).data
        user, item = data[INTERACTS].edge_index
        counts = torch.zeros(60, 5).index_put(
            (user, data["item"].topic[item]), torch.ones(len(user)), accumulate=True
        )
        return float((counts / counts.sum(1, keepdim=True)).square().sum(1).mean())

    assert concentration(0.0) > concentration(0.5) > concentration(1.0)
    assert concentration(0.0) > 0.5
    assert concentration(1.0) < 0.35  # 0.2 if topics were drawn evenly, plus sampling


def test_popularity_skew_makes_a_head_and_a_tail():
    def head_share(skew):
        data = Synthetic(**SMALL, image_size=8, popularity_skew=skew).data
        degree = torch.bincount(data[INTERACTS].edge_index[1], minlength=300)
        return float(degree.sort(descending=True).values[:30].sum() / degree.sum())

    assert head_share(1.5) > head_share(0.7) > head_share(0.0)
    assert head_share(1.5) > 0.4


def test_more_topics_than_items_still_works():
    data = Synthetic(6, 8, 40, num_topics=50, image_size=4, noise=0.0).data
    assert data[INTERACTS].edge_index.size(1) == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_users": 0}, "'num_users' needs to be 1 or more"),
        ({"num_items": 4}, "'num_items' needs to be 5 or more"),
        ({"num_topics": 0}, "'num_topics'"),
        ({"image_size": 3}, "'image_size'"),
        ({"seed": -1}, "'seed'"),
        ({"image_signal": 1.1}, r"'image_signal' needs to be in \[0, 1\]"),
        ({"text_signal": -0.1}, "'text_signal'"),
        ({"noise": float("nan")}, "'noise'"),
        ({"popularity_skew": -1.0}, "'popularity_skew'"),
        ({"num_interactions": 299}, r"'num_interactions' needs to be in \[300, 18000\]"),
        ({"num_interactions": 18001}, "'num_interactions'"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Synthetic(**{**SMALL, **options})


def test_default_content_helps_where_links_are_few():
    """Item-to-item scores for the rarest third: by known topic against by co-occurrence."""
    data = Synthetic(image_size=4).data
    user, item = (row.numpy() for row in data[INTERACTS].edge_index)
    held_out = np.random.default_rng(0).random(len(user)) < 0.2
    known = np.zeros((800, 600))
    known[user[~held_out], item[~held_out]] = 1.0
    topic = np.eye(20)[data["item"].topic.numpy()]
    norm = np.maximum(np.linalg.norm(known, axis=0), 1.0)
    by_links = known @ ((known.T @ known) / norm[:, None] / norm)
    by_topic = known @ topic @ topic.T
    rare = np.argsort(known.sum(0), kind="stable")[:200]
    test = held_out & np.isin(item, rare)

    def rank(scores):
        among = scores[user[test]][:, rare]
        own = scores[user[test], item[test]][:, None]
        return float(((among > own) + 0.5 * (among == own)).mean())

    assert rank(by_topic) < rank(by_links) - 0.05
