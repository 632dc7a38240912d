"""The process of a command: what is set before torch and PyG are imported."""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder


def prepare_process() -> None:
    """Prepares this process for the work of a command; commands and the demo call it first.

    - Large tensors are on huge pages, which takes a third off a step on large graphs, unless the
      environment says otherwise. torch reads the variable once, with its first tensor.
    - Threads that wait for others sleep, unless the environment says otherwise. OpenMP lets them
      spin, which on processors that other work shares takes many times the time.
    - PyG does not import transformers, a second of processor time for one annotation.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not any(isinstance(finder, _NoTransformersForPyG) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoTransformersForPyG())


class _NoTransformersForPyG(MetaPathFinder):
    """Tells PyG, while it is imported, that transformers is not installed; it can do without."""

    def find_spec(self, fullname: str, *_: object) -> None:
        pyg = sys.modules.get("torch_geometric")
        # PyG sets its version after all of its imports.
        if fullname == "transformers" and pyg is not None and not hasattr(pyg, "__version__"):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
