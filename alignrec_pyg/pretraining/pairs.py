"""Image-text pairs as micro-batches with random crops and masks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.encoders.images import ImageError, ImageSource, read_image, resize_square
from alignrec_pyg.encoders.sentencepiece_tokenizer import SentencePieceTokenizer
from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.masking import block_mask, text_mask
from alignrec_pyg.training.sampling import seeded_generator

# Streams of randomness of a pair within an epoch.
_CROP = 1
_MASK = 2
_EVALUATION = 2**31  # in place of the epoch, for the masks of validation
_CROP_TRIES = 10
_CROP_ASPECT = 4 / 3


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """Settings of preprocessing, augmentation and masking.

    Args:
        image_size: Height and width of images in pixels.
        patch_size: Side of a patch in pixels.
        max_tokens: Most tokens of a text; longer texts are truncated.
        mask_image: Share of patches to mask, in blocks (paper: 0.4).
        mask_text: Share of tokens to mask (paper: 0.15).
        crop: Smallest share of an image's area that a random crop keeps; 1 turns cropping off.
        flip: Whether training images are flipped horizontally with probability 1/2.

    Raises:
        ValueError: If a value is out of range.
    """

    image_size: int = 224
    patch_size: int = 16
    max_tokens: int = 128
    mask_image: float = 0.4
    mask_text: float = 0.15
    crop: float = 0.5
    flip: bool = True

    def __post_init__(self) -> None:
        for name, least in (("image_size", 1), ("patch_size", 1), ("max_tokens", 3)):
            check_integer(name, getattr(self, name), least)
        if self.image_size % self.patch_size:
            raise ValueError(
                f"'image_size' needs to be a multiple of patch_size={self.patch_size} "
                f"(got {self.image_size})"
            )
        for name in ("mask_image", "mask_text"):
            check_number(name, getattr(self, name), above=0, below=1)
        check_number("crop", self.crop, above=0, most=1)


class PairBatch(NamedTuple):
    """Some pairs with their masks.

    Shapes:
        - images: uint8 :math:`(B, 3, H, H)`
        - tokens: int64 :math:`(B, T)`, padding: bool :math:`(B, T)`, true after the end of a text
        - token_mask: bool :math:`(B, T)`, image_mask: bool :math:`(B, P)`, true where masked
        - unreadable: int64 :math:`()`, number of pairs that were replaced by another one, because
          their image cannot be read
    """

    images: Tensor
    tokens: Tensor
    padding: Tensor
    token_mask: Tensor
    image_mask: Tensor
    unreadable: Tensor

    def to(self, device: torch.device) -> PairBatch:
        """The batch on another device."""
        return PairBatch(*(part.to(device, non_blocking=True) for part in self))


class PairDataset(Dataset[PairBatch]):
    """Pairs of image and text; an element is a micro-batch.

    ``dataset[epoch, (3, 1, 4)]`` is the batch of pairs 3, 1 and 4 in epoch ``epoch``. Crops and
    masks depend on ``(seed, epoch, pair)`` only, in whatever order pairs are loaded: so an
    interrupted run continues exactly, with any number of loading processes. With epoch ``None``,
    for validation, images are not cropped and the masks are the same every time.

    A pair whose image cannot be read is replaced by the next one whose image can; the batch counts
    them.

    Args:
        texts: Clean texts.
        images: The image of each text, as :func:`~alignrec_pyg.encoders.read_image` takes it.
        tokenizer: Tokenizer of the texts.
        config: Settings of preprocessing, augmentation and masking.
        seed: Seed of crops and masks.

    Raises:
        ValueError: If ``texts`` and ``images`` differ in length or are empty; when indexed, if no
            image can be read.
    """

    def __init__(
        self,
        texts: Sequence[str],
        images: Sequence[ImageSource],
        tokenizer: SentencePieceTokenizer,
        config: PairConfig | None = None,
        *,
        seed: int = 0,
    ) -> None:
        if len(texts) != len(images) or len(texts) == 0:
            raise ValueError(
                f"'texts' and 'images' need one entry for each pair, and one pair or more "
                f"(got {len(texts)} and {len(images)})"
            )
        self.texts = texts
        self.images = images
        self.tokenizer = tokenizer
        self.config = config or PairConfig()
        self.seed = seed

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.texts)

    def select(self, pairs: Sequence[int]) -> PairDataset:
        """Some of the pairs, in that order."""
        return PairDataset(
            [self.texts[pair] for pair in pairs],
            [self.images[pair] for pair in pairs],
            self.tokenizer,
            self.config,
            seed=self.seed,
        )

    def split(self, share: float) -> tuple[PairDataset, PairDataset]:
        """Splits the pairs at random; the second part has ``share`` of them, but at least two.

        Raises:
            ValueError: If ``share`` is out of range, or there are fewer than three pairs.
        """
        check_number("share", share, above=0, below=1)
        held_out = max(2, round(share * len(self)))
        if held_out >= len(self):
            raise ValueError(f"a split needs 3 pairs or more (got {len(self)}, share {share})")
        order = torch.randperm(len(self), generator=seeded_generator(self.seed)).tolist()
        return self.select(sorted(order[held_out:])), self.select(sorted(order[:held_out]))

    @property
    def fingerprint(self) -> str:
        """Hash of arguments, texts and images (of files, their names) in their order."""
        arguments = f"{self.config} {self.seed} {self.tokenizer.fingerprint} "
        digest = hashlib.blake2b(arguments.encode(), digest_size=16)
        for text, image in zip(self.texts, self.images, strict=True):
            digest.update(f"{len(text)} {text} ".encode("utf-8", "surrogatepass"))
            digest.update(image_identity(image).encode())
        return digest.hexdigest()

    def __getitem__(self, key: tuple[int | None, Sequence[int]]) -> PairBatch:
        """The micro-batch of ``(epoch, pairs)``."""
        epoch, requested = key
        numbers, pixels, unreadable = [], [], 0
        for pair in requested:
            number, image = self._readable(pair)
            numbers.append(number)
            pixels.append(self._cropped(number, image, epoch))
            unreadable += number != pair
        ids, padding = self.tokenizer([self.texts[n] for n in numbers], self.config.max_tokens)
        special = (ids == self.tokenizer.bos_id) | (ids == self.tokenizer.eos_id) | padding
        grid = self.config.image_size // self.config.patch_size
        token_masks, image_masks = [], []
        for row, number in enumerate(numbers):
            stream = _EVALUATION if epoch is None else epoch
            draw = seeded_generator(self.seed, stream, number, _MASK)
            token_masks.append(text_mask(~special[row], self.config.mask_text, draw))
            image_masks.append(block_mask(grid, self.config.mask_image, draw))
        return PairBatch(
            torch.stack(pixels),
            ids,
            padding,
            torch.stack(token_masks),
            torch.stack(image_masks),
            torch.tensor(unreadable),
        )

    def _readable(self, pair: int) -> tuple[int, Tensor]:
        """Number and image of the first readable pair from ``pair`` on."""
        reason: ImageError | None = None
        for skipped in range(len(self)):
            number = (pair + skipped) % len(self)
            image = self.images[number]
            try:
                return number, read_image(image)
            except ImageError as error:
                reason = error
        raise ValueError(f"'images' needs images that can be read (got none: {reason})") from reason

    def _cropped(self, number: int, image: Tensor, epoch: int | None) -> Tensor:
        size = self.config.image_size
        if epoch is None:
            return resize_square(image, size)
        draw = seeded_generator(self.seed, epoch, number, _CROP)
        if self.config.crop < 1:
            image = _random_crop(image, self.config.crop, draw)
        image = resize_square(image, size)
        if self.config.flip and float(torch.rand(1, generator=draw)) < 0.5:
            image = image.flip(2)
        return image


def image_identity(image: ImageSource) -> str:
    """Identifies an image: hash of pixels or bytes, name of a file, ``repr`` of a function."""
    if isinstance(image, Path):
        return image.name
    if callable(image):
        return repr(image)
    if not isinstance(image, bytes):
        try:
            pixels = read_image(image)
        except ImageError as error:
            return error.reason
        image = f"{tuple(pixels.shape)} ".encode() + pixels.numpy().tobytes()
    return hashlib.blake2b(image, digest_size=16).hexdigest()


def _random_crop(image: Tensor, least: float, draw: torch.Generator) -> Tensor:
    """A crop of at least this share of the area, with an aspect ratio between 3/4 and 4/3."""
    height, width = image.shape[1:]
    for _ in range(_CROP_TRIES):
        size, shape, top, left = torch.rand(4, dtype=torch.float64, generator=draw).tolist()
        area = height * width * (least + size * (1 - least))
        aspect = math.exp((2 * shape - 1) * math.log(_CROP_ASPECT))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            row, column = int(top * (height - rows + 1)), int(left * (width - columns + 1))
            return image[:, row : row + rows, column : column + columns]
    return image  # too narrow for such a crop


def check_failures(
    num_failures: int, num_images: int, max_failures: float, examples: Sequence[str] = ()
) -> None:
    """Checks that few enough images were unreadable."""
    if num_failures > max_failures * num_images:
        such_as = f" (such as {'; '.join(examples[:5])})" if examples else ""
        raise ValueError(
            f"'max_failures' needs to be larger than {max_failures:.2%} for these images: "
            f"{num_failures:,} of {num_images:,} cannot be read{such_as}"
        )


def load(
    pairs: PairDataset,
    keys: Sequence[tuple[int | None, Sequence[int]]],
    config: PretrainConfig,
    device: torch.device,
) -> Iterator[PairBatch]:
    """Yields ``pairs[key]`` for each key, in order, loaded by ``config.num_workers`` processes."""
    return iter(
        DataLoader(
            pairs,
            batch_size=None,  # an element is a micro-batch
            sampler=keys,
            num_workers=config.num_workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from the global one
        )
    )
