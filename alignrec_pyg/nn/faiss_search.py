"""Approximate nearest-neighbour search by cosine with FAISS, for millions of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alignrec_pyg.checks import require_package
from alignrec_pyg.nn.knn_search import (
    SPARE,
    decoded,
    exact_keys,
    lengths,
    neighbors_of,
    ordered_keys,
    unit_rows,
)

NUM_QUERIES = 1000
"""Number of rows whose exact neighbours are searched to measure the recall."""

_LISTS_BY_ROOT = 2  # lists by the square root of the rows
_TRAINING_ROWS = 64  # of k-means, for each list
_ITERATIONS = 10
_FIRST_PROBES = 4
_MOST_SHARE = 1 / 8  # of the lists; beyond, exact products take less time
_CHUNK = 1 << 17  # rows that are searched for at a time


def approximate_neighbors(
    features: Tensor, k: int, *, min_recall: float = 0.95, block_size: int = 512
) -> tuple[Tensor, Tensor, float]:
    r"""Finds nearly the ``k`` rows with the highest cosine to each row: itself first.

    k-means divides the rows into :math:`2 \sqrt n` lists (an inverted file of `FAISS
    <https://arxiv.org/abs/2401.08281>`_), and each row is compared with the rows of the lists
    nearest to it. Their number is doubled until the recall reaches ``min_recall``: the share, for
    1,000 rows, of the other :math:`k - 1` neighbours that are as near as the exact ones. What was
    found is ordered in double precision, ties by the lower index.

    Memory in addition to the features is one copy in single precision, :math:`4 n d` bytes, the
    result, and what 131,072 rows at a time take.

    Shapes:
        - **input:** finite and non-zero features :math:`(n, d)`, which may be memory-mapped
        - **output:** neighbours int64 :math:`(n, k)`, cosines float64 :math:`(n, k)`, and the
          recall

    Raises:
        ImportError: If faiss is not installed.
        ValueError: If an eighth of the lists does not give the recall.
    """
    faiss = require_package("faiss", "backend='faiss'", "faiss-cpu", extra="serving")
    n, device = features.size(0), features.device
    length = lengths(features)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(device)
    asked = order[:NUM_QUERIES]
    _, exact = neighbors_of(features, asked, k, block_size=block_size)

    def found(rows: Tensor) -> Tensor:
        candidate = _candidates(faiss, index, features, length, rows, min(k + SPARE, n))
        few = (candidate < 0).any(dim=1)
        candidate[few] = torch.arange(
            candidate.size(1), device=device
        )  # any order: they are sorted below
        without = (candidate != rows.unsqueeze(1)).all(dim=1)
        candidate[without, -1] = rows[without]
        key = ordered_keys(features, length, rows, candidate, block_size)[:, :k].clone()
        key[few] = exact_keys(features, length, rows[few], k, block_size)
        return key

    with _threads(faiss):
        index = _inverted_file(faiss, features, length, order)
        most = max(1, int(index.nlist * _MOST_SHARE))
        index.nprobe = min(_FIRST_PROBES, most)
        while (recall := _recall(decoded(found(asked), n)[1], exact)) < min_recall:
            if index.nprobe == most:
                raise ValueError(
                    f"'min_recall' needs to be at most {math.floor(recall * 1000) / 1000} (got "
                    f"{min_recall}): this recall is reached when each row is compared with an "
                    "eighth of the rows, which hardly form clusters; the exact search, which is "
                    "the default, finds all"
                )
            index.nprobe = min(2 * index.nprobe, most)
        parts = torch.arange(n, device=device).split(_CHUNK)
        bar = tqdm(parts, desc="neighbours", unit="block", disable=None, delay=2, leave=False)
        key = torch.cat([found(rows) for rows in bar])
    return *decoded(key, n), recall


def _inverted_file(faiss: ModuleType, features: Tensor, length: Tensor, order: Tensor) -> Any:
    """An index of all rows, with lists by k-means of the first rows of ``order``."""
    n, dim = features.shape
    num_lists = max(1, int(_LISTS_BY_ROOT * math.sqrt(n)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = _ITERATIONS
    index.cp.spherical = True
    index.cp.min_points_per_centroid = 1  # no warning on stderr
    index.cp.max_points_per_centroid = _TRAINING_ROWS
    index.train(_single(features, length, order[: _TRAINING_ROWS * num_lists].sort().values))
    for rows in torch.arange(n, device=features.device).split(_CHUNK):
        index.add(_single(features, length, rows))
    return index


def _candidates(
    faiss: ModuleType, index: Any, features: Tensor, length: Tensor, rows: Tensor, fetched: int
) -> Tensor:
    """The rows in the nearest lists with the highest cosine; -1 where there are too few.

    Each list is compared with all rows that are near it in one matrix product, which takes a
    fraction of the time of ``index.search``.
    """
    query = _single(features, length, rows)
    best = faiss.ResultHeap(len(query), fetched, keep_max=True)
    _, asked = index.quantizer.search(query, index.nprobe)
    order = asked.argsort(axis=None, kind="stable")
    ends = np.searchsorted(asked.ravel()[order], np.arange(index.nlist + 1))
    for number, (start, stop) in enumerate(pairwise(ends)):
        size = index.invlists.list_size(number)
        if start == stop or not size:
            continue
        who = order[start:stop] // index.nprobe
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
        codes = faiss.rev_swig_ptr(index.invlists.get_codes(number), size * 4 * index.d)
        vectors = codes.view(np.float32).reshape(size, index.d)
        metric = faiss.METRIC_INNER_PRODUCT
        cosine, place = faiss.knn(query[who], vectors, min(fetched, size), metric=metric)
        best.add_result_subset(who, cosine, ids[place])
    best.finalize()
    return torch.from_numpy(best.I).to(features.device)


def _single(features: Tensor, length: Tensor, rows: Tensor) -> np.ndarray:
    """Rows of length 1 in single precision."""
    unit = unit_rows(features[rows], length[rows])
    return unit.float().cpu().numpy()


def _recall(cosine: Tensor, exact: Tensor) -> float:
    """Share of the other neighbours found that are as near as the exact ones.

    Cosines are compared, since among equal rows any is as good as another.
    """
    if exact.size(1) == 1:
        return 1.0
    return float((cosine[:, 1:] >= exact[:, -1:]).double().mean())


@contextmanager
def _threads(faiss: ModuleType) -> Iterator[None]:
    """Lets FAISS use as many threads as torch."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(torch.get_num_threads())
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
