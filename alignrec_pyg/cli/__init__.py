"""The command line ``alignrec``: from files to recommendations, thin over the package."""

import os

# Large tensors on huge pages, which takes a third off a step on large graphs. torch reads it once.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from alignrec_pyg.cli.app import main

__all__ = ["main"]
