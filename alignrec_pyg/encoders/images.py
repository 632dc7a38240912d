"""Images to pixels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image


class ImageError(ValueError):
    """An image that cannot be read."""


def read_image(
    source: Path | bytes | Image.Image | np.ndarray | Tensor, *, max_pixels: int = 50_000_000
) -> Tensor:
    """RGB pixels of an image, uint8 ``[3, H, W]``.

    Raises:
        ImageError: If there is no such file, it is no image or damaged, or it has more than
            ``max_pixels`` pixels.
    """
    if isinstance(source, np.ndarray):
        source = torch.from_numpy(source)
    if isinstance(source, Tensor):
        if source.dim() != 3 or source.size(0) != 3 or source.dtype != torch.uint8:
            raise ImageError(
                f"pixels need to be uint8 [3, H, W] (got {source.dtype}, {tuple(source.shape)})"
            )
        return source
    from PIL import Image

    try:
        if isinstance(source, Image.Image):
            opened = source
        else:
            opened = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        if opened.width * opened.height > max_pixels:
            raise ImageError(f"{opened.width} x {opened.height} pixels are more than {max_pixels}")
        pixels = np.array(opened.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"this image cannot be read ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def resize_square(image: Tensor, size: int) -> Tensor:
    """Bicubic with antialiasing, uint8 ``[3, size, size]``; the aspect ratio is not kept."""
    if image.shape[1:] == (size, size):
        return image
    from PIL import Image

    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()
