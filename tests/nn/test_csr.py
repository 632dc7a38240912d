import pytest
import torch
from torch import Tensor

from alignrec_pyg.nn.csr import (
    _transposed_by_sorting,
    csr_matrix,
    draw_entries,
    renumber,
    transposed_csr,
)


def drawn(count: int, num_drawn: int, num_rows: int) -> Tensor:
    """Entries drawn of each row of ``count``, numbered from 0."""
    pointer = torch.arange(num_rows + 1, dtype=torch.int32) * count
    rows = torch.arange(num_rows)
    generator = torch.Generator().manual_seed(0)
    own, position = draw_entries(pointer, rows, num_drawn, generator=generator)
    assert torch.equal(own, torch.arange(num_rows + 1, dtype=torch.int32) * min(count, num_drawn))
    return position.view(num_rows, -1) - pointer[:-1].unsqueeze(1)


def test_every_set_of_neighbours_is_as_likely_as_any_other():
    sets = drawn(5, 3, 20_000).sort(dim=1).values
    key, count = (sets @ torch.tensor([25, 5, 1])).unique(return_counts=True)
    assert key.numel() == 10  # none is drawn twice
    expected = 20_000 / 10
    assert ((count - expected).square() / expected).sum() < 27.9  # chi-square, 9, at 0.1 %


def test_few_neighbours_are_all_taken_in_order():
    assert drawn(3, 3, 2).tolist() == [[0, 1, 2]] * 2
    assert drawn(2, 3, 2).tolist() == [[0, 1]] * 2
    assert drawn(0, 3, 2).numel() == drawn(3, 0, 2).numel() == 0


@pytest.mark.parametrize("num_columns", [10, 10_000])  # by marking, by sorting
def test_columns_are_renumbered_among_the_distinct_ones(num_columns):
    columns = torch.tensor([7, 3, 7, 9], dtype=torch.int32)
    distinct, number = renumber(columns, torch.tensor([1, 3]), num_columns)
    assert distinct.tolist() == [1, 3, 7, 9]
    assert number.tolist() == [2, 1, 2, 3]
    assert number.dtype == torch.int32


def test_transposes_by_sorting_as_by_counting():
    """As on a GPU, where the other way is missing."""
    user, item = torch.tensor([[0, 0, 1, 2, 2], [0, 1, 1, 0, 3]])
    matrix = csr_matrix(user, item, torch.arange(1.0, 1.0 + user.numel()), (3, 4))
    arrays = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    counted = transposed_csr(*arrays, 4)
    for found, expected in zip(_transposed_by_sorting(*arrays, 4), counted, strict=True):
        assert torch.equal(found, expected)
