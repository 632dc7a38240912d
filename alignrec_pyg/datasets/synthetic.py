"""Synthetic data with a known latent structure, for tests of multimodal recommenders."""

from __future__ import annotations

import numpy as np
import torch

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.datasets.interactions import InteractionDataset, interaction_graph
from alignrec_pyg.graph import ITEM
from alignrec_pyg.report import describe

MIN_PER_USER = 5
"""Minimum number of interactions of a user, so that those of every user can be split."""

_USER_BLOCK = 256
_TASTE_CONCENTRATION = 0.15  # Dirichlet: users prefer mostly two or three topics
_ACTIVITY_SPREAD = 0.8  # log-normal sigma of the number of interactions per user
_WORDS_PER_ITEM = 16
_TOPIC_WORDS = 12
_COMMON_WORDS = 400
_TOPIC_WORD_SHARE = 0.4
_PIXEL_NOISE = 20.0
_BRIGHTNESS_JITTER = 12.0
_START = 1_600_000_000  # seconds since 1970
_DURATION = 2 * 365 * 24 * 3600


class Synthetic(InteractionDataset):
    r"""Synthetic data: items with latent topics, images and texts, and users who prefer topics.

    With topic :math:`t_i`, popularity :math:`q_i \propto \mathrm{rank}_i^{-s}` (ranks are random),
    taste :math:`\theta_u \sim \mathrm{Dirichlet}` over topics and noise :math:`\epsilon`, user
    :math:`u` draws distinct items, one after the other, with

    .. math:: p(i \mid u) \propto q_i \left((1 - \epsilon)\,
        \frac{\theta_{u t_i}}{\sum_j q_j \theta_{u t_j}} + \frac{\epsilon}{\sum_j q_j}\right)

    ``data["item"].image`` (uint8 ``[num_items, 3, size, size]``) shows stripes. A topic has two
    colours, a width and an angle; every image has its own phase, share of each colour, brightness
    and pixel noise. ``data["item"].text`` mixes words of the topic with common ones.
    ``data["item"].topic`` (int64 ``[num_items]``) is the latent topic. ``.time`` is in seconds.

    Args:
        num_users: Number of users.
        num_items: Number of items.
        num_interactions: Exact number of distinct interactions.
        num_topics: Number of item topics.
        image_signal: Share in [0, 1] of an image's colours, stripe width and angle that depends on
            its topic; the rest is random. With 0, images are independent of topics.
        text_signal: Probability in [0, 1] that a topic word belongs to the topic of the item, and
            not to a random one. With 0, texts are independent of topics.
        noise: Share in [0, 1] of the interactions that depend on popularity only.
        popularity_skew: Exponent :math:`s \ge 0`; with 0, all items are equally popular.
        image_size: Height and width in pixels.
        seed: Random seed. The parts use separate random streams, so that the signals influence
            neither the interactions nor each other.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> from alignrec_pyg.datasets import Synthetic
        >>> dataset = Synthetic(num_users=50, num_items=40, num_interactions=500, seed=0)
        >>> dataset
        Synthetic(users=50, items=40, interactions=500)
        >>> dataset.data["item"].image.shape
        torch.Size([40, 3, 32, 32])
    """

    def __init__(
        self,
        num_users: int = 800,
        num_items: int = 600,
        num_interactions: int = 12_000,
        num_topics: int = 20,
        image_signal: float = 1.0,
        text_signal: float = 1.0,
        noise: float = 0.1,
        popularity_skew: float = 0.7,
        image_size: int = 32,
        seed: int = 0,
    ) -> None:
        for name, value, low in (
            ("num_users", num_users, 1),
            ("num_items", num_items, MIN_PER_USER),
            ("num_topics", num_topics, 1),
            ("image_size", image_size, 4),
            ("seed", seed, 0),
        ):
            check_integer(name, value, low)
        check_number("image_signal", image_signal, least=0, most=1)
        check_number("text_signal", text_signal, least=0, most=1)
        check_number("noise", noise, least=0, most=1)
        check_number("popularity_skew", popularity_skew, least=0)
        check_integer(
            "num_interactions",
            num_interactions,
            MIN_PER_USER * num_users,
            num_users * num_items,
            hint=f": at least {MIN_PER_USER} for each of {num_users} users and at most all pairs",
        )
        streams = np.random.default_rng(seed).spawn(4)
        topic = streams[0].permutation(np.arange(num_items) % num_topics)
        user, item = _interactions(
            streams[1], topic, num_users, num_interactions, num_topics, noise, popularity_skew
        )
        time = _START + np.sort(streams[1].integers(_DURATION, size=num_interactions))
        notes: list[str] = []
        order = streams[1].permutation(num_interactions)  # assigns times to interactions
        data, duplicates = interaction_graph(
            user[order], item[order], np.arange(num_users), np.arange(num_items), notes, time=time
        )
        data[ITEM].topic = torch.from_numpy(topic)
        data[ITEM].image = _images(streams[2], topic, num_topics, image_signal, image_size)
        data[ITEM].text = _texts(streams[3], topic, num_topics, text_signal)
        super().__init__(data, describe(data, duplicates=duplicates, notes=notes))


def _interactions(
    generator: np.random.Generator,
    topic: np.ndarray,
    num_users: int,
    num_interactions: int,
    num_topics: int,
    noise: float,
    popularity_skew: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (user, item) pairs, int64 ``[num_interactions]`` each, sorted by user."""
    num_items = len(topic)
    popularity = generator.permutation((1.0 + np.arange(num_items)) ** -popularity_skew)
    popularity /= popularity.sum()
    taste = generator.dirichlet(np.full(num_topics, _TASTE_CONCENTRATION), size=num_users)
    per_user = _activity(generator, num_users, num_items, num_interactions)
    items = []
    for start in range(0, num_users, _USER_BLOCK):
        liking = taste[start : start + _USER_BLOCK][:, topic] * popularity  # [block, num_items]
        total = liking.sum(axis=1, keepdims=True)
        # without items of the preferred topics, only popularity remains
        liking = np.where(total > 0, liking / np.where(total > 0, total, 1.0), popularity)
        chance = (1.0 - noise) * liking + noise * popularity
        # The largest values of log p + Gumbel noise are a sample from p without replacement.
        keys = np.log(np.maximum(chance, np.finfo(float).tiny))
        keys += generator.gumbel(size=chance.shape)
        ranked = np.argsort(-keys, axis=1)
        taken = np.arange(num_items) < per_user[start : start + _USER_BLOCK, None]
        items.append(ranked[taken])
    return np.repeat(np.arange(num_users), per_user), np.concatenate(items)


def _activity(
    generator: np.random.Generator, num_users: int, num_items: int, num_interactions: int
) -> np.ndarray:
    """Interactions per user, from 5 to the number of items, with sum ``num_interactions``."""
    weight = generator.lognormal(sigma=_ACTIVITY_SPREAD, size=num_users)
    per_user = np.full(num_users, MIN_PER_USER)
    while (left := num_interactions - per_user.sum()) > 0:
        open_weight = np.where(per_user < num_items, weight, 0.0)
        drawn = generator.multinomial(left, open_weight / open_weight.sum())
        per_user = np.minimum(per_user + drawn, num_items)
    return per_user


def _images(
    generator: np.random.Generator,
    topic: np.ndarray,
    num_topics: int,
    signal: float,
    size: int,
) -> torch.Tensor:
    """Striped images, uint8 ``[num_items, 3, size, size]``."""
    num_items = len(topic)
    of_topic = _styles(generator, num_topics)[topic]
    style = signal * of_topic + (1.0 - signal) * _styles(generator, num_items)
    first, second = style[:, 0:3, None, None], style[:, 3:6, None, None]
    width, angle = style[:, 6, None, None], style[:, 7, None, None]
    phase = generator.uniform(0.0, 2.0 * np.pi, size=(num_items, 1, 1))
    threshold = generator.uniform(-0.6, 0.6, size=(num_items, 1, 1))  # share of each colour
    y, x = np.mgrid[0:size, 0:size] * (2.0 * np.pi / size)
    wave = np.sin(width * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    image = np.where((wave > threshold)[:, None], first, second)  # [num_items, 3, size, size]
    image += generator.normal(scale=_BRIGHTNESS_JITTER, size=(num_items, 1, 1, 1))
    image += generator.normal(scale=_PIXEL_NOISE, size=image.shape)
    return torch.from_numpy(np.clip(np.round(image), 0, 255).astype(np.uint8))


def _styles(generator: np.random.Generator, count: int) -> np.ndarray:
    """Two RGB colours, stripes per image and angle: float64 ``[count, 8]``."""
    return np.concatenate(
        [
            generator.uniform(40.0, 215.0, size=(count, 6)),
            generator.uniform(1.5, 6.0, size=(count, 1)),
            generator.uniform(0.0, np.pi, size=(count, 1)),
        ],
        axis=1,
    )


def _texts(
    generator: np.random.Generator, topic: np.ndarray, num_topics: int, signal: float
) -> list[str]:
    """One text of about 16 words per item: some of its topic, the others common."""
    words = _vocabulary(generator, num_topics * _TOPIC_WORDS + _COMMON_WORDS)
    shape = (len(topic), _WORDS_PER_ITEM)
    own = generator.random(shape) < signal
    word_topic = np.where(own, topic[:, None], generator.integers(num_topics, size=shape))
    topical = word_topic * _TOPIC_WORDS + generator.integers(_TOPIC_WORDS, size=shape)
    frequency = 1.0 / (1.0 + np.arange(_COMMON_WORDS))  # Zipf's law
    common = generator.choice(_COMMON_WORDS, size=shape, p=frequency / frequency.sum())
    is_topical = generator.random(shape) < _TOPIC_WORD_SHARE
    chosen = np.where(is_topical, topical, num_topics * _TOPIC_WORDS + common)
    length = generator.integers(_WORDS_PER_ITEM * 3 // 4, _WORDS_PER_ITEM + 1, size=len(topic))
    return [" ".join(words[row[:stop]]) for row, stop in zip(chosen, length, strict=True)]


def _vocabulary(generator: np.random.Generator, count: int) -> np.ndarray:
    """Distinct random words of three syllables, ``[count]``."""
    syllables = np.array([c + v for c in "bdfgklmnprstvz" for v in "aeiou"], dtype=object)
    base = len(syllables)
    code = generator.choice(base**3, size=count, replace=False)
    first, second, third = code // base**2, code // base % base, code % base
    return np.asarray(syllables[first] + syllables[second] + syllables[third])
