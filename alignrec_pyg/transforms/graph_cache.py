"""Item graphs on disk."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alignrec_pyg.graph import content_hash


def save_graph(path: Path, edge_index: Tensor, edge_weight: Tensor) -> None:
    """Writes a graph and its hash.

    Readers and other writers of the same path never meet half a file: it is written beside its
    place under a name of its own and then moved there in one step.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.stem, suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        save_file(
            {
                "edge_index": edge_index.cpu().contiguous(),
                "edge_weight": edge_weight.cpu().contiguous(),
            },
            temporary,
            metadata={"content": content_hash(edge_index, edge_weight)},
        )
        with Path(temporary).open("rb") as file:  # on the disk before it takes the place
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load_graph(path: Path) -> tuple[Tensor, Tensor] | None:
    """The graph, or ``None`` if there is none yet or its file is damaged (with a warning)."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            graph = file.get_tensor("edge_index"), file.get_tensor("edge_weight")
            content = (file.metadata() or {}).get("content")
    except (SafetensorError, OSError, ValueError) as error:
        warnings.warn(f"rebuilding the item graph: {path} cannot be read ({error})", stacklevel=2)
        return None
    if content != content_hash(*graph):
        warnings.warn(
            f"rebuilding the item graph: {path} does not hold what was written to it", stacklevel=2
        )
        return None
    return graph
