"""Visual tokens, the targets of masked patches: a codebook learned from the catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor

from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.encoders.images import image_patches
from alignrec_pyg.storage import CheckpointError, read_with_files, write_with_files

_MANIFEST = "codebook.json"
_TENSORS = "codebook.safetensors"
_FLAT = 4.0  # standard deviation of a patch's 8-bit values below which it counts as constant
_PATCHES_PER_CODE = 50
_PATCHES_TO_PCA = 50_000
_BLOCK = 8_192  # patches worked on at a time
_BATCH = 4_096


class VisualTokenizer(Protocol):
    """Maps images to one discrete token for each patch."""

    @property
    def vocab_size(self) -> int:
        """Number of distinct tokens."""
        ...

    @property
    def grid(self) -> int:
        """Patches along a side."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the tokens depend on."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Tokens int64 ``[B, grid * grid]`` of uint8 images ``[B, 3, H, H]``, on their device.

        Called within autocast; the same images need to give the same tokens in any precision.
        """
        ...


@dataclass(frozen=True)
class CodebookReport:
    """The patches a codebook was fitted on, and how evenly its codes are used.

    Args:
        num_patches: Number of sampled patches.
        flat_share: Share of nearly constant patches among them (mostly white background).
        num_codes: Number of codes.
        used_codes: Number of codes that occur among the sampled patches.
        perplexity: Exponential of the entropy of the codes' frequencies; ``used_codes`` if all of
            them are equally frequent.
    """

    num_patches: int
    flat_share: float
    num_codes: int
    used_codes: int
    perplexity: float

    def __str__(self) -> str:
        """The report in a sentence."""
        return (
            f"{self.used_codes:,} of {self.num_codes:,} codes occur among {self.num_patches:,} "
            f"sampled patches, {self.flat_share:.0%} of them nearly constant (perplexity "
            f"{self.perplexity:.1f})"
        )


class PatchCodebook:
    """A visual tokenizer by k-means: a patch's token is its nearest of K cluster centers.

    Patches are reduced by PCA first. Nothing has to be downloaded, but the tokens describe colour
    and texture rather than meaning; for BEiT's published tokenizers see :class:`VQKDTokenizer`.

    Args:
        mean: Mean patch with values in [0, 1], ``[3 * patch_size**2]``.
        components: Principal components, ``[dim, 3 * patch_size**2]``.
        centers: Cluster centers, ``[K, dim]``.
        image_size: Height and width of the images in pixels.

    Raises:
        ValueError: If the shapes do not fit each other.
    """

    def __init__(self, mean: Tensor, components: Tensor, centers: Tensor, image_size: int) -> None:
        side = round((mean.numel() / 3) ** 0.5)
        fits = (
            mean.shape == (3 * side**2,)
            and components.shape[1:] == mean.shape
            and centers.shape[1:] == components.shape[:1]
            and len(centers) > 0
        )
        if not fits:
            raise ValueError(
                "'mean', 'components' and 'centers' need shapes [3 * side**2], [dim, 3 * side**2] "
                f"and [K, dim] (got {[tuple(t.shape) for t in (mean, components, centers)]})"
            )
        if image_size < side or image_size % side:
            raise ValueError(
                f"'image_size' needs to be a multiple of the patch size {side} (got {image_size})"
            )
        self.patch_size = side
        self.image_size = image_size
        self._mean = mean.float()
        self._components = components.float()
        self._centers = centers.float()

    @classmethod
    def fit(
        cls,
        images: Sequence[Tensor],
        patch_size: int,
        *,
        vocab_size: int | None = None,
        dim: int = 64,
        flat_share: float = 0.1,
        num_patches: int = 8192 * _PATCHES_PER_CODE,
        seed: int = 0,
    ) -> tuple[PatchCodebook, CodebookReport]:
        """Fits a codebook to images of one size; reproducible on one machine.

        Args:
            images: uint8 ``[3, H, H]`` each; of a large catalogue a sample is enough.
            patch_size: Side of a patch in pixels; ``H`` is a multiple of it.
            vocab_size: Number of codes K (default: 8,192, or one for every 50 patches if that is
                less).
            dim: Number of principal components; fewer if there are not as many.
            flat_share: Most nearly constant patches to learn from, as a share of the others.
                Product photos are mostly white, and without a limit most codes would be white too.
            num_patches: Most patches to sample, equally many of each image.
            seed: Seed of sampling, PCA and k-means.

        Raises:
            ValueError: If an argument is out of range, or the images have other shapes or fewer
                distinct patches than codes.
        """
        sizes = {"vocab_size": 1 if vocab_size is None else vocab_size}
        sizes |= {"patch_size": patch_size, "dim": dim, "num_patches": num_patches}
        for name, value in sizes.items():
            check_integer(name, value, 1)
        check_number("flat_share", flat_share, least=0, most=1)
        shapes = {tuple(image.shape) for image in images}
        side = next(iter(shapes), (3, 0, 0))[-1]
        if shapes != {(3, side, side)} or side % patch_size:
            raise ValueError(
                f"'images' needs images [3, H, H] of one size H, a multiple of {patch_size} "
                f"(got shapes {sorted(shapes)[:5]})"
            )
        draw = np.random.default_rng(seed)
        patches = _sample(images, patch_size, num_patches, draw)
        deviation = np.concatenate([block.std(axis=1) for block in _blocks(patches)])
        flat = deviation < _FLAT
        kept_flat = draw.permutation(np.flatnonzero(flat))[: int(flat_share * (~flat).sum())]
        chosen = patches[np.sort(np.concatenate([np.flatnonzero(~flat), kept_flat]))]
        if len(chosen) == 0:  # blank images only
            chosen = patches
        count = vocab_size or max(1, min(8192, len(chosen) // _PATCHES_PER_CODE))
        different = len({patch.tobytes() for patch in chosen})
        if count > different:
            raise ValueError(
                f"'vocab_size' needs to be in [1, {different}], the different patches there are "
                f"(got {count}): lower it, or give more images"
            )
        for_pca = draw.permutation(chosen)[:_PATCHES_TO_PCA].astype(np.float32) / 255
        # PCA divides by the total variance, which is zero if all patches are alike
        with np.errstate(invalid="ignore", divide="ignore"):
            pca = PCA(min(dim, *for_pca.shape), random_state=seed).fit(for_pca)
        reduced = np.concatenate([pca.transform(block / 255) for block in _blocks(chosen)])
        kmeans = MiniBatchKMeans(
            count,
            init="random",
            n_init=1,
            batch_size=_BATCH,
            reassignment_ratio=0,
            random_state=seed,
        ).fit(reduced)
        learned = (pca.mean_, pca.components_, kmeans.cluster_centers_)
        mean, components, centers = (torch.from_numpy(np.asarray(part)) for part in learned)
        codebook = cls(mean, components, centers, side)
        use = torch.bincount(
            torch.cat([codebook._codes(torch.from_numpy(b / 255)) for b in _blocks(patches)]),
            minlength=count,
        )
        report = CodebookReport(
            num_patches=len(patches),
            flat_share=float(flat.mean()),
            num_codes=count,
            used_codes=int((use > 0).sum()),
            perplexity=float(torch.distributions.Categorical(use.double()).perplexity()),
        )
        return codebook, report

    @property
    def vocab_size(self) -> int:
        """Number of codes."""
        return len(self._centers)

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def fingerprint(self) -> str:
        """Hash of everything that was learned."""
        digest = hashlib.sha256(f"patch codebook {self.image_size}".encode())
        for part in (self._mean, self._components, self._centers):
            digest.update(f"{tuple(part.shape)}".encode() + part.cpu().numpy().tobytes())
        return digest.hexdigest()

    def __call__(self, images: Tensor) -> Tensor:
        """Tokens int64 ``[B, grid * grid]`` of uint8 images ``[B, 3, H, H]``.

        Raises:
            ValueError: If the images have another shape or type.
        """
        check_images(images, self.image_size)
        patches = image_patches(images, self.patch_size).float() / 255
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 could give other codes
            return self._codes(patches.flatten(0, 1)).view(len(images), -1)

    def _codes(self, patches: Tensor) -> Tensor:
        """Nearest code of each patch, int64 ``[N]``; the first one where several are as near."""
        mean, components, centers = (
            part.to(patches.device) for part in (self._mean, self._components, self._centers)
        )
        reduced = (patches - mean) @ components.T
        half = centers.square().sum(dim=1) / 2
        blocks = [(half - block @ centers.T).argmin(dim=1) for block in reduced.split(_BLOCK)]
        return torch.cat(blocks)

    def save(self, folder: str | Path) -> None:
        """Writes ``codebook-<hash>.safetensors`` and ``codebook.json``, which names it."""
        path = Path(folder) / _MANIFEST
        tensors = {"mean": self._mean, "components": self._components, "centers": self._centers}
        with folder_lock(path.parent, path.name):
            write_with_files(path, {"image_size": self.image_size}, {_TENSORS: tensors})

    @classmethod
    def load(cls, folder: str | Path) -> PatchCodebook:
        """Reads what :meth:`save` wrote.

        Raises:
            CheckpointError: If a file is missing or damaged.
        """
        path = Path(folder) / _MANIFEST
        manifest, files = read_with_files(path, {"image_size": int}, [_TENSORS])
        try:
            return cls(**files[_TENSORS], image_size=manifest["image_size"])
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} holds something else ({error})") from error

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}(vocab_size={self.vocab_size}, grid={self.grid}, "
            f"image_size={self.image_size})"
        )


def check_images(images: Tensor, size: int) -> None:
    """Checks that images are uint8 ``[B, 3, size, size]``."""
    if images.shape[1:] != (3, size, size) or images.dtype != torch.uint8:
        raise ValueError(
            f"'images' needs to be uint8 [B, 3, {size}, {size}] "
            f"(got {images.dtype}, {tuple(images.shape)})"
        )


def _sample(
    images: Sequence[Tensor], side: int, num_patches: int, draw: np.random.Generator
) -> np.ndarray:
    """Patches, uint8 ``[N, 3 * side**2]``, equally many of each image."""
    per_image = max(1, num_patches // len(images))
    return np.concatenate(
        [
            draw.permutation(image_patches(i.unsqueeze(0), side)[0].numpy())[:per_image]
            for i in images
        ]
    )


def _blocks(patches: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks as float32: a large sample as a whole would not fit into memory."""
    for start in range(0, len(patches), _BLOCK):
        yield patches[start : start + _BLOCK].astype(np.float32)
