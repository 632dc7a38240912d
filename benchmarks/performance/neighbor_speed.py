"""How long neighbours of items take, exact and by FAISS, and what recall FAISS reaches.

    python -m benchmarks.performance.neighbor_speed --items 20000 40000
    python -m benchmarks.performance.neighbor_speed --tables minilm.npy --backends faiss

The rows are copies of those of ``--tables`` (of one width) with noise of half their length, so that
many are near each other, as in real catalogues; without tables, they are normal, and hardly form
groups. Ten neighbours, processor seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import process_time

import numpy as np
import torch
from torch import Tensor

from alignrec_pyg.nn.faiss_search import approximate_neighbors
from alignrec_pyg.nn.knn_search import cosine_neighbors
from alignrec_pyg.tables import read_npy
from alignrec_pyg.text_tables import markdown_table
from benchmarks.performance.measuring import log, make_parser, origin, positive_int

_WIDTH = 384
_NEIGHBORS = 10


def rows_like(tables: Sequence[Path], num_items: int) -> Tensor:
    """Rows to search, float32 ``[num_items, dim]``."""
    rng = np.random.default_rng(0)
    if not tables:
        return torch.from_numpy(rng.standard_normal((num_items, _WIDTH), dtype=np.float32))
    base = np.concatenate([read_npy(table).astype(np.float32) for table in tables])
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    noise = rng.standard_normal((num_items, base.shape[1]), dtype=np.float32)
    noise *= 0.5 / base.shape[1] ** 0.5
    return torch.from_numpy(base[rng.integers(len(base), size=num_items)] + noise)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, threads=1)
    add = parser.add_argument
    add("--items", nargs="+", type=positive_int, default=[20_000, 40_000], metavar="N")
    add("--tables", nargs="+", type=Path, default=[], metavar="FILE", help="(normal rows)")
    add("--backends", nargs="+", choices=("matmul", "faiss"), default=["matmul", "faiss"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [["backend", "items", "processor s", "recall"]]
    for num_items in options.items:
        features = rows_like(options.tables, num_items)
        for backend in options.backends:
            start, recall = process_time(), "1"
            if backend == "matmul":
                cosine_neighbors(features, _NEIGHBORS, backend="matmul")
            else:
                try:
                    recall = f"{approximate_neighbors(features, _NEIGHBORS)[2]:.3f}"
                except ValueError as error:
                    recall = f"refused: {error}"
            rows.append([backend, f"{num_items:,}", f"{process_time() - start:.1f}", recall])
            log("  ".join(rows[-1]))
    print(markdown_table(rows))
    print(f"\n{origin(torch.device('cpu'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
