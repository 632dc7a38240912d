import pytest
import torch

from alignrec_pyg.fingerprint import compare, graph_fingerprint, table_fingerprint


def table(rows=400, dim=30, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * 5


@pytest.mark.parametrize("error", [1e-5, 3e-4])
def test_rounding_is_measured_as_a_share_of_a_rows_length(error):
    plain = table()
    noise = table(seed=1)
    noise *= error * plain.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    difference = compare(table_fingerprint(plain), table_fingerprint(plain + noise))
    assert difference.rows.numel() == 0
    assert error / 2 < difference.largest < 5 * error
    assert difference


def test_equal_tables_do_not_differ_whatever_the_order_of_sums():
    plain = table(dim=3000)
    shuffled = torch.stack([row.clone() for row in plain])
    assert not compare(table_fingerprint(plain), table_fingerprint(shuffled))
    blocks = torch.cat([table_fingerprint(part) for part in plain.split(7)])
    assert not compare(table_fingerprint(plain), blocks)


def test_other_rows_are_named():
    plain, other = table(), table()
    other[3] += 0.1 * other[3].norm() / 30**0.5
    other[7] = 0
    plain[9] = 0
    difference = compare(table_fingerprint(plain), table_fingerprint(other))
    assert difference.rows.tolist() == [3, 7, 9]
    other[0, 0] = float("nan")
    rows = compare(table_fingerprint(plain), table_fingerprint(other)).rows
    assert rows.tolist() == [0, 3, 7, 9]


def test_zero_rows_and_other_numbers_of_rows():
    zeros = table_fingerprint(torch.zeros(5, 4))
    assert not compare(zeros, zeros)
    assert compare(zeros, table_fingerprint(torch.zeros(6, 4))).rows.numel() == 6
    assert table_fingerprint(torch.empty(0, 4)).shape == (0, 8)


def test_a_graph_is_told_by_the_incoming_edges_of_each_node(monkeypatch):
    monkeypatch.setattr("alignrec_pyg.fingerprint._BLOCK_ELEMENTS", 16)  # two edges at a time
    edges = torch.tensor([[0, 1, 2, 3, 0], [1, 1, 0, 2, 3]])
    weight = torch.tensor([0.5, 0.5, 1.0, 1.0, 1.0])
    plain = graph_fingerprint(edges, weight, 5)
    order = torch.tensor([4, 2, 0, 1, 3])
    assert not compare(plain, graph_fingerprint(edges[:, order], weight[order], 5))
    rounded = compare(plain, graph_fingerprint(edges, weight * (1 + 1e-4), 5))
    assert rounded
    assert rounded.rows.numel() == 0
    moved = edges.clone()
    moved[0, 3] = 1  # node 2 hears another one
    assert compare(plain, graph_fingerprint(moved, weight, 5)).rows.tolist() == [2]
    dense = torch.zeros(5, 5)
    dense[edges[1], edges[0]] = weight
    torch.testing.assert_close(plain, table_fingerprint(dense))


def test_tables_and_graphs_without_values_have_zeros():
    """As where only sizes are of interest."""
    meta = torch.zeros(5, 4, device="meta")
    edges = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    for found in (table_fingerprint(meta), graph_fingerprint(edges, meta[0, :3], 5)):
        assert torch.equal(found, torch.zeros(5, 8))
