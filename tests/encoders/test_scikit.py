from __future__ import annotations

import math

import numpy as np
import PIL
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders import (
    FittedItemEncoder,
    ItemContent,
    PatchPCAEncoder,
    SklearnEncoder,
    TfidfEncoder,
    resize_square,
)
from alignrec_pyg.transforms import EncodeItems

TOPICS = ["apple pear plum fig", "wheel brake gear pedal", "violin cello flute oboe"]


def texts(n=60, seed=0):
    """Three topics in turn, three of four words each."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.permutation(TOPICS[row % 3].split())[:3]) for row in range(n)]


def images(n=60, seed=0):
    """Three colours in turn, with noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, size=(n, 3, 8, 8))
    for row in range(n):
        pixels[row, row % 3] += 150
    return torch.from_numpy(pixels.astype(np.uint8))


ENCODERS = [
    (lambda **kwargs: TfidfEncoder(4, **kwargs), lambda n=60: ItemContent(text=texts(n))),
    (
        lambda **kwargs: PatchPCAEncoder(4, patch_size=4, patch_dim=6, **kwargs),
        lambda n=60: ItemContent(image=images(n)),
    ),
]


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_topics_are_told_apart(make, content):
    encoder = make()
    encoder.fit(content())
    rows = encoder(content())
    assert rows.shape == (60, encoder.out_dim)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    unit = torch.nn.functional.normalize(rows)
    cosine = unit @ unit.T
    same = torch.arange(60).remainder(3).unsqueeze(0) == torch.arange(60).remainder(3).unsqueeze(1)
    assert cosine[same].mean() > cosine[~same].mean() + 0.3


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_deterministic_and_free_of_global_randomness(make, content):
    encoder, again = make(seed=3), make(seed=3)
    np.random.seed(0)  # noqa: NPY002 the global generator is what must not matter
    encoder.fit(content())
    np.random.seed(1)  # noqa: NPY002
    again.fit(content())
    assert torch.equal(encoder(content()), again(content()))
    assert encoder.cache_key == again.cache_key


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_cache_key_changes_with_arguments_and_what_was_learned(make, content):
    encoder = make()
    keys = {encoder.cache_key, make(seed=1).cache_key}
    encoder.fit(content(60))
    keys.add(encoder.cache_key)
    encoder.fit(content(30))
    keys.add(encoder.cache_key)
    assert len(keys) == 4


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_rows_do_not_depend_on_the_batch(make, content):
    encoder = make()
    encoder.fit(content())
    whole = encoder(content())
    parts = torch.cat([encoder(content().select(range(s, s + 7))) for s in range(0, 56, 7)])
    torch.testing.assert_close(parts, whole[:56])


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_rows_have_length_1(make, content):
    encoder = make()
    encoder.fit(content())
    torch.testing.assert_close(encoder(content()).norm(dim=1), torch.ones(60))


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_needs_fitting(make, content):
    with pytest.raises(ValueError, match="needs to be fitted first"):
        make()(content())


def test_missing_content_gives_zero_rows():
    encoder = TfidfEncoder(4)
    encoder.fit(ItemContent(text=[*texts(), None, "  "]))
    rows = encoder(ItemContent(text=[None, "apple pear", "", "the unknownword", "\ud800 🍐"]))
    assert [bool(row.any()) for row in rows] == [False, True, False, False, False]

    encoder = PatchPCAEncoder(4, patch_size=4, patch_dim=6)
    encoder.fit(ItemContent(image=[*images(), None]))
    rows = encoder(ItemContent(image=[None, images()[0]]))
    assert not rows[0].any()
    assert rows[1].any()
    assert not encoder(ItemContent(image=[None])).any()


def test_words_weigh_by_the_logarithm_of_their_count_and_by_their_rarity():
    """Without a direction left out, cosines are those of the TF-IDF vectors."""
    counts = np.array([[1, 0, 0, 0], [9, 1, 0, 0], [2, 0, 3, 3], [0, 5, 1, 1], [0, 0, 1, 1]])
    words = ["apple", "wheel", "violin", "oboe"]  # the last two together: three directions in all
    content = ItemContent(text=[" ".join(np.repeat(words, row)) for row in counts])
    encoder = TfidfEncoder(3)
    encoder.fit(content)
    idf = [math.log(6 / (1 + (column > 0).sum())) + 1 for column in counts.T]
    expected = [
        [(1 + math.log(n)) * w if n else 0.0 for n, w in zip(row, idf, strict=True)]
        for row in counts
    ]
    unit = torch.nn.functional.normalize(torch.tensor(expected))
    rows = encoder(content)
    torch.testing.assert_close(rows @ rows.T, unit @ unit.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("make", "content"), ENCODERS)
def test_arguments_key_does_not_change_with_what_was_learned(make, content):
    encoder = make()
    before = encoder.arguments_key
    assert before == encoder.cache_key
    encoder.fit(content())
    assert encoder.arguments_key == before != encoder.cache_key
    assert make(seed=1).arguments_key != before


def test_too_wide_for_the_content():
    with pytest.raises(
        ValueError, match=r"'out_dim' needs to be in \[1, 11\] for 60 texts with 12"
    ):
        TfidfEncoder(12).fit(ItemContent(text=texts()))
    with pytest.raises(ValueError, match=r"'out_dim' needs to be in \[1, 8\] for 60 images of 4"):
        PatchPCAEncoder(9, patch_size=4, patch_dim=2).fit(ItemContent(image=images()))
    with pytest.raises(ValueError, match=r"'patch_dim' needs to be in \[1, 2\] for 2 patches"):
        PatchPCAEncoder(1, patch_size=8).fit(ItemContent(image=images(2)))
    with pytest.raises(ValueError, match=r"'patch_dim' needs to be in \[1, 12\]"):
        PatchPCAEncoder(patch_size=2, patch_dim=13)


@pytest.mark.parametrize("given", [[None, ""], []])
def test_no_texts(given):
    with pytest.raises(ValueError, match=r"'items' needs at least one text \(got none\)"):
        TfidfEncoder(1).fit(ItemContent(text=given))


def test_texts_without_words():
    with pytest.raises(ValueError, match=r"cannot be fitted to 3 texts: empty vocabulary"):
        TfidfEncoder(1).fit(ItemContent(text=["the of and"] * 3))


@pytest.mark.parametrize("make", [TfidfEncoder, PatchPCAEncoder])
def test_rejects_arguments(make):
    with pytest.raises(ValueError, match="'out_dim' needs to be 1 or more"):
        make(0)
    assert repr(make(8)).startswith(f"{make.__name__}(out_dim=8")


def test_terms_that_hardly_repeat_are_told():
    """Titles of a language without blanks are one term each."""
    signs = [chr(0x4E00 + number) for number in range(120)]
    titles = ["".join(signs[(7 * n + 11 * k) % 120] for k in range(6)) for n in range(60)]
    encoder = TfidfEncoder(4)
    with pytest.warns(UserWarning, match=r"use character n-grams, TfidfEncoder\(analyzer='char'\)"):
        encoder.fit(ItemContent(text=titles))
    (note,) = encoder.notes
    assert note.startswith("ATTENTION: only 0 of 60 terms occur in more than one text")
    words = ["red", "blue", "cup", "tea", "lamp"]
    texts = [f"{words[n % 5]} {words[(n + n // 5) % 5]}" for n in range(25)]
    encoder.fit(ItemContent(text=texts))
    assert encoder.notes == ()


CHINESE = ["红茶绿茶花茶茶壶", "跑鞋球鞋布鞋凉鞋", "台灯吊灯壁灯夜灯", "毛衣棉衣风衣睡衣"]


def titles_without_blanks(n=160):
    """Titles of four topics in turn: two words of two signs each, and a model number between."""
    rng = np.random.default_rng(0)
    words = [[topic[start : start + 2] for start in range(0, 8, 2)] for topic in CHINESE]
    picked = [rng.permutation(words[row % 4])[:2] for row in range(n)]
    return [f"{first}{rng.integers(1000, 9999)}{second}" for first, second in picked]


def share_of_neighbors_of_the_topic(encoder, content):
    encoder.fit(content)
    rows = encoder(content)
    nearest = (rows @ rows.T - 2 * torch.eye(len(rows))).argmax(dim=1)
    return float((nearest % 4 == torch.arange(len(rows)) % 4).float().mean())


def test_characters_read_a_language_without_blanks():
    content = ItemContent(text=titles_without_blanks())
    with pytest.warns(UserWarning, match="terms occur in more than one text"):
        by_words = share_of_neighbors_of_the_topic(TfidfEncoder(8), content)
    by_characters = share_of_neighbors_of_the_topic(TfidfEncoder(8, analyzer="char"), content)
    assert by_words < 0.4  # one in four by chance
    assert by_characters > 0.95


def test_tfidf_is_a_preset():
    content = ItemContent(text=[*texts(), None, " "])
    preset = TfidfEncoder(4, analyzer="char_wb", ngram_range=(2, 3), min_df=2, seed=5)
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 3), min_df=2
    )
    written = SklearnEncoder(
        make_pipeline(vectorizer, TruncatedSVD(4, random_state=5), Normalizer()), "text"
    )
    preset.fit(content)
    written.fit(content)
    assert written.out_dim == 4
    assert torch.equal(preset(content), written(content))
    assert TfidfEncoder(4, analyzer="char").pipeline[0].ngram_range == (1, 3)
    by_function = TfidfEncoder(4, analyzer=str.split)
    by_function.fit(content)
    assert by_function(content).any(dim=1).tolist() == [True] * 60 + [False] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"analyzer": "words"}, r"'analyzer' needs to be one of \('word', 'char', 'char_wb'\)"),
        ({"ngram_range": (2, 1)}, r"'ngram_range' needs to be 2 or more \(got 1\)"),
        ({"ngram_range": (0, 1)}, r"'ngram_range' needs to be 1 or more \(got 0\)"),
        ({"min_df": 0}, r"'min_df' needs to be 1 or more"),
    ],
)
def test_tfidf_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        TfidfEncoder(4, **arguments)


class Lengths(TransformerMixin, BaseEstimator):
    """A transformer of one's own."""

    def fit(self, rows, y=None):
        self.seen_ = len(rows)
        return self

    def transform(self, rows):
        return [[len(row), self.seen_] for row in rows]


def test_any_transformer_reads_the_items_that_have_the_modality():
    own = SklearnEncoder(Lengths(), "text")
    assert isinstance(own, FittedItemEncoder)
    content = ItemContent(text=["abc", None, "a", " "])
    own.fit(content)
    assert own(content).tolist() == [[3, 2], [0, 0], [1, 2], [0, 0]]
    assert (own.out_dim, own.modalities) == (2, ("text",))
    assert not own(ItemContent(text=[None])).any()
    with pytest.raises(ValueError, match=r"'items' needs texts \(got none\)"):
        own(ItemContent(image=images(2)))


def test_images_are_rows_of_pixels_in_squares():
    photos = [resize_square(image, 20)[:, :, : 9 + n] for n, image in enumerate(images(6))]
    encoder = SklearnEncoder(FunctionTransformer(), "image", image_size=4)
    encoder.fit(ItemContent(image=[*photos, None]))
    expected = [resize_square(photo, 4).flatten().float() / 255 for photo in photos]
    rows = encoder(ItemContent(image=[None, *photos]))
    assert torch.equal(rows, torch.stack([torch.zeros(48), *expected]))
    assert f"Pillow {PIL.__version__}" in encoder.cache_key
    with pytest.raises(ValueError, match="at least one image"):
        encoder.fit(ItemContent(image=[None]))


def test_the_pipeline_given_is_copied_and_fitted_anew():
    given = make_pipeline(CountVectorizer(), TruncatedSVD(2))
    encoder = SklearnEncoder(given, "text", seed=3)
    encoder.fit(ItemContent(text=texts(30)))
    first = encoder(ItemContent(text=texts(30)))
    encoder.fit(ItemContent(text=["entirely other words", "and more words here", "more"]))
    encoder.fit(ItemContent(text=texts(30)))
    assert torch.equal(encoder(ItemContent(text=texts(30))), first)
    assert not hasattr(given[0], "vocabulary_")
    assert given[1].random_state is None  # ours has the seed
    assert encoder.pipeline[1].random_state == 3


def test_a_fitted_transformer_stays_as_it_is():
    frozen = pytest.importorskip("sklearn.frozen")  # of scikit-learn 1.6
    vectorizer = CountVectorizer().fit(["apple pear", "pear plum"])
    encoder = SklearnEncoder(frozen.FrozenEstimator(vectorizer), "text")
    content = ItemContent(text=["plum plum wheel"])
    encoder.fit(content)
    assert encoder(content).tolist() == [[0, 0, 2]]
    other = SklearnEncoder(frozen.FrozenEstimator(CountVectorizer().fit(["apple"])), "text")
    assert encoder.arguments_key != other.arguments_key


def test_the_key_follows_parameters_functions_and_versions():
    def pipeline(words):
        return CountVectorizer(analyzer=words, max_features=9)

    keys = [
        SklearnEncoder(pipeline(str.split), "text").arguments_key,
        SklearnEncoder(pipeline(lambda text: text.split()), "text").arguments_key,
        SklearnEncoder(pipeline(lambda text: text.split("-")), "text").arguments_key,
        SklearnEncoder(pipeline(str.split), "text", version="jieba 0.42").arguments_key,
        SklearnEncoder(pipeline(str.split), "image").arguments_key,
        SklearnEncoder(pipeline(str.split), "image", image_size=8).arguments_key,
        SklearnEncoder(CountVectorizer(analyzer=str.split), "text").arguments_key,
    ]
    assert len(set(keys)) == len(keys)
    assert SklearnEncoder(pipeline(lambda text: text.split()), "text").arguments_key == keys[1]


def test_the_key_holds_no_address():
    """Another process would never find it again."""
    encoder = TfidfEncoder(2)
    encoder.fit(ItemContent(text=["red cup", "blue cup", "red tea", "green tea"]))
    key = encoder.cache_key
    encoder._fitted[0]._stop_words_id += 1  # by which scikit-learn knows a list again
    assert encoder.cache_key == key
    encoder._fitted[0].vocabulary_["cup"] += 1
    assert encoder.cache_key != key


@pytest.mark.parametrize("pipeline", [CountVectorizer, "tfidf", LinearRegression()])
def test_what_is_no_transformer_is_refused(pipeline):
    with pytest.raises(ValueError, match="'pipeline' needs to be a transformer"):
        SklearnEncoder(pipeline, "text")


def test_modality_and_width_are_checked():
    with pytest.raises(ValueError, match=r"'modality' needs to be one of \('text', 'image'\)"):
        SklearnEncoder(CountVectorizer(), "audio")
    with pytest.raises(ValueError, match=r"16,384 numbers or fewer \(got 1,048,576\): end it with"):
        SklearnEncoder(HashingVectorizer(), "text").fit(ItemContent(text=["a b"]))


def test_a_catalogue_is_encoded_from_the_cache(tmp_path):
    """Before it is fitted its width is not known."""
    data = HeteroData()
    data["item"].num_nodes = 30
    data["item"].text = texts(30)
    used, fresh = (
        SklearnEncoder(make_pipeline(CountVectorizer(), TruncatedSVD(2)), "text") for _ in range(2)
    )
    for encoder, cached in ((used, 0), (used, 30), (fresh, 30)):
        encode = EncodeItems(encoder, "text", cache_dir=tmp_path)
        assert encode(data)["item"].x_text.shape == (30, 2)
        assert encode.report.cached == cached
