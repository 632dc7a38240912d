"""Makes a feature table from a neighbour list: the top eigenvectors of its graph.

    python benchmarks/spectral_features.py --neighbors text_knn10.npz --out baby/text_spectral.npy

For data whose features are not public but whose item graph is: the table lets every model that
reads features run at the data's size. It contains only the information of the graph, so results on
it are not results on the features that the graph was made of.

The graph's cosines are symmetrised, W = (C + C') / 2 without self-loops, and normalised,
N = D^-1/2 W D^-1/2. With the ``dim`` largest eigenvalues l of N and their eigenvectors V, the table
is V sqrt(max(l, 0)), the closest N can be written as inner products of ``dim``-wide rows; rows are
then scaled to length 1.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.options import DATA, EXPERIMENT, OUTPUT, option, positive_int

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of this script."""

    neighbors: Annotated[
        Path, option(DATA, "Arrays 'neighbor' and 'cosine', [items, k] each.", "FILE.npz")
    ]
    out: Annotated[Path, option(OUTPUT, "Table to write.", "FILE.npy")]
    dim: Annotated[int, option(EXPERIMENT, "Number of eigenvectors.", "N", parser=positive_int)] = (
        128
    )


def spectral_features(neighbor: np.ndarray, cosine: np.ndarray, dim: int) -> np.ndarray:
    """The table, float32 ``[items, dim]``; items without a neighbour but themselves are zero rows.

    Raises:
        ValueError: If ``dim`` is not in [1, items - 1].
    """
    import numpy as np
    import scipy.sparse
    from scipy.sparse.linalg import eigsh

    num_items, k = neighbor.shape
    if not 1 <= dim < num_items:
        raise ValueError(f"'dim' needs to be in [1, {num_items - 1}] (got {dim})")
    row = np.repeat(np.arange(num_items), k)
    col, weight = neighbor.reshape(-1), np.maximum(cosine.reshape(-1).astype(np.float64), 0)
    other = row != col
    graph = scipy.sparse.csr_matrix(
        (weight[other], (row[other], col[other])), shape=(num_items, num_items)
    )
    graph = (graph + graph.T) / 2
    degree = np.asarray(graph.sum(axis=1)).reshape(-1)
    scale = np.zeros(num_items)
    scale[degree > 0] = degree[degree > 0] ** -0.5
    scaling = scipy.sparse.diags(scale)
    start = np.random.default_rng(0).normal(size=num_items)
    value, vector = eigsh(scaling @ graph @ scaling, k=dim, which="LA", v0=start)
    order = np.argsort(-value)
    table = vector[:, order] * np.sqrt(np.maximum(value[order], 0))
    length = np.linalg.norm(table, axis=1, keepdims=True)
    return (table / np.where(length > 0, length, 1)).astype(np.float32)


def write_table(options: Options) -> None:
    """Writes the table."""
    from alignrec_pyg.storage import write_array
    from alignrec_pyg.transforms import NeighborLists

    lists = NeighborLists.load(options.neighbors)
    if lists.cosine is None:
        raise ValueError(f"{options.neighbors} needs an array 'cosine' [items, k]")
    table = spectral_features(lists.neighbor.numpy(), lists.cosine.numpy(), options.dim)
    write_array(options.out, table)
    print(f"written: {options.out} {table.shape}")


main = script(Options, write_table, __doc__)

if __name__ == "__main__":
    sys.exit(main())
