"""Exact nearest-neighbour search by cosine, in blocks of rows and independent of the backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alignrec_pyg.checks import require_package
from alignrec_pyg.nn.precision import in_float32

Backend = Literal["auto", "torch_cluster", "matmul"]

# Cosines are computed in double precision and rounded to a multiple of 2^-30 (about 1e-9) before
# they are compared. The rounding error of a product (1e-15), which depends on the shape of its
# block, can then not reorder neighbours, and exact duplicates tie exactly. The grid is a power of
# two because the cosines of regular features (0.5, 0.25, ...) are then points of the grid.
_GRID = 2.0**30
# One integer orders by cosine, then by index: cosine * n + (n - 1 - index). The item itself has
# cosine 2 in its key, so that it precedes all of its duplicates.
_SELF = 2**31

# On the CPU, torch_cluster takes 38 s for 7,050 x 768 (a KD-tree; the products take 1 s), and 0.1 s
# for this amount of work (items^2 x dim). On an H100 it takes 0.89 s, the products 0.04 s.
_QUICK_WORK = 10**8
_CUDA_LIMIT = 100  # a constant of torch_cluster's CUDA kernel
_CAST_ELEMENTS = 2**22  # numbers in double precision at a time: 32 MiB
_FIRST_ROWS = 16  # of the first block; each further one is as large as all before, up to its limit
SPARE = 6
"""Additional candidates beyond ``k``, to detect ties."""


@in_float32
def cosine_neighbors(
    features: Tensor, k: int, *, backend: Backend = "auto", block_size: int = 512
) -> tuple[Tensor, Tensor]:
    r"""Finds the ``k`` rows with the highest cosine to each row: itself first, ties by lower index.

    Candidates are found in single precision and ordered in double precision. Peak memory in
    addition to the features is one copy of them in single precision, :math:`4 n d` bytes (with
    torch_cluster, in double precision), :math:`20 n (k + 6)` bytes for the candidates, and one
    block of scores, at most ``block_size * n * 32`` bytes including sorting. A block that does not
    fit on the device is halved.

    The backend is ``"matmul"`` (blocked products), ``"torch_cluster"`` (its kNN search finds the
    candidates), or ``"auto"``, which uses torch_cluster, if installed, for small inputs on the CPU.

    Shapes:
        - **input:** finite and non-zero features :math:`(n, d)`, which may be memory-mapped
        - **output:** neighbours int64 :math:`(n, k)`, cosines float64 :math:`(n, k)`, rounded to
          multiples of :math:`2^{-30}`

    Raises:
        ImportError: If ``backend="torch_cluster"`` and it is not installed.
        MemoryError: If not even one row of scores fits.
        ValueError: If ``k`` or the number of rows exceeds what the backend can do.
    """
    n = features.size(0)
    length = lengths(features)
    quick = n * n * features.size(1) <= _QUICK_WORK and not features.is_cuda
    if backend == "torch_cluster" or (backend == "auto" and quick and torch_cluster_installed()):
        candidate = _torch_cluster_candidates(features, length, k)
        margin = 2 / _GRID  # far above the rounding errors of distances in double precision
    else:
        candidate = _single_precision_candidates(features, length, min(k + SPARE, n), block_size)
        margin = 2 * proposal_error(features.size(1))
    rows = torch.arange(n, device=features.device)
    key = ordered_keys(features, length, rows, candidate, block_size)
    # No other row can reach the k-th best candidate if that one exceeds the worst candidate by more
    # than the error bound of the candidate search. The other rows, which may have ties beyond their
    # candidates, are searched completely.
    certain = (key[:, 0] >= _SELF * n) & (
        key[:, k - 1] > key[:, -1] + math.ceil(margin * _GRID) * n
    )
    doubtful = (~(certain | (candidate.size(1) == n))).nonzero()[:, 0]
    top = key[:, :k].clone()
    top[doubtful] = exact_keys(features, length, doubtful, k, block_size)
    return decoded(top, n)


@in_float32
def neighbors_of(
    features: Tensor, rows: Tensor, k: int, *, block_size: int = 512
) -> tuple[Tensor, Tensor]:
    r"""As :func:`cosine_neighbors`, for the given ``rows`` only, int64 :math:`(r)`.

    Shapes:
        - **output:** neighbours int64 :math:`(r, k)`, cosines float64 :math:`(r, k)`
    """
    top = exact_keys(features, lengths(features), rows, k, block_size)
    return decoded(top, features.size(0))


@in_float32
def nearest_rows(
    features: Tensor, queries: Tensor, k: int, *, block_size: int = 512
) -> tuple[Tensor, Tensor]:
    r"""Finds the ``k`` rows with the highest cosine to each query, ties by the lower index.

    Like :func:`cosine_neighbors`, for vectors that are not among the rows.

    Shapes:
        - **input:** finite and non-zero features :math:`(n, d)` and queries :math:`(q, d)`
        - **output:** rows int64 :math:`(q, k)`, cosines float64 :math:`(q, k)`
    """
    no_row = torch.full((queries.size(0),), -1, device=features.device)
    top = exact_keys(features, lengths(features), no_row, k, block_size, queries)
    return decoded(top, features.size(0))


def torch_cluster_installed() -> bool:
    """Whether torch_cluster can be imported."""
    try:
        import_torch_cluster()
    except ImportError:
        return False
    return True


def import_torch_cluster() -> ModuleType:
    """Imports torch_cluster, or fails if it is missing or was built for another torch."""
    return require_package(
        "torch_cluster",
        "backend='torch_cluster' (backend='matmul' gives the same edges without it)",
        "--no-build-isolation torch-cluster==1.6.3",
        extra="graph",
    )


def _encode(cosine: Tensor, index: Tensor, owner: Tensor, n: int) -> Tensor:
    """Converts cosines ``[R, C]``, which change, to keys that order by cosine, then by index."""
    key = cosine.mul_(_GRID).round_().long()
    key.masked_fill_(index == owner.unsqueeze(1), _SELF)
    return key.mul_(n).add_(n - 1 - index)


def decoded(key: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The index and the cosine of keys."""
    index = n - 1 - key.remainder(n)
    cosine = key.div(n, rounding_mode="floor")
    return index, cosine.masked_fill(cosine == _SELF, int(_GRID)).double() / _GRID


def proposal_error(dim: int) -> float:
    """Error bound of an inner product of unit rows, for any order of summation."""
    error = (dim + 4) * 2.0**-23
    if not _full_precision():
        # "medium" and "high" allow factors in bfloat16 (8 significant bits) or TF32 (11): the
        # relative error of an entry is below 2^-7, so that by Cauchy-Schwarz the error of the
        # product of two unit rows is below 2 * 2^-7 + 2^-14. Most rows then need a full search.
        error += 2.0**-6 + 2.0**-14
    return error


def _full_precision() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # a backend was set separately, so that there is no common precision
        return False


def lengths(features: Tensor) -> Tensor:
    """Length of each row, float64 ``[n]``."""
    parts = []
    for part in features.split(_cast_rows(features)):
        row = part.double()
        # Dividing by the largest entry first avoids overflow and underflow of the squares.
        largest = torch.linalg.vector_norm(row, ord=float("inf"), dim=1)
        unscaled = row / largest.unsqueeze(1)
        parts.append(largest * torch.linalg.vector_norm(unscaled, dim=1))
    return torch.cat(parts)


def _cast_rows(features: Tensor) -> int:
    """Number of rows in double precision at a time."""
    return max(1, _CAST_ELEMENTS // features.size(1))


def unit_rows(features: Tensor, length: Tensor) -> Tensor:
    """Rows of length 1, float64."""
    return features / length.unsqueeze(1)  # float64 by promotion: no second copy


def exact_keys(
    features: Tensor,
    length: Tensor,
    wanted: Tensor,
    k: int,
    block_size: int,
    queries: Tensor | None = None,
) -> Tensor:
    """The ``k`` highest keys of the rows ``wanted``, sorted, float64 ``[len(wanted), k]``.

    With ``queries``, these vectors are compared instead; ``wanted`` has the row of each (-1: none).
    """
    n = features.size(0)
    index = torch.arange(n, device=features.device).unsqueeze(0)
    top = torch.empty(wanted.numel(), k, dtype=torch.long, device=features.device)
    step = _cast_rows(features)

    def search(block: slice) -> None:
        owner = wanted[block]
        if queries is None:
            mine = unit_rows(features[owner], length[owner])
        else:
            mine = unit_rows(queries[block], lengths(queries[block]))
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
    """The ``fetched`` rows with the highest cosine to each row, up to rounding.

    A product is computed once, for both of its rows. The rows come in random order, so that after
    ``m`` of them only ``fetched / m`` of a block's rows are better than what a later row has.
    """
    n, device = features.size(0), features.device
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(device)
    place = torch.empty_like(order)
    place[order] = torch.arange(n, device=device)
    single = torch.empty(features.shape, device=device)
    step = _cast_rows(features)
    for start in range(0, n, step):
        part = slice(start, start + step)
        single[place[part]] = unit_rows(features[part], length[part]).float()
    best = torch.full((n, fetched), -torch.inf, device=device)
    candidate = torch.zeros(n, fetched, dtype=torch.long, device=device)

    def search(block: slice) -> None:
        start, stop = block.start, block.stop
        score = single[block] @ single[start:].T
        value, index = score.topk(min(fetched, n - start), dim=1, sorted=False)
        mine = _merged(best[block], candidate[block], value, index + start)
        # the rows of the block that are better than what later rows have, by the later row
        later = score[:, stop - start :]
        hit = _places(later > best[stop:].amin(dim=1))
        row, column = hit // (n - stop), hit % (n - stop)
        column, by_column = column.sort()
        who, count = column.unique_consecutive(return_counts=True)
        if len(who):
            number = torch.arange(len(who), device=device).repeat_interleave(count)
            rank = torch.arange(len(column), device=device) - (count.cumsum(0) - count)[number]
            value = torch.full((len(who), int(count.max())), -torch.inf, device=device)
            index = torch.zeros(value.shape, dtype=torch.long, device=device)
            row = row[by_column]
            value[number, rank], index[number, rank] = later[row, column], row + start
            who += stop
            best[who], candidate[who] = _merged(best[who], candidate[who], value, index)
        best[block], candidate[block] = mine  # last: a block that did not fit is repeated

    _in_blocks(search, n, block_size, n)
    result = torch.empty_like(candidate)
    result[order] = order[candidate]
    return result


def _merged(best: Tensor, candidate: Tensor, value: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The best among the present and the new candidates of each row."""
    value, place = torch.cat([best, value], dim=1).topk(best.size(1), dim=1, sorted=False)
    return value, torch.cat([candidate, index], dim=1).gather(1, place)


def _places(mask: Tensor) -> Tensor:
    """The positions of true values in the flattened mask."""
    if mask.is_cuda:
        return mask.flatten().nonzero()[:, 0]
    return torch.from_numpy(np.flatnonzero(mask.numpy()))  # a fifth of the time of torch's


def _in_blocks(search: Callable[[slice], None], count: int, block_size: int, n: int) -> None:
    """Calls ``search`` block by block; a block that does not fit on the device is halved."""
    start = 0
    with tqdm(
        total=count, desc="neighbours", unit="row", disable=None, delay=2, leave=False
    ) as progress:
        while start < count:
            stop = min(start + min(block_size, max(start, _FIRST_ROWS)), count)
            try:
                search(slice(start, stop))
            except torch.OutOfMemoryError as error:
                if block_size == 1:
                    raise MemoryError(
                        f"one row of scores over {n} items needs about {32 * n / 2**20:.0f} MiB, "
                        "which are not free on the device: move the features to the CPU"
                    ) from error
                block_size //= 2
                continue
            progress.update(stop - start)
            start = stop


def _torch_cluster_candidates(features: Tensor, length: Tensor, k: int) -> Tensor:
    """The same candidates from torch_cluster, up to ties, of which it returns any.

    For rows of length 1, the order of Euclidean distances is that of cosines (torch_cluster does
    not support ``cosine=True`` on the CPU).
    """
    torch_cluster = import_torch_cluster()
    n = features.size(0)
    fetched = min(k + SPARE, n)
    if features.is_cuda:
        if k > _CUDA_LIMIT:
            raise ValueError(
                f"'k' needs to be in [1, {_CUDA_LIMIT}] with backend='torch_cluster' on a GPU "
                f"(got {k}): use backend='matmul'"
            )
        fetched = min(fetched, _CUDA_LIMIT)
    rows = unit_rows(features, length)
    owner, candidate = torch_cluster.knn(rows, rows, fetched)
    return candidate[owner.argsort(stable=True)].view(n, fetched)


def ordered_keys(
    features: Tensor, length: Tensor, rows: Tensor, candidate: Tensor, block_size: int
) -> Tensor:
    """Keys of the candidates ``[R, C]`` of the ``rows``, highest first, int64 ``[R, C]``."""
    n = features.size(0)
    ordered = torch.empty_like(candidate)

    def order(block: slice) -> None:
        mine, proposed = rows[block], candidate[block]
        unit = unit_rows(features[mine], length[mine])
        row = features.index_select(0, proposed.reshape(-1))  # faster than indexing
        # Dividing the products by the candidates' lengths avoids a pass over all of their rows.
        product = torch.linalg.vecdot(row.double().view(*proposed.shape, -1), unit.unsqueeze(1))
        key = _encode(product.div_(length[proposed]), proposed, mine, n)
        ordered[block] = key.sort(dim=1, descending=True).values

    # Smaller blocks, since each candidate is a complete row of features.
    _in_blocks(order, len(rows), max(1, block_size // 8), n)
    return ordered
