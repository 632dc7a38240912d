"""Weights: those that others released, and a hash that stands for them."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from alignrec_pyg.storage import CheckpointError

_CONTAINERS = ("model", "module", "state_dict")


def released_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors`` or pickled file by their stored names, float32 on the CPU.

    A pickled file may hold them under "model", "module" or "state_dict", and beside them the
    command line (``argparse.Namespace``), as files of BEiT's authors do.

    Raises:
        CheckpointError: If the file is missing, damaged, holds code or anything but tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: download the weights yourself, none are fetched")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # half a file makes the readers raise what they stumble on
        raise CheckpointError(
            f"{path} cannot be read as weights ({error}): download it anew; files with code in "
            "them are refused"
        ) from error
    for container in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} needs to hold tensors by name (it holds something else)")
    return {name: value.float() for name, value in content.items()}


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """A short hexadecimal hash of named tensors; their order does not matter.

    Two state dicts share it only if their names, dtypes, shapes and bytes agree.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
