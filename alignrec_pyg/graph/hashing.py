"""Hashes of content: tensors, arrays, strings and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def content_hash(*parts: Tensor | np.ndarray | str | float | None | Iterable[str]) -> str:
    """A hexadecimal hash of a sequence of tensors, arrays, strings and numbers.

    Hashes are equal only if dtypes, shapes and bytes are equal, so that a cache with these keys is
    never used for other content.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous()
            if part.dtype == torch.bfloat16:  # which NumPy lacks
                digest.update(b"bfloat16 ")
                part = part.view(torch.int16)
            part = part.numpy()
        if isinstance(part, np.ndarray) and part.dtype != object:
            digest.update(f"array {part.dtype} {part.shape} ".encode())
            flat = np.ascontiguousarray(part).reshape(-1)
            for start in range(0, flat.size, 1 << 24):  # blocks: the table may be memory-mapped
                digest.update(flat[start : start + (1 << 24)].tobytes())
        elif isinstance(part, str | int | float | bool) or part is None:
            digest.update(f"{type(part).__name__} {part!r} ".encode())
        else:
            digest.update(b"sequence ")
            for element in part:
                digest.update(f"{element!r} ".encode())
            digest.update(b"end ")
    return digest.hexdigest()
