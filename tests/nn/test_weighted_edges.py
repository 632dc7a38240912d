import pytest
import torch
from torch.autograd import gradcheck

from alignrec_pyg.nn import EdgeStructure, edge_dot, segment_softmax, weighted_matmul

NUM_SOURCES, NUM_TARGETS = 5, 4
# target 2 and source 3 have no edge; listed in no order; this order is not its own inverse
EDGES = torch.tensor([[4, 0, 2, 0, 1, 4, 2, 1], [3, 1, 0, 0, 3, 0, 1, 1]])
NUM_EDGES = EDGES.size(1)


@pytest.fixture
def structure() -> EdgeStructure:
    return EdgeStructure.from_edges(EDGES, NUM_SOURCES, NUM_TARGETS)


@pytest.fixture
def values() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(*size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in ((NUM_EDGES,), (NUM_SOURCES, 3), (NUM_TARGETS, 3))
    )


def dense(structure: EdgeStructure, weight: torch.Tensor) -> torch.Tensor:
    matrix = weight.new_zeros(structure.num_targets, structure.num_sources)
    for edge in range(structure.num_edges):
        place = torch.zeros_like(matrix)
        place[structure.target[edge], structure.source[edge]] = 1
        matrix = matrix + place * weight[edge]
    return matrix


def assert_equal_with_gradients(found, expected, inputs) -> None:
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1)).to(found)
    for a, b in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_rows_are_those_of_the_whole_with_their_gradients(structure, values):
    weight, source_x, _ = values
    rows = torch.tensor([3, 2, 0])
    found = weighted_matmul(structure.rows(rows), weight, source_x)
    expected = (dense(structure, weight) @ source_x)[rows]
    assert_equal_with_gradients(found, expected, (weight, source_x))
    some, position = structure.rows(rows)
    edges = torch.stack([some.source, some.target]).long()
    again = EdgeStructure.from_edges(edges, NUM_SOURCES, 3)
    assert all(torch.equal(a, b) for a, b in zip(some, again, strict=True))
    assert position.tolist() == [6, 7, 0, 1, 2]


def test_edges_are_sorted_by_target_then_source(structure):
    assert structure.target.tolist() == [0, 0, 0, 1, 1, 1, 3, 3]
    assert structure.source.tolist() == [0, 2, 4, 0, 1, 2, 1, 4]
    assert (structure.num_sources, structure.num_targets) == (NUM_SOURCES, NUM_TARGETS)
    assert structure.num_edges == NUM_EDGES


def test_transposed_is_the_structure_of_the_reversed_edges(structure):
    reverse = EdgeStructure.from_edges(EDGES.flip(0), NUM_TARGETS, NUM_SOURCES)
    for found, expected in zip(structure.transposed(), reverse, strict=True):
        assert found.dtype == torch.int32
        assert torch.equal(found, expected)
    for found, expected in zip(reverse.transposed(), structure, strict=True):
        assert torch.equal(found, expected)


def test_values_follow_their_edges_into_the_transposed_order(structure, values):
    weight = values[0]
    assert_equal_with_gradients(
        dense(structure.transposed(), structure.transpose_values(weight)),
        dense(structure, weight).t(),
        (weight,),
    )


def test_matmul_equals_the_dense_product(structure, values):
    weight, x, _ = values
    assert_equal_with_gradients(
        weighted_matmul(structure, weight, x), dense(structure, weight) @ x, (weight, x)
    )


def test_edge_dot_equals_the_entries_of_the_dense_product(structure, values):
    _, source_x, target_x = values
    entries = (target_x @ source_x.t())[structure.target.long(), structure.source.long()]
    assert_equal_with_gradients(
        edge_dot(structure, target_x, source_x), entries, (target_x, source_x)
    )


def test_softmax_sums_to_one_for_each_target(structure, values):
    logits = values[0]
    parts = [logits[:3].softmax(0), logits[3:6].softmax(0), logits[6:].softmax(0)]
    assert_equal_with_gradients(segment_softmax(structure, logits), torch.cat(parts), (logits,))


def test_softmax_of_huge_logits_neither_overflows_nor_vanishes(structure):
    logits = torch.tensor([1e4, 1e4, -1e4, -1e30, -1e30, -2e30, 0.0, 1e30])
    expected = torch.tensor([0.5, 0.5, 0.0, 0.5, 0.5, 0.0, 0.0, 1.0])
    torch.testing.assert_close(segment_softmax(structure, logits), expected)


def test_gradients_by_finite_differences(structure, values):
    weight, source_x, target_x = values
    assert gradcheck(lambda w, x: weighted_matmul(structure, w, x), (weight, source_x))
    assert gradcheck(lambda t, s: edge_dot(structure, t, s), (target_x, source_x))
    assert gradcheck(lambda logits: segment_softmax(structure, logits), (weight,))
    assert gradcheck(structure.transpose_values, (weight,))


def test_gradients_may_come_as_expanded_or_transposed_views(structure, values):
    weight, x, target_x = values
    out = weighted_matmul(structure, weight, x)
    expected = torch.autograd.grad(dense(structure, weight) @ x, (weight, x), torch.ones_like(out))
    for a, b in zip(torch.autograd.grad(out.sum(), (weight, x)), expected, strict=True):
        torch.testing.assert_close(a, b)
    transposed_x = x.detach().t().contiguous().t()
    torch.testing.assert_close(weighted_matmul(structure, weight, transposed_x), out)
    torch.testing.assert_close(
        edge_dot(structure, target_x.detach().t().contiguous().t(), transposed_x),
        edge_dot(structure, target_x, x),
    )


def test_only_what_needs_a_gradient_gets_one(structure, values):
    weight, x, target_x = values
    weighted_matmul(structure, weight.detach(), x).sum().backward()
    edge_dot(structure, target_x, x.detach()).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert target_x.grad is not None


def test_memory_kept_for_the_backward_pass_is_edges_plus_nodes(structure, values):
    weight, x, target_x = values
    saved = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        weighted_matmul(structure, segment_softmax(structure, weight), x)
        edge_dot(structure, target_x, x)
    assert (NUM_EDGES, 3) not in saved
    assert sorted(set(saved)) == [(NUM_TARGETS, 3), (NUM_SOURCES, 3), (NUM_EDGES,)]


def test_a_graph_without_edges_gives_zeros():
    empty = EdgeStructure.from_edges(torch.empty(2, 0, dtype=torch.int64), 2, 3)
    none = torch.empty(0)
    assert torch.equal(weighted_matmul(empty, none, torch.ones(2, 4)), torch.zeros(3, 4))
    assert edge_dot(empty, torch.ones(3, 4), torch.ones(2, 4)).shape == (0,)
    assert segment_softmax(empty, none).shape == (0,)


def test_edges_listed_twice_are_refused():
    with pytest.raises(ValueError, match="'edge_index' needs to list every edge once"):
        EdgeStructure.from_edges(torch.tensor([[0, 0], [1, 1]]), 2, 2)
