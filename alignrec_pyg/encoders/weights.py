"""Released weights from local files."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from alignrec_pyg.storage import CheckpointError

_CONTAINERS = ("model", "module", "state_dict")


def released_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a ``.safetensors`` or pickled file, as float32 on the CPU.

    No code in the file is executed. A pickled file may hold the tensors under "model", "module" or
    "state_dict", and beside them the command line (``argparse.Namespace``, with paths in it), as
    the files of BEiT's authors do.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: released weights need to be downloaded by hand")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace, type(Path())]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # half a file makes the readers raise what they stumble on
        raise CheckpointError(
            f"{path} cannot be read as weights ({reading_failure(error)})"
        ) from error
    for container in _CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} needs to hold tensors by name, and nothing else")
    return {name: value.float() for name, value in content.items()}


def reading_failure(error: Exception) -> str:
    """Why a file of weights cannot be read, without torch's advice to execute code in it."""
    other = re.search(r"GLOBAL (\S+)|(TorchScript)", str(error))
    if other:
        return (
            f"it holds {other[1] or other[2]} beside tensors: it contains code, which is not "
            "executed; where you trust it, save its tensors alone, as safetensors"
        )
    reason = "no weights, or damaged" if "weights_only" in str(error) else str(error)
    return f"{reason}; download it again"
