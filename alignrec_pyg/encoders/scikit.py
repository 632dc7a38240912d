"""Encoders that need no download: classic text and image features from scikit-learn.

They are fitted on the catalogue itself and are no match for pre-trained encoders; they make whole
runs possible on any machine. Rows have length 1, so that tables of several encoders weigh alike
where a model concatenates them as they are.
"""

from __future__ import annotations

import hashlib

import numpy as np
import PIL
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from torch import Tensor

from alignrec_pyg.checks import check_integer
from alignrec_pyg.encoders.base import ItemContent
from alignrec_pyg.encoders.images import image_patches, read_image, resize_square

DEFAULT_DIM = 64
"""Width of a row where none is given and the content is rich enough."""

_SHARED = 0.05  # share of terms in more than one text, below which texts are hardly alike
_TEXTS_TO_JUDGE = 20
_PATCHES_TO_FIT = 20_000  # enough for the few directions of small patches, whatever the catalogue


class TfidfEncoder:
    """Texts as TF-IDF vectors reduced by a truncated SVD (latent semantic analysis), length 1.

    Args:
        out_dim: Width of a row, below the number of texts and of distinct terms; by default 64, or
            less where these are fewer.
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

    modalities = ("text",)

    def __init__(self, out_dim: int | None = None, *, min_df: int = 1, seed: int = 0) -> None:
        self.out_dim = DEFAULT_DIM if out_dim is None else check_integer("out_dim", out_dim, 1)
        self._is_lowered = out_dim is None
        self.min_df = check_integer("min_df", min_df, 1)
        self.seed = seed
        self.notes: tuple[str, ...] = ()
        self._vectorizer: TfidfVectorizer | None = None
        self._svd: TruncatedSVD | None = None

    @property
    def cache_key(self) -> str:
        """Arguments, library version and what was learned."""
        learned = [] if self._svd is None else [self._svd.components_]
        return _cache_key(self._arguments(), *learned)

    @property
    def arguments_key(self) -> str:
        """Arguments and library version."""
        return _cache_key(self._arguments())

    def fit(self, items: ItemContent) -> None:
        """Learns vocabulary and directions from the texts of ``items``."""
        texts = [text for text in _texts(items) if text.strip()]
        vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=self.min_df, stop_words="english")
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise ValueError(
                f"'items' needs texts with words that are no stop words, {self.min_df} texts or "
                f"more for a word (got {len(texts)} texts without one)"
            ) from error
        num_texts, num_terms = counts.shape
        shared = int((counts.getnnz(axis=0) > 1).sum())
        self.notes = ()
        if num_texts >= _TEXTS_TO_JUDGE and shared < _SHARED * num_terms:
            self.notes = (
                f"ATTENTION: only {shared:,} of {num_terms:,} terms occur in more than one text, "
                "so that few texts are alike: is this a language without blanks between words? A "
                "sentence transformer reads it",
            )
        limit = min(num_texts, num_terms) - 1
        if self._is_lowered and limit:
            self.out_dim = min(DEFAULT_DIM, limit)
        if self.out_dim > limit:
            raise ValueError(
                f"'out_dim' needs to be in [1, {limit}] for {counts.shape[0]} texts with "
                f"{counts.shape[1]} terms (got {self.out_dim}): lower it"
            )
        self._svd = TruncatedSVD(self.out_dim, random_state=self.seed).fit(counts)
        self._vectorizer = vectorizer

    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``; zero without any known term."""
        if self._vectorizer is None or self._svd is None:
            raise ValueError("'TfidfEncoder' needs to be fitted first: call fit(items)")
        rows = self._svd.transform(self._vectorizer.transform(_texts(items)))
        return torch.from_numpy(normalize(rows).astype(np.float32))

    def _arguments(self) -> str:
        return f"tfidf {self.out_dim} {self.min_df} {self.seed}"

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(out_dim={self.out_dim})"


class PatchPCAEncoder:
    """Images as principal components of their patches' principal components.

    Each image is cut into square patches. A first PCA encodes each patch, a second one the
    concatenated codes of an image's patches; rows are scaled to length 1. Images need to be of one
    size, unless ``image_size`` resizes them.

    Args:
        out_dim: Width of a row, at most the number of images and of codes in an image; by default
            64, or less where these are fewer.
        patch_size: Side of a patch in pixels; height and width are multiples of it.
        patch_dim: Number of components of a patch, at most ``3 * patch_size**2``.
        image_size: Side in pixels of the square that images are resized to first, a multiple of
            ``patch_size``; ``None`` does not resize them.
        seed: Seed of the sample of patches and of the randomised PCA.

    Raises:
        ValueError: If an argument is out of range; by ``fit``, if the images are too few or too
            small for ``out_dim``, of another shape or type, or cannot be read.
    """

    modalities = ("image",)

    def __init__(
        self,
        out_dim: int | None = None,
        *,
        patch_size: int = 8,
        patch_dim: int = 16,
        image_size: int | None = None,
        seed: int = 0,
    ) -> None:
        self.out_dim = DEFAULT_DIM if out_dim is None else check_integer("out_dim", out_dim, 1)
        self._is_lowered = out_dim is None
        check_integer("patch_size", patch_size, 1)
        check_integer("patch_dim", patch_dim, 1, 3 * patch_size**2, hint=f" for {patch_size=}")
        if image_size is not None:
            check_integer("image_size", image_size, 1)
            if image_size % patch_size:
                raise ValueError(
                    f"'image_size' needs to be a multiple of patch_size={patch_size} "
                    f"(got {image_size})"
                )
        self.patch_size = patch_size
        self.patch_dim = patch_dim
        self.image_size = image_size
        self.seed = seed
        self._patch_pca: PCA | None = None
        self._image_pca: PCA | None = None

    @property
    def cache_key(self) -> str:
        """Arguments, library version and what was learned."""
        learned = []
        for pca in (self._patch_pca, self._image_pca):
            learned += [] if pca is None else [pca.mean_, pca.components_]
        return _cache_key(self._arguments(), *learned)

    @property
    def arguments_key(self) -> str:
        """Arguments and library version."""
        return _cache_key(self._arguments())

    def fit(self, items: ItemContent) -> None:
        """Learns both bases from the images of ``items``."""
        present = items.has("image").nonzero()[:, 0].tolist()
        if not present:
            raise ValueError("'items' needs at least one image (got none)")
        patches = self._patches(items.select(present))
        num_images, num_patches, _ = patches.shape
        limit = min(num_images, num_patches * self.patch_dim)
        if self._is_lowered:
            self.out_dim = min(DEFAULT_DIM, limit)
        if self.out_dim > limit:
            raise ValueError(
                f"'out_dim' needs to be in [1, {limit}] for {num_images} images of {num_patches} "
                f"patches with {self.patch_dim} components (got {self.out_dim}): lower it"
            )
        flat = patches.reshape(num_images * num_patches, -1)
        if len(flat) < self.patch_dim:
            raise ValueError(
                f"'patch_dim' needs to be in [1, {len(flat)}] for {len(flat)} patches in all "
                f"(got {self.patch_dim}): lower it"
            )
        if len(flat) > _PATCHES_TO_FIT:
            draw = np.random.default_rng(self.seed).permutation(len(flat))[:_PATCHES_TO_FIT]
            flat = flat[np.sort(draw)]
        # PCA divides by the total variance, which is zero if all images are alike.
        with np.errstate(invalid="ignore", divide="ignore"):
            self._patch_pca = PCA(self.patch_dim, random_state=self.seed).fit(flat)
            codes = self._codes(self._patch_pca, patches)
            self._image_pca = PCA(self.out_dim, random_state=self.seed).fit(codes)

    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``; zero without an image."""
        if self._patch_pca is None or self._image_pca is None:
            raise ValueError("'PatchPCAEncoder' needs to be fitted first: call fit(items)")
        rows = torch.zeros(len(items), self.out_dim)
        present = items.has("image").nonzero()[:, 0]
        if present.numel():
            patches = self._patches(items.select(present.tolist()))
            codes = self._codes(self._patch_pca, patches)
            if codes.shape[1] != self._image_pca.n_features_in_:
                raise ValueError(
                    "'image' needs the size of the images that the encoder was fitted on "
                    f"(got {len(patches[0])} patches of {self.patch_size} x {self.patch_size})"
                )
            encoded = normalize(self._image_pca.transform(codes))
            rows[present] = torch.from_numpy(encoded.astype(np.float32))
        return rows

    def _patches(self, items: ItemContent) -> NDArray[np.float32]:
        """Patches with values in [0, 1], ``[len, patches, 3 * patch_size**2]``."""
        images = _pixels(items, self.image_size)
        side = self.patch_size
        height, width = images.shape[2:]
        if height % side or width % side or height == 0 or width == 0:
            raise ValueError(
                f"'image' needs height and width that are multiples of patch_size={side} "
                f"(got {height} x {width}): resize the images, or choose another patch_size"
            )
        return (image_patches(images, side).float() / 255).numpy()

    def _codes(self, patch_pca: PCA, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Codes of the patches of each image, side by side, ``[n, patches * patch_dim]``."""
        codes = patch_pca.transform(patches.reshape(-1, patches.shape[-1]))
        return codes.reshape(len(patches), -1)

    def _arguments(self) -> str:
        arguments = f"patch-pca {self.out_dim} {self.patch_size} {self.patch_dim} {self.seed}"
        if self.image_size is None:
            return arguments
        return f"{arguments}, resized to {self.image_size} by Pillow {PIL.__version__}"

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(out_dim={self.out_dim}, patch_size={self.patch_size})"


def _texts(items: ItemContent) -> list[str]:
    if items.text is None:
        raise ValueError("'items' needs texts (got images only)")
    return [text or "" for text in items.text]


def _pixels(items: ItemContent, image_size: int | None) -> Tensor:
    """All images as one tensor, uint8 ``[len, 3, H, W]``; none of them may be missing."""
    images = items.image
    if not isinstance(images, Tensor) or image_size is not None:
        pixels = []
        for image in () if images is None else images:
            if image is not None:  # one at a time: files may hold far larger images
                rgb = read_image(image)
                pixels.append(rgb if image_size is None else resize_square(rgb, image_size))
        shapes = {tuple(image.shape) for image in pixels}
        if len(shapes) != 1:
            raise ValueError(
                f"'image' needs images of one size (got shapes {sorted(shapes)[:5]}): choose an "
                "'image_size'"
            )
        images = torch.stack(pixels)
    if images.dim() != 4 or images.size(1) != 3 or images.dtype != torch.uint8:
        raise ValueError(
            f"'image' needs RGB pixels, uint8 [n, 3, H, W] (got {images.dtype}, "
            f"{tuple(images.shape)})"
        )
    return images.cpu()


def _cache_key(arguments: str, *learned: NDArray[np.float64]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in learned:
        digest.update(np.ascontiguousarray(array).tobytes())
    state = digest.hexdigest() if learned else "not fitted"
    return f"{arguments}, scikit-learn {sklearn.__version__}, {state}"
