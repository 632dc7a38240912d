"""Images by principal components of their patches: nothing to download."""

from __future__ import annotations

import numpy as np
import PIL
import sklearn
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize
from torch import Tensor

from alignrec_pyg.checks import check_integer
from alignrec_pyg.encoders.base import DEFAULT_DIM, ItemContent, stacked_pixels
from alignrec_pyg.encoders.cache_keys import state_hash
from alignrec_pyg.encoders.images import image_patches

_PATCHES_TO_FIT = 20_000  # enough for the few directions of small patches, whatever the catalogue


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
        images = stacked_pixels(items, self.image_size)
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


def _cache_key(arguments: str, *learned: NDArray[np.float64]) -> str:
    state = state_hash(*learned) if learned else "not fitted"
    return f"{arguments}, scikit-learn {sklearn.__version__}, {state}"
