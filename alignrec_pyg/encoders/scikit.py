"""Encoders from scikit-learn, which need no download: they are fitted on the catalogue itself.

They are weaker than pre-trained encoders, but work on any machine without a download, and in any
language.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import PIL
import sklearn
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer
from torch import Tensor

from alignrec_pyg.checks import check_choice, check_integer
from alignrec_pyg.encoders.base import DEFAULT_DIM, ItemContent, stacked_pixels
from alignrec_pyg.encoders.cache_keys import state_hash

_WIDEST = 16_384  # numbers in a row: tables are dense
_SHARED = 0.05  # share of terms in more than one text, below which texts are hardly alike
_TEXTS_TO_JUDGE = 20
_ANALYZERS = ("word", "char", "char_wb")


class SklearnEncoder:
    """Texts or images by any transformer of scikit-learn, fitted to the catalogue.

    The pipeline gets a list of texts, or an array of images: resized to squares, flattened, values
    in [0, 1], float32 ``[n, 3 * image_size**2]``. Items without this modality are left out, and
    get a zero row. Rows are what the pipeline makes of them; a
    ``Normalizer`` at its end gives them length 1.

    Where the terms of a vectoriser hardly repeat, so that few texts are alike, a warning says so
    and what to do; it is in the attribute ``notes`` and in the report of
    :class:`~alignrec_pyg.transforms.EncodeItems`, too.

    Args:
        pipeline: A transformer, or a ``Pipeline``. It is copied, and the copy is fitted anew by
            each ``fit``; one that is fitted already and is to stay so goes into scikit-learn's
            ``FrozenEstimator``.
        modality: What it reads, ``"text"`` or ``"image"``.
        image_size: Side in pixels of the squares that images are resized to.
        version: Your part of the cache key, to be changed together with what the key does not
            cover: what a function in the pipeline takes from elsewhere, such as a dictionary or a
            package (see :func:`state_hash`).
        seed: ``random_state`` of all steps that have none, so that the same rows come again.

    Attributes:
        out_dim: Width of a row, 0 until it is fitted: the pipeline decides it.

    Raises:
        ValueError: If an argument is out of range, or ``pipeline`` is no transformer; by ``fit``,
            if no item has this modality, or the pipeline cannot be fitted to those that have it, or
            rows are wider than 16,384 numbers.

    Example:
        >>> from sklearn.decomposition import TruncatedSVD
        >>> from sklearn.feature_extraction.text import TfidfVectorizer
        >>> from sklearn.pipeline import make_pipeline
        >>> from alignrec_pyg.encoders import ItemContent, SklearnEncoder
        >>> stop_words = ["der", "die", "das"]
        >>> pipeline = make_pipeline(TfidfVectorizer(stop_words=stop_words), TruncatedSVD(2))
        >>> encoder = SklearnEncoder(pipeline, "text")
        >>> items = ItemContent(text=["die rote Tasse", "die blaue Tasse", "das rote Haus", None])
        >>> encoder.fit(items)
        >>> encoder(items).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        pipeline: BaseEstimator,
        modality: str,
        *,
        image_size: int = 32,
        version: str = "",
        seed: int = 0,
    ) -> None:
        check_choice("modality", modality, ("text", "image"))
        if isinstance(pipeline, type) or not all(
            callable(getattr(pipeline, name, None)) for name in ("fit", "transform", "get_params")
        ):
            raise ValueError(
                "'pipeline' needs to be a transformer of scikit-learn, with 'fit' and 'transform' "
                f"(got {pipeline!r})"
            )
        self.pipeline = clone(pipeline)
        settings = self.pipeline.get_params()
        open_seeds = [n for n in settings if n.split("__")[-1] == "random_state"]
        self.pipeline.set_params(**{n: seed for n in open_seeds if settings[n] is None})
        self.modality = modality
        self.image_size = check_integer("image_size", image_size, 1)
        self.version = version
        self.out_dim = 0
        self.notes: tuple[str, ...] = ()
        self._fitted: Any = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The one that it reads."""
        return (self.modality,)

    @property
    def cache_key(self) -> str:
        """Parameters, versions and what was learned."""
        learned = "" if self._fitted is None else f", {state_hash(self._fitted)}"
        return f"{self.arguments_key}{learned}"

    @property
    def arguments_key(self) -> str:
        """Parameters and versions."""
        pixels = f", {self.image_size} pixels by Pillow {PIL.__version__}"
        return (
            f"scikit-learn {sklearn.__version__} {state_hash(self.pipeline)} {self.modality} "
            f"{self.version!r}{pixels if self.modality == 'image' else ''}"
        )

    def fit(self, items: ItemContent) -> None:
        """Fits a copy of the pipeline to the items that have the modality."""
        content = self._content(items, self._present(items))
        if not len(content):
            raise ValueError(f"'items' needs at least one {self.modality} (got none)")
        terms = _TermStatistics()
        fitted = _counted(clone(self.pipeline), terms)
        try:
            fitted.fit(content, None)  # which a FrozenEstimator asks for
            width = _dense(fitted.transform(content[:1])).shape[1]
        except ValueError as error:
            raise ValueError(
                f"{self!r} cannot be fitted to {len(content)} {self.modality}s: {error}"
            ) from error
        if width > _WIDEST:
            raise ValueError(
                f"'pipeline' needs to make rows of {_WIDEST:,} numbers or fewer (got {width:,}): "
                "end it with a reduction such as TruncatedSVD(64)"
            )
        self._fitted, self.out_dim, self.notes = fitted, width, terms.notes()
        for note in self.notes:
            warnings.warn(note, stacklevel=2)

    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``; zero without the modality."""
        if self._fitted is None:
            raise ValueError(f"'{type(self).__name__}' needs to be fitted first: call fit(items)")
        rows = torch.zeros(len(items), self.out_dim)
        present = self._present(items)
        if present.any():
            made = self._fitted.transform(self._content(items, present))
            rows[present] = torch.from_numpy(_dense(made))
        return rows

    def _present(self, items: ItemContent) -> Tensor:
        if getattr(items, self.modality) is None:
            raise ValueError(f"'items' needs {self.modality}s (got none)")
        return items.has(self.modality)

    def _content(self, items: ItemContent, present: Tensor) -> list[str] | NDArray[np.float32]:
        """What the pipeline gets of the items that have the modality."""
        chosen = items.select(present.nonzero()[:, 0].tolist())
        if self.modality == "text":
            return [text or "" for text in chosen.text or ()]
        if not len(chosen):
            return []
        pixels = stacked_pixels(chosen, self.image_size)
        return (pixels.flatten(1).float() / 255).numpy()

    def __repr__(self) -> str:
        pipeline = " ".join(repr(self.pipeline).split())
        return f"{self.__class__.__name__}({pipeline}, '{self.modality}')"


class TfidfEncoder(SklearnEncoder):
    """Texts as TF-IDF vectors reduced by a truncated SVD (latent semantic analysis), length 1.

    A preset of :class:`SklearnEncoder`: a sublinear ``TfidfVectorizer``, ``TruncatedSVD`` and
    ``Normalizer``.

    Args:
        out_dim: Width of a row, below the number of texts and of distinct terms; by default 64, or
            less where these are fewer.
        analyzer: What a term is: ``"word"`` (without English stop words), ``"char"`` for languages
            without blanks between words, such as Chinese, Japanese and Thai, ``"char_wb"``
            (characters within words), or a function from a text to its terms.
        ngram_range: Fewest and most words or characters in a row that make a term; by default
            (1, 1) of words and (1, 3) of characters.
        min_df: Texts that a term needs to occur in.
        seed: Seed of the randomised SVD.

    Raises:
        ValueError: If an argument is out of range; by ``fit``, if the texts are too few or too
            poor for ``out_dim``.

    Example:
        >>> from alignrec_pyg.encoders import ItemContent, TfidfEncoder
        >>> items = ItemContent(text=["red cup", "blue cup", "red tea", "green tea", None])
        >>> encoder = TfidfEncoder(2)
        >>> encoder.fit(items)
        >>> encoder(items).shape
        torch.Size([5, 2])
        >>> encoder(items)[4]
        tensor([0., 0.])
    """

    def __init__(
        self,
        out_dim: int | None = None,
        *,
        analyzer: str | Callable[[str], Iterable[str]] = "word",
        ngram_range: tuple[int, int] | None = None,
        min_df: int = 1,
        seed: int = 0,
    ) -> None:
        asked = DEFAULT_DIM if out_dim is None else check_integer("out_dim", out_dim, 1)
        if not callable(analyzer):
            check_choice("analyzer", analyzer, _ANALYZERS)
        if ngram_range is None:
            ngram_range = (1, 3) if analyzer in ("char", "char_wb") else (1, 1)
        shortest = check_integer("ngram_range", ngram_range[0], 1)
        longest = check_integer("ngram_range", ngram_range[1], shortest)
        vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            analyzer=analyzer,
            ngram_range=(shortest, longest),
            min_df=check_integer("min_df", min_df, 1),
            stop_words="english" if analyzer == "word" else None,
        )
        pipeline = make_pipeline(vectorizer, _ReducedTerms(asked, out_dim is None), Normalizer())
        super().__init__(pipeline, "text", seed=seed)
        self.out_dim = asked

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(out_dim={self.out_dim})"


class _ReducedTerms(TransformerMixin, BaseEstimator):
    """A truncated SVD that takes at most as many directions as the texts have, or says how many."""

    def __init__(self, out_dim: int, is_lowered: bool, random_state: int | None = None) -> None:
        self.out_dim = out_dim
        self.is_lowered = is_lowered
        self.random_state = random_state

    def fit(self, terms: csr_matrix, y: None = None) -> _ReducedTerms:
        """Learns the directions."""
        num_texts, num_terms = terms.shape
        limit = min(num_texts, num_terms) - 1
        out_dim = min(self.out_dim, max(limit, 1)) if self.is_lowered else self.out_dim
        if out_dim > limit:
            raise ValueError(
                f"'out_dim' needs to be in [1, {limit}] for {num_texts} texts with {num_terms} "
                f"terms (got {out_dim}): lower it"
            )
        self.svd_ = TruncatedSVD(out_dim, random_state=self.random_state).fit(terms)
        return self

    def transform(self, terms: csr_matrix) -> NDArray[np.float64]:
        """Projects texts onto the directions."""
        return self.svd_.transform(terms)


class _TermStatistics(TransformerMixin, BaseEstimator):
    """Passes on the output of a vectoriser, and counts the terms that texts have in common."""

    def fit(self, terms: csr_matrix, y: None = None) -> _TermStatistics:
        """Counts."""
        self.num_texts_, self.num_terms_ = terms.shape
        self.num_shared_ = int((terms.getnnz(axis=0) > 1).sum())
        return self

    def transform(self, terms: csr_matrix) -> csr_matrix:
        """Changes nothing."""
        return terms

    def notes(self) -> tuple[str, ...]:
        """A note if terms hardly repeat."""
        few = getattr(self, "num_texts_", 0) >= _TEXTS_TO_JUDGE
        if not few or self.num_shared_ >= _SHARED * self.num_terms_:
            return ()
        return (
            f"ATTENTION: only {self.num_shared_:,} of {self.num_terms_:,} terms occur in more than "
            "one text, so that few texts are alike. If the language has no blanks between words, "
            "use character n-grams, TfidfEncoder(analyzer='char') ('tfidf_char' on the command "
            "line), or a multilingual sentence transformer",
        )


def _dense(rows: Any) -> NDArray[np.float32]:
    return (rows.toarray() if issparse(rows) else np.asarray(rows)).astype(np.float32)


def _counted(pipeline: Any, terms: _TermStatistics) -> Any:
    """The pipeline with ``terms`` behind its vectoriser, if it begins with one."""
    steps = pipeline.steps if isinstance(pipeline, Pipeline) else [("vectorizer", pipeline)]
    if not isinstance(steps[0][1], CountVectorizer):
        return pipeline
    return Pipeline([steps[0], ("term statistics", terms), *steps[1:]])
