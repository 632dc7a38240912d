"""Sparse matrices in CSR format: building, products, rows, draws of entries, transposes."""

from __future__ import annotations

import warnings

import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional

_MAX_INT32 = 2**31 - 1


def csr_matrix(row: Tensor, col: Tensor, value: Tensor, size: tuple[int, int]) -> Tensor:
    """A CSR matrix with int32 indices, sorted by row and column.

    Raises:
        ValueError: If an entry is repeated, or there are more rows, columns or entries than int32
            can count.
    """
    if max(row.numel(), *size) > _MAX_INT32:
        raise ValueError(
            f"'edge_index' needs to have at most {_MAX_INT32:,} edges and nodes, the largest int32 "
            f"(got {row.numel():,} edges between {size[1]:,} and {size[0]:,} nodes; a user-item "
            "graph has two edges for each link): leave links out, e.g. with KCore or MinRating"
        )
    key, order = (row * size[1] + col).sort()
    if (key[1:] == key[:-1]).any():
        first = int(order[1:][key[1:] == key[:-1]][0])
        raise ValueError(
            f"'edge_index' needs to list every edge once (the edge at column {first} is a repeat): "
            "coalesce it, e.g. with torch_geometric.utils.coalesce"
        )
    row_pointer = torch.zeros(size[0] + 1, dtype=torch.int64, device=row.device)
    row_pointer[1:] = torch.bincount(row, minlength=size[0]).cumsum(0)
    return csr_tensor(row_pointer.int(), col[order].int(), value[order], size[1])


def csr_tensor(row_pointer: Tensor, column: Tensor, value: Tensor, num_columns: int) -> Tensor:
    """A matrix in CSR format, without checks."""
    size = (row_pointer.numel() - 1, num_columns)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(row_pointer, column, value, size, check_invariants=False)


def csr_matmul(row_pointer: Tensor, column: Tensor, value: Tensor, x: Tensor) -> Tensor:
    """A matrix in CSR format times ``x`` ``[num_columns, d]``, without gradient."""
    # The kernels need row-major operands; a gradient may be an expanded or transposed view.
    value, x = value.to(x.dtype).contiguous(), x.contiguous()
    if x.device.type != "cpu":
        return csr_tensor(row_pointer, column, value, x.size(0)) @ x
    # The weighted sum of a bag of rows: a half to a third of the time of `matrix @ x`.
    return functional.embedding_bag(
        column, x, row_pointer, mode="sum", per_sample_weights=value, include_last_offset=True
    )


def select_rows(row_pointer: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Row pointers of some rows of a CSR matrix, and the positions of their entries in it."""
    # index_select takes a third to a sixth of the time of brackets
    first = row_pointer.index_select(0, rows)
    count = row_pointer.index_select(0, rows + 1) - first
    pointer = functional.pad(count.cumsum(0, dtype=torch.int32), (1, 0))
    position = torch.arange(int(pointer[-1]), dtype=torch.int32, device=rows.device)
    return pointer, position + (first - pointer[:-1]).repeat_interleave(count)


def draw_entries(
    row_pointer: Tensor, rows: Tensor, num_drawn: int, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """As :func:`select_rows`, but at most ``num_drawn`` entries of a row, without replacement.

    Floyd's algorithm, for all rows at once: the cost does not depend on the length of rows.
    """
    first, count = row_pointer[rows].long(), (row_pointer[rows + 1] - row_pointer[rows]).long()
    shape = (rows.numel(), num_drawn)
    uniform = torch.rand(shape, dtype=torch.float64, generator=generator, device=rows.device)
    drawn = torch.arange(num_drawn, device=rows.device).repeat(rows.numel(), 1)
    more = (count > num_drawn).nonzero()[:, 0]
    of_more, uniform, largest = drawn[more], uniform[more], count[more] - num_drawn
    for column in range(num_drawn):
        # One of 0, ..., largest; where that was drawn before, the largest itself, which was not.
        new = (uniform[:, column] * (largest + 1)).long()
        known = (of_more[:, :column] == new.unsqueeze(1)).any(dim=1)
        of_more[:, column] = torch.where(known, largest, new)
        largest += 1
    drawn[more] = of_more
    kept = torch.arange(num_drawn, device=rows.device) < count.unsqueeze(1)
    number = count.clamp(max=num_drawn).cumsum(0, dtype=torch.int32)
    return functional.pad(number, (1, 0)), (first.unsqueeze(1) + drawn)[kept]


def renumber(column: Tensor, others: Tensor, num_columns: int) -> tuple[Tensor, Tensor]:
    """The distinct columns, ascending, those of ``others`` included, and each one's number."""
    if 8 * column.numel() < num_columns:  # sorting the few costs less than marking among all
        distinct, number = torch.cat([column, others]).unique(return_inverse=True)
        return distinct.long(), number[: column.numel()].int()
    seen = torch.zeros(num_columns, dtype=torch.bool, device=column.device)
    seen[column] = seen[others] = True
    return seen.nonzero()[:, 0], (seen.cumsum(0, dtype=torch.int32) - 1).index_select(0, column)


def transposed_csr(
    pointer: Tensor, column: Tensor, value: Tensor, num_columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The transpose of a CSR matrix."""
    if pointer.device.type == "cpu":  # counts instead of sorting: a third of the time
        matrix = csr_array((value, column, pointer), (pointer.numel() - 1, num_columns)).tocsc()
        indptr, indices, data = map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data))
        return indptr, indices, data
    return _transposed_by_sorting(pointer, column, value, num_columns)


def _transposed_by_sorting(
    pointer: Tensor, column: Tensor, value: Tensor, num_columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    row = torch.arange(pointer.numel() - 1, dtype=torch.int32, device=pointer.device)
    row = row.repeat_interleave(pointer.diff())
    order = column.sort(stable=True).indices
    count = torch.bincount(column, minlength=num_columns)
    return functional.pad(count.cumsum(0, dtype=torch.int32), (1, 0)), row[order], value[order]
