"""Exact cosine neighbours in blocks of rows, with an order that no backend can change."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from alignrec_pyg.checks import require_package

Backend = Literal["auto", "torch_cluster", "matmul"]

# Cosines are taken in double precision and rounded to a multiple of 2^-30 (about 1e-9) before they
# are compared: the noise of a product (1e-15), which depends on the shape of the block it is part
# of, cannot then reorder neighbours, and exact duplicates tie exactly. A power of two, because the
# cosines of regular features (0.5, 0.25, ...) lie on that grid and not between two of its points.
_GRID = 2.0**30
# One number orders by cosine, then by index: cosine * n + (n - 1 - index), an integer below 2^53.
# The item itself gets cosine 2 in it, so that it comes first however many duplicates it has.
_SELF = 2 * _GRID
MAX_ITEMS = 2**22

# On the CPU, torch_cluster takes 38 s for 7,050 x 768 (a KD-tree; the products take 1 s); its share
# of that for this work (items^2 x dim) is 0.1 s. On an H100 it takes 0.89 s, the products 0.04 s.
_QUICK_WORK = 10**8
_CUDA_LIMIT = 100  # a constant of torch_cluster's CUDA kernel
_CAST_ELEMENTS = 2**22  # features in double precision at a time: 32 MiB
_SPARE = 6  # candidates fetched beyond k, to see ties at the border


def cosine_neighbors(
    features: Tensor, k: int, *, backend: Backend = "auto", block_size: int = 512
) -> tuple[Tensor, Tensor]:
    r"""The ``k`` rows of highest cosine to each row: itself first, ties by the lower index.

    Single precision proposes, double precision settles. Peak memory beside the features is one
    copy of them in single precision, :math:`4 n d` bytes (with torch_cluster, in double precision),
    and one block of scores, at most ``block_size * n * 32`` bytes with its sorting. A block that
    does not fit on the device is halved.

    Args:
        features: Finite rows, none of them zero, :math:`(n, d)`; they may be memory-mapped.
        k: Neighbours of each row, itself included, at most :math:`n`.
        backend: ``"matmul"`` (blocked products), ``"torch_cluster"`` (its kNN proposes, ties and
            order are settled here), or ``"auto"``: the latter for small inputs on the CPU where
            installed.
        block_size: Rows per block.

    Shapes:
        - **output:** neighbours int64 :math:`(n, k)`, cosines float64 :math:`(n, k)`, rounded to
          multiples of :math:`2^{-30}`

    Raises:
        ImportError: If ``backend="torch_cluster"`` and it is not installed.
        MemoryError: If not even one row of scores fits.
        ValueError: If ``k`` or the number of rows exceeds what the backend can do.
    """
    n = features.size(0)
    if n > MAX_ITEMS:
        raise ValueError(f"'features' needs at most {MAX_ITEMS} rows for exact search (got {n})")
    length = _lengths(features)
    if backend == "torch_cluster":
        return _from_torch_cluster(features, length, k, import_torch_cluster(), block_size)
    quick = n * n * features.size(1) <= _QUICK_WORK and not features.is_cuda
    if backend == "auto" and quick and torch_cluster_installed():
        return _from_torch_cluster(features, length, k, import_torch_cluster(), block_size)
    candidate = _single_precision_candidates(features, length, min(k + _SPARE, n), block_size)
    margin = 2 * _proposal_error(features.size(1))
    return _settled(features, length, candidate, k, margin, block_size)


def neighbors_of(
    features: Tensor, rows: Tensor, k: int, *, block_size: int = 512
) -> tuple[Tensor, Tensor]:
    r"""What :func:`cosine_neighbors` gives for some rows only, int64 :math:`(r)`.

    Shapes:
        - **output:** neighbours int64 :math:`(r, k)`, cosines float64 :math:`(r, k)`
    """
    top = _exact_top(features, _lengths(features), rows, k, block_size)
    return _decode(top, features.size(0))


def nearest_rows(
    features: Tensor, queries: Tensor, k: int, *, block_size: int = 512
) -> tuple[Tensor, Tensor]:
    r"""The ``k`` rows of highest cosine to each query, ties by the lower index.

    As :func:`cosine_neighbors` for vectors that are none of the rows.

    Args:
        features: Finite rows, none of them zero, :math:`(n, d)`.
        queries: Finite vectors, none of them zero, :math:`(q, d)`.
        k: Rows for each query, at most :math:`n`.
        block_size: Queries per block.

    Shapes:
        - **output:** rows int64 :math:`(q, k)`, cosines float64 :math:`(q, k)`
    """
    nobody = torch.full((queries.size(0),), -1, device=features.device)
    top = _exact_top(features, _lengths(features), nobody, k, block_size, queries)
    return _decode(top, features.size(0))


def torch_cluster_installed() -> bool:
    """Whether torch_cluster can be imported."""
    try:
        import_torch_cluster()
    except ImportError:
        return False
    return True


def import_torch_cluster() -> ModuleType:
    """The package, or an error that says how to get it.

    Raises:
        ImportError: If it is missing, or built for another torch.
    """
    return require_package(
        "torch_cluster",
        "backend='torch_cluster' (backend='matmul' gives the same edges without it)",
        "--no-build-isolation torch-cluster==1.6.3",
        extra="graph",
    )


def _encode(cosine: Tensor, index: Tensor, owner: Tensor, n: int) -> Tensor:
    """Turns cosines ``[R, C]`` in place into numbers that order by cosine, then by index."""
    key = cosine.mul_(_GRID).round_()
    key.masked_fill_(index == owner.unsqueeze(1), _SELF)
    return key.mul_(n).add_(n - 1 - index)


def _decode(key: Tensor, n: int) -> tuple[Tensor, Tensor]:
    integer = key.long()
    index = n - 1 - integer.remainder(n)
    cosine = integer.div(n, rounding_mode="floor").double()
    return index, torch.where(cosine == _SELF, _GRID, cosine) / _GRID


def _proposal_error(dim: int) -> float:
    """How far a product of unit rows may be off in a proposal, in any order of sums."""
    error = (dim + 4) * 2.0**-23
    if not _full_precision():
        # "medium" and "high" allow factors cut to bfloat16 (8 significant bits) or TF32 (11): each
        # entry is off by less than 2^-7 of itself, so by Cauchy-Schwarz the product of two unit
        # rows by less than 2 * 2^-7 + 2^-14. Most rows are then searched in full.
        error += 2.0**-6 + 2.0**-14
    return error


def _full_precision() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # a backend was set on its own, and torch has no word for the whole
        return False


def _lengths(features: Tensor) -> Tensor:
    """Length of each row, float64 ``[n]``."""
    parts = []
    for part in features.split(_cast_rows(features)):
        row = part.double()
        # Dividing by the largest entry first keeps the squares of huge and tiny rows in range.
        largest = torch.linalg.vector_norm(row, ord=float("inf"), dim=1)
        unscaled = row / largest.unsqueeze(1)
        parts.append(largest * torch.linalg.vector_norm(unscaled, dim=1))
    return torch.cat(parts)


def _cast_rows(features: Tensor) -> int:
    """Rows to hold in double precision at a time."""
    return max(1, _CAST_ELEMENTS // features.size(1))


def _unit_rows(features: Tensor, length: Tensor) -> Tensor:
    """Rows of length 1, float64."""
    return features / length.unsqueeze(1)  # float64 by promotion: no second copy


def _exact_top(
    features: Tensor,
    length: Tensor,
    wanted: Tensor,
    k: int,
    block_size: int,
    queries: Tensor | None = None,
) -> Tensor:
    """The ``k`` highest keys of the rows ``wanted``, in order, float64 ``[len(wanted), k]``.

    With ``queries`` those of these vectors, as the rows that ``wanted`` calls them (-1: none).
    """
    n = features.size(0)
    index = torch.arange(n, device=features.device).unsqueeze(0)
    top = length.new_empty(wanted.numel(), k)
    step = _cast_rows(features)

    def search(block: slice) -> None:
        owner = wanted[block]
        if queries is None:
            mine = _unit_rows(features[owner], length[owner])
        else:
            mine = _unit_rows(queries[block], _lengths(queries[block]))
        cosine = length.new_empty(owner.numel(), n)
        for part, scores in zip(features.split(step), cosine.split(step, dim=1), strict=True):
            scores.copy_(mine @ part.double().T)
        key = _encode(cosine.div_(length), index, owner, n)
        top[block] = key.topk(k, dim=1).values

    _in_blocks(search, wanted.numel(), block_size, n)
    return top


def _single_precision_candidates(
    features: Tensor, length: Tensor, fetched: int, block_size: int
) -> Tensor:
    """The best ``fetched`` rows to each row, up to rounding."""
    n = features.size(0)
    single = torch.empty(features.shape, device=features.device)
    step = _cast_rows(features)
    for start in range(0, n, step):
        part = slice(start, start + step)
        single[part] = _unit_rows(features[part], length[part])
    candidate = torch.empty(n, fetched, dtype=torch.long, device=features.device)

    def search(block: slice) -> None:
        score = single[block] @ single.T
        candidate[block] = score.topk(fetched, dim=1, sorted=False).indices

    _in_blocks(search, n, block_size, n)
    return candidate


def _in_blocks(search: Callable[[slice], None], count: int, block_size: int, n: int) -> None:
    """Calls ``search`` block by block; a block that does not fit on the device is halved."""
    start = 0
    with tqdm(
        total=count, desc="neighbours", unit="row", disable=None, delay=2, leave=False
    ) as progress:
        while start < count:
            stop = min(start + block_size, count)
            try:
                search(slice(start, stop))
            except torch.OutOfMemoryError as error:
                if block_size == 1:
                    raise MemoryError(
                        f"one row of scores over {n} items needs about {32 * n / 2**20:.0f} MiB, "
                        "which the device does not have free: move the features to the CPU"
                    ) from error
                block_size //= 2
                continue
            progress.update(stop - start)
            start = stop


def _from_torch_cluster(
    features: Tensor, length: Tensor, k: int, torch_cluster: ModuleType, block_size: int
) -> tuple[Tensor, Tensor]:
    """The same neighbours with torch_cluster as proposer.

    On rows of length 1 the Euclidean order is the cosine order (its own ``cosine=True`` is refused
    on the CPU). Among equal distances it returns any.
    """
    n = features.size(0)
    fetched = min(k + _SPARE, n)
    if features.is_cuda:
        if k > _CUDA_LIMIT:
            raise ValueError(
                f"'k' needs to be in [1, {_CUDA_LIMIT}] with backend='torch_cluster' on a GPU "
                f"(got {k}): use backend='matmul'"
            )
        fetched = min(fetched, _CUDA_LIMIT)
    rows = _unit_rows(features, length)
    owner, candidate = torch_cluster.knn(rows, rows, fetched)
    candidate = candidate[owner.argsort(stable=True)].view(n, fetched)
    # Two steps of the grid are far above the noise of distances in double precision.
    return _settled(features, length, candidate, k, 2 / _GRID, block_size)


def _settled(
    features: Tensor, length: Tensor, candidate: Tensor, k: int, margin: float, block_size: int
) -> tuple[Tensor, Tensor]:
    """The best ``k`` of more candidates, in order.

    A row none of whose other rows can reach its ``k``-th best is settled: that one exceeds the
    worst candidate by more than ``margin``, what proposing may be off by. The others, whose ties
    may go on beyond their candidates, are searched again in full.
    """
    n, fetched = candidate.shape
    top = length.new_empty(n, k)
    certain = torch.full((n,), fetched == n, device=features.device)

    def settle(block: slice) -> None:
        mine = torch.arange(n, device=features.device)[block]
        proposed = features.index_select(0, candidate[block].reshape(-1))  # faster than indexing
        proposed = proposed.double().view(len(mine), fetched, -1)
        unit = _unit_rows(features[block], length[block])
        # Dividing the products by the candidates' lengths spares a pass over all their rows.
        cosine = torch.linalg.vecdot(proposed, unit.unsqueeze(1)).div_(length[candidate[block]])
        key = _encode(cosine, candidate[block], mine, n).sort(dim=1, descending=True).values
        top[block] = key[:, :k]
        has_self = (candidate[block] == mine.unsqueeze(1)).any(dim=1)
        certain[block] |= has_self & (key[:, k - 1] > key[:, -1] + margin * _GRID * n)

    # Smaller blocks: each candidate is a whole row of features.
    _in_blocks(settle, n, max(1, block_size // 8), n)
    doubtful = (~certain).nonzero()[:, 0]
    top[doubtful] = _exact_top(features, length, doubtful, k, block_size)
    return _decode(top, n)
