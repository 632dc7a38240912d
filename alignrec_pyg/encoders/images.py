"""Images of items: files, bytes, arrays or archives to RGB pixels."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TypeAlias
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from alignrec_pyg.archives import ArchiveError, KindError, open_archive, read_member

ImageSource: TypeAlias = Path | bytes | Image.Image | np.ndarray | Tensor | Callable[[], bytes]
"""An image: a file, its bytes, a Pillow image, an array ``[H, W]`` or ``[H, W, C]``, a tensor
``[C, H, W]`` (C = 1, 3 or 4, uint8 or uint16), or a function that returns its bytes and raises
:class:`ImageError` if it cannot."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Supported formats; the decoders of others are less tested."""

MAX_PIXELS = 50_000_000
"""Default limit of the number of pixels of an image."""

MAX_ARCHIVED_BYTES = 200_000_000
"""Most bytes of an image in a zip file."""

_MOST_READS = 20_000  # of a header; JPEG takes four for a segment of 64 kB
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM", b"II", b"MM")
_NO_IMAGE = f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"

_BYTES_PER_PIXEL = 8  # four channels of 16 bits: a larger file cannot be an image of so many pixels
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_WHITE = (255, 255, 255, 255)


class ImageError(ValueError):
    """An image cannot be read.

    Args:
        reason: The reason, in a few words.
        path: File of the image, for the message.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason


def image_source(value: object) -> ImageSource | None:
    """A cell of a column of images, as :func:`read_image` takes it.

    Paths may be strings; ``None``, NaN and blank strings are missing images.
    """
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    if isinstance(value, str):
        if not value.strip():
            return None
        if "://" in value:
            raise ImageError("a URL, not a file: download it first")
        return Path(value)
    if isinstance(value, PathLike):
        return Path(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, bytes | Image.Image | np.ndarray | Tensor) or callable(value):
        return value
    raise _no_source(value)


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """RGB pixels of an image.

    The first frame of an animation is read. The rotation in a photo's metadata (EXIF) is applied,
    transparent pixels become white, 16 bits are reduced to the upper 8, and CMYK, palettes and grey
    are converted to RGB.

    Args:
        source: The image.
        max_pixels: Most pixels; a small file can be an image of billions.

    Returns:
        uint8 ``[3, H, W]``, contiguous, on the CPU.

    Raises:
        ImageError: If the file is missing, empty, damaged, too large or not JPEG, PNG, WEBP,
            GIF, BMP or TIFF, or an array has another shape or type.
    """
    if isinstance(source, Path):
        try:
            return read_image(file_bytes(source, max_pixels=max_pixels), max_pixels=max_pixels)
        except ImageError as error:
            raise ImageError(error.reason, source) from error
    if isinstance(source, Tensor):
        return _from_array(source.detach().cpu().numpy(), "[C, H, W]", max_pixels)
    if isinstance(source, np.ndarray):
        channels_first = source.transpose(2, 0, 1) if source.ndim == 3 else source[np.newaxis]
        return _from_array(channels_first, "[H, W] or [H, W, C]", max_pixels)
    if callable(source):
        return read_image(source(), max_pixels=max_pixels)
    if not isinstance(source, bytes | Image.Image):
        raise _no_source(source)
    with _errors_told(max_pixels):
        if isinstance(source, Image.Image):
            return _pixels(source, max_pixels)
        with _with_header(source) as image:
            return _pixels(image, max_pixels)


def decoded_bytes(content: bytes, *, max_pixels: int = MAX_PIXELS) -> int:
    """Bytes that the pixels of an image will take; only its header is read.

    Raises:
        ImageError: If that is no header of an image, or the image is too large.
    """
    with (
        _errors_told(max_pixels),
        _with_header(content) as image,
    ):
        width, height = image.size
        _check_size(height, width, max_pixels)
        return 3 * height * width


class _HeaderFile(io.BytesIO):
    """The bytes of a file; a header that takes too many reads is refused.

    Pillow reads padding byte by byte: megabytes of it would take minutes.
    """

    reads = 0
    is_open = False

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS and not self.is_open:
            raise ImageError(f"a header of more than {_MOST_READS:,} parts")
        return super().read(size)


def _with_header(content: bytes) -> Image.Image:
    """An image whose header was read."""
    file = _HeaderFile(content)
    image = Image.open(file, formats=FORMATS)
    file.is_open = True
    return image


@contextmanager
def _errors_told(max_pixels: int) -> Iterator[None]:
    """Turns what decoders raise into an :class:`ImageError`."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError(_NO_IMAGE) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"more than {max_pixels:,} pixels") from error
    except Exception as error:  # decoders raise all kinds of errors on damaged bytes
        truncated = "truncated" in str(error).lower()
        raise ImageError("truncated" if truncated else f"damaged ({error})"[:80]) from error


def file_bytes(path: Path, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of an image file that may hold an image of ``max_pixels`` pixels."""
    limit = _BYTES_PER_PIXEL * max_pixels
    try:
        if not path.exists():
            raise ImageError("no such file", path)
        if not path.is_file():
            raise ImageError("not a file", path)
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if isinstance(error, ImageError):
            raise
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"cannot be read ({why})", path) from error
    if not content:
        raise ImageError("an empty file", path)
    if len(content) > limit:
        raise ImageError(f"a file of more than {limit:,} bytes", path)
    return content


def resize_square(image: Tensor, size: int) -> Tensor:
    """Resizes an image to a square, bicubic and antialiased, without keeping its aspect ratio.

    Args:
        image: uint8 ``[3, H, W]``.
        size: Height and width of the result in pixels.

    Returns:
        uint8 ``[3, size, size]``; the same pixels if the image has this size.
    """
    resized = to_pillow(image).resize((size, size), Image.Resampling.BICUBIC)
    return _from_pillow(resized)


def image_patches(images: Tensor, side: int) -> Tensor:
    """Cuts images ``[B, 3, H, W]`` into square patches, row by row; ``side`` divides H and W.

    They are ``[B, H // side * W // side, 3 * side**2]``.
    """
    grid = images.unfold(2, side, side).unfold(3, side, side)  # [B, 3, rows, cols, side, side]
    return grid.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def to_pillow(image: Tensor) -> Image.Image:
    """Pixels, uint8 ``[3, H, W]``, as a Pillow image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Ignores Pillow's warnings: an image that cannot be read is reported once, with its reason.

    Python's filters of warnings are shared by all threads: enter it before starting some.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


class ArchivedImage:
    """An image in a zip file, which is opened once for each process."""

    def __init__(self, archive: Path, name: str) -> None:
        self.archive = archive
        self.name = name

    def __call__(self) -> bytes:
        """Reads its bytes."""
        try:
            return read_member(_opened(self.archive), self.name, MAX_ARCHIVED_BYTES, _STARTS)
        except KindError as error:
            raise ImageError(_NO_IMAGE) from error
        except ArchiveError as error:
            raise ImageError(f"{self!r} cannot be read ({error})") from error

    def __repr__(self) -> str:
        return f"{self.archive.name}:{self.name}"


def images_by_id(source: str | Path) -> dict[str, ImageSource]:
    """Images in a folder or zip file, by the ids that they are named by.

    The id of ``shoes/7.jpg`` is ``"7"``. Files in any folder below are found; those without the
    extension of an image are ignored.

    Args:
        source: The folder or zip file, which is never unpacked.

    Raises:
        ValueError: If it is neither, or two images have the same id.
    """
    source = Path(source)
    if source.suffix == ".zip" and source.is_file():
        try:
            names = sorted(_opened(source).namelist())
        except ArchiveError as error:
            raise ValueError(f"'images': {error}") from error
        return _unique((Path(name), ArchivedImage(source, name)) for name in names)
    if not source.is_dir():
        raise ValueError(f"'images' needs to be a folder or a zip file (got {source})")
    return _unique((path, path) for path in sorted(source.rglob("*")))


def _no_source(value: object) -> ImageError:
    kinds = "path, bytes, image, array, tensor"
    return ImageError(f"neither {kinds} nor function ({type(value).__name__})")


def _pixels(image: Image.Image, max_pixels: int) -> Tensor:
    width, height = image.size
    _check_size(height, width, max_pixels)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        upright = _eight_bits(upright)
    elif upright.mode == "F":
        raise ImageError("floating-point pixels, whose range is not known")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer)
    return _from_pillow(upright.convert("RGB"))


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits, or of 32 of which 16 are used, as one of 8 bits."""
    values = np.array(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError("pixels of 32 bits, whose range is not known")
    if image.mode == "I" and values.max() <= 0xFF:  # made by a program: files have 16 bits
        return Image.fromarray(values.astype(np.uint8))
    return Image.fromarray((values >> 8).astype(np.uint8))


def _from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _from_array(values: np.ndarray, expected: str, max_pixels: int) -> Tensor:
    """Pixels of an array ``[C, H, W]``."""
    if values.ndim != 3 or values.shape[0] not in (1, 3, 4):
        raise ImageError(f"an array of another shape than {expected} with C = 1, 3 or 4")
    channels, height, width = values.shape
    if height == 0 or width == 0:
        raise ImageError("an array without pixels")
    _check_size(height, width, max_pixels)
    if values.dtype == np.uint16:
        values = (values >> 8).astype(np.uint8)
    if values.dtype != np.uint8:
        raise ImageError(f"an array of {values.dtype}, neither uint8 nor uint16")
    if channels == 4:
        return _pixels(Image.fromarray(np.ascontiguousarray(values.transpose(1, 2, 0))), max_pixels)
    rgb = np.broadcast_to(values, (3, height, width))
    return torch.from_numpy(np.array(rgb, order="C"))


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError(f"{height:,} x {width:,} pixels, more than {max_pixels:,}")


def _unique(images: Iterable[tuple[Path, ImageSource]]) -> dict[str, ImageSource]:
    found: dict[str, ImageSource] = {}
    for path, image in images:
        if path.suffix.lower() not in IMAGE_ENDINGS or path.name.startswith("."):
            continue
        if path.stem in found:
            raise ValueError(f"'images' needs one image per id ({path.stem!r} has two)")
        found[path.stem] = image
    return found


def _opened(archive: Path) -> ZipFile:
    """The archive as it is now, opened by this process: one that is forked has another position."""
    try:
        now = archive.stat()
    except OSError as error:
        raise ArchiveError(f"{archive} needs to be a zip file ({error})") from error
    return _kept_open(archive, os.getpid(), (now.st_ino, now.st_size, now.st_mtime_ns))


@lru_cache(maxsize=8)
def _kept_open(archive: Path, process: int, version: tuple[int, ...]) -> ZipFile:
    return open_archive(archive)
