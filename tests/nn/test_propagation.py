import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import INTERACTS, NeighborSampling, Nodes
from alignrec_pyg.nn import (
    Adjacency,
    ItemPropagation,
    ItemToUserAggregation,
    LGConv,
    MessageFlow,
    UserItemPropagation,
    item_to_user_adjacency,
    self_loop_adjacency,
    user_item_adjacency,
    user_item_edges,
)


def dense_norm(links: Tensor, num_users: int, num_items: int) -> Tensor:
    """Degree by degree, entry by entry."""
    size = num_users + num_items
    a = torch.zeros(size, size, dtype=torch.float64)
    for u, i in links.t().tolist():
        a[u, num_users + i] = a[num_users + i, u] = 1
    degree = a.sum(1)
    for r in range(size):
        for c in range(size):
            if a[r, c]:
                a[r, c] /= (degree[r] * degree[c]) ** 0.5
    return a


@pytest.fixture
def links(toy: HeteroData) -> Tensor:
    return toy[INTERACTS].edge_index


def test_user_item_adjacency_is_the_symmetric_normalisation_without_self_loops(links):
    adjacency = user_item_adjacency(links, 3, 4)
    expected = dense_norm(links, 3, 4)
    torch.testing.assert_close(adjacency.matrix.to_dense().double(), expected)
    assert adjacency.transpose is adjacency.matrix


def test_nodes_without_links_have_zero_rows(links):
    matrix = user_item_adjacency(links, 4, 5).matrix.to_dense()  # user 3 and item 4 are isolated
    assert matrix[3].abs().sum() == matrix[8].abs().sum() == 0
    assert torch.isfinite(matrix).all()


def test_self_loops_make_the_mean_of_a_node_and_its_neighbours(links):
    adjacency = self_loop_adjacency(links, 4, 5)  # user 3 and item 4 are isolated
    x = torch.randn(9, 2)
    mean = adjacency.matmul(x)
    torch.testing.assert_close(mean[0], (x[0] + x[4] + x[5]) / 3)  # ann knows items 0 and 1
    torch.testing.assert_close(mean[7], (x[7] + x[2]) / 2)  # cy alone knows item 3
    torch.testing.assert_close(mean[[3, 8]], x[[3, 8]])
    torch.testing.assert_close(adjacency.transpose.to_dense(), adjacency.matrix.to_dense().t())


def test_item_to_user_is_the_block_of_the_whole(links):
    block = item_to_user_adjacency(links, 3, 4)
    torch.testing.assert_close(block.matrix.to_dense().double(), dense_norm(links, 3, 4)[:3, 3:])
    torch.testing.assert_close(block.transpose.to_dense(), block.matrix.to_dense().t())


def test_item_to_user_by_row_is_the_mean(links):
    x = torch.randn(4, 2)
    mean = item_to_user_adjacency(links, 3, 4, "row").matmul(x)
    torch.testing.assert_close(mean[0], (x[0] + x[1]) / 2)
    with pytest.raises(ValueError, match="'symmetric' or 'row'"):
        item_to_user_adjacency(links, 3, 4, "column")


def test_a_repeated_link_is_an_error(links):
    twice = torch.cat([links, links[:, :1]], dim=1)
    with pytest.raises(ValueError, match="every edge once"):
        user_item_adjacency(twice, 3, 4)


def forms(links: Tensor) -> dict[str, tuple]:
    edge_index, edge_weight = user_item_edges(links, 3, 4)
    # PyG reads a sparse matrix as transposed: rows are targets
    csr = torch.sparse_coo_tensor(edge_index.flip(0), edge_weight, (7, 7)).to_sparse_csr()
    return {
        "edge_index": (edge_index, edge_weight),
        "csr": (csr,),
        "adjacency": (user_item_adjacency(links, 3, 4),),
    }


def test_more_edges_than_int32_counts_are_an_error(links, monkeypatch):
    edges = 2 * links.size(1)
    monkeypatch.setattr("alignrec_pyg.nn.csr._MAX_INT32", edges)
    user_item_adjacency(links, 3, 4)
    monkeypatch.setattr("alignrec_pyg.nn.csr._MAX_INT32", edges - 1)
    with pytest.raises(ValueError, match=rf"at most {edges - 1} edges .*got {edges} edges .*KCore"):
        user_item_adjacency(links, 3, 4)


@pytest.mark.parametrize("form", ["edge_index", "csr", "adjacency"])
def test_every_form_of_the_graph_gives_the_dense_values_and_gradients(links, form):
    user, item = torch.randn(3, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(7, 8)
    out = torch.cat(UserItemPropagation(2)(user, item, *forms(links)[form]))
    grads = torch.autograd.grad((out * weight).sum(), (user, item))

    a = dense_norm(links, 3, 4).float()
    x = torch.cat([user, item])
    expected = (x + a @ x + a @ a @ x) / 3
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(grads, torch.autograd.grad((expected * weight).sum(), (user, item)))


@pytest.mark.graph_extra
def test_sparse_tensor_gives_the_values_and_gradients_of_the_adjacency(links):
    torch_sparse = pytest.importorskip("torch_sparse", reason="the 'graph' extra is not installed")
    edge_index, edge_weight = user_item_edges(links, 3, 4)
    adj_t = torch_sparse.SparseTensor(
        row=edge_index[1], col=edge_index[0], value=edge_weight, sparse_sizes=(7, 7)
    )
    x = torch.randn(7, 8, requires_grad=True)
    out, expected = LGConv()(x, adj_t), LGConv()(x, user_item_adjacency(links, 3, 4))
    torch.testing.assert_close(out, expected)
    weight = torch.randn(7, 8)
    torch.testing.assert_close(
        torch.autograd.grad((out * weight).sum(), x),
        torch.autograd.grad((expected * weight).sum(), x),
    )


def test_directed_graph_sends_messages_from_row_0_to_row_1_and_gradients_back():
    edges, weight = torch.tensor([[0, 2], [1, 1]]), torch.tensor([2.0, 3.0])
    adjacency = Adjacency.from_edges(edges, weight, 3, 3)
    x = torch.tensor([[1.0], [10.0], [100.0]], requires_grad=True)
    out = ItemPropagation(1)(x, adjacency)
    assert out.tolist() == [[0.0], [302.0], [0.0]]
    torch.testing.assert_close(ItemPropagation(1)(x, edges, weight), out)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert grad.tolist() == [[2.0], [0.0], [3.0]]


def test_gradients_of_a_rectangular_graph_numerically(links):
    adjacency = item_to_user_adjacency(links, 3, 4)
    double = Adjacency(adjacency.matrix.double(), adjacency.transpose.double())
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(double.matmul, x)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_rows_are_those_of_the_whole_with_their_gradients(links, layers, size, monkeypatch):
    if size == "large":
        monkeypatch.setattr("alignrec_pyg.nn.propagation._FEW_ENTRIES", 0)
    user, item = torch.randn(3, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    nodes = Nodes(torch.tensor([0, 2]), torch.tensor([3]))
    for form in forms(links).values():
        found = UserItemPropagation(layers)(user, item, *form, nodes=nodes)
        whole = UserItemPropagation(layers)(user, item, *form)
        expected = whole[0][nodes.user], whole[1][nodes.item]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(torch.cat(found).square().sum(), (user, item)),
            torch.autograd.grad(torch.cat(expected).square().sum(), (user, item)),
        )
        if layers:
            x = torch.cat([user, item])
            graph, *weight = form
            flow = MessageFlow.build(graph, layers, torch.tensor([1, 6]))
            rows = ItemPropagation(layers)(x, flow, *weight)
            torch.testing.assert_close(rows, ItemPropagation(layers)(x, *form)[[1, 6]])


def test_small_graphs_are_propagated_whole_with_the_very_same_values(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    links = (torch.rand(40, 30, generator=generator) < 0.3).nonzero().t()
    graph = user_item_adjacency(links, 40, 30)
    tables = [torch.randn(n, 16, generator=generator).requires_grad_() for n in (40, 30)]
    nodes = Nodes(torch.arange(0, 40, 3), torch.arange(1, 30, 2))

    def values_and_gradients():
        rows = torch.cat([nodes.user, nodes.item + 40])
        out = torch.cat(UserItemPropagation(2)(*tables, graph, nodes=nodes))
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad((out * weight).sum(), tables)
        return MessageFlow.build(graph, 2, rows).layers[-1] is graph, out, *gradients

    small, *found = values_and_gradients()
    monkeypatch.setattr("alignrec_pyg.nn.propagation._FEW_ENTRIES", 0)
    large, *expected = values_and_gradients()
    assert (small, large) == (True, False)
    assert all(map(torch.equal, found, expected))


def test_rows_of_a_graph_and_what_they_hear():
    edges = torch.tensor([[0, 2, 3, 3], [1, 1, 0, 2]])
    adjacency = Adjacency.from_edges(edges, torch.tensor([2.0, 3.0, 5.0, 7.0]), 5, 3)
    rows = torch.tensor([2, 1])
    some = adjacency.rows(rows)
    assert some.matrix.to_dense().tolist() == [[0, 0, 0, 7, 0], [2, 0, 3, 0, 0]]
    assert torch.equal(some.transpose.to_dense(), some.matrix.to_dense().t())
    block = adjacency.block(rows, torch.tensor([4]))
    assert block.source.tolist() == [0, 2, 3, 4]
    assert torch.equal(block.adjacency.matrix.to_dense(), some.matrix.to_dense()[:, [0, 2, 3, 4]])
    transpose = block.adjacency.transpose.to_dense()
    assert torch.equal(transpose, block.adjacency.matrix.to_dense().t())


def sampling(*num_neighbors: int, seed: int = 0) -> NeighborSampling:
    return NeighborSampling(num_neighbors, torch.Generator().manual_seed(seed))


def test_sampled_propagation_is_that_of_the_whole_on_average(links):
    """Values and gradients, over many copies of a graph, which all draw for themselves."""
    copies = 4000
    number = torch.arange(copies).view(-1, 1, 1)
    links = (links + number * torch.tensor([[3], [4]])).permute(1, 0, 2).flatten(1)
    graph = user_item_adjacency(links, 3 * copies, 4 * copies)
    user, item, weight = torch.randn(3, 2), torch.randn(4, 2), torch.randn(4, 2)
    user = user.repeat(copies, 1).requires_grad_()
    item = item.repeat(copies, 1).requires_grad_()
    asked = [
        (number.view(-1, 1) * size + torch.tensor(own)).flatten()
        for size, own in ((3, [0, 2]), (4, [1, 3]))
    ]

    def of(nodes):
        out = [x.view(copies, -1) for x in UserItemPropagation(2)(user, item, graph, nodes=nodes)]
        total = (torch.cat(out, dim=1) * weight.flatten()).sum()
        gradients = torch.autograd.grad(total, (user, item))
        return torch.cat([*out, *(x.to_dense().view(copies, -1) for x in gradients)], 1).detach()

    found, expected = of(Nodes(*asked, sampling(1, 2))), of(Nodes(*asked))
    torch.testing.assert_close(expected, expected[:1].expand_as(expected))
    error = found.std(dim=0) / copies**0.5
    assert error.max() > 0  # something was drawn
    assert ((found.mean(dim=0) - expected[0]).abs() <= 4.5 * error + 1e-5).all()


def test_a_sampled_item_graph_reads_the_rows_that_it_names():
    edges = torch.tensor([[0, 2, 3, 3, 4], [1, 1, 0, 2, 4]])
    graph = Adjacency.from_edges(edges, torch.tensor([2.0, 3.0, 5.0, 7.0, 1.0]), 5, 5)
    flow = MessageFlow.build(graph, 2, torch.tensor([1]), sampling(9, 9))
    assert flow.source.tolist() == [0, 1, 2, 3]
    x = torch.randn(5, 2)
    found = ItemPropagation(2)(x[flow.source], flow)
    torch.testing.assert_close(found, ItemPropagation(2)(x, graph)[[1]])
    with pytest.raises(ValueError, match="an entry for each of the model's layers"):
        MessageFlow.build(graph, 2, torch.tensor([1]), sampling(9))


def test_users_aggregate_the_items_that_they_and_others_ask_for(links):
    graph = item_to_user_adjacency(links, 3, 4)
    x = torch.randn(4, 2)
    user, item = ItemToUserAggregation.of_nodes(graph, None)(x)
    assert torch.equal(user, graph.matmul(x))
    assert torch.equal(item, x)
    nodes = Nodes(torch.tensor([1]), torch.tensor([0, 3]))
    some = ItemToUserAggregation.of_nodes(graph, nodes)
    heard = links[1, links[0] == 1].tolist()
    assert some.items.tolist() == sorted({*heard, 0, 3})
    user, item = some(x[some.items])
    torch.testing.assert_close(user, graph.matmul(x)[[1]])
    assert torch.equal(item, x[[0, 3]])


def test_item_propagation_keeps_the_last_layer_only():
    adjacency = Adjacency.from_edges(torch.tensor([[0], [1]]), torch.tensor([2.0]), 2, 2)
    x = torch.tensor([[1.0], [1.0]])
    assert ItemPropagation(0)(x, adjacency).tolist() == [[1.0], [1.0]]
    assert ItemPropagation(2)(x, adjacency).tolist() == [[0.0], [0.0]]


def test_negative_layers_are_an_error():
    with pytest.raises(ValueError, match=r"'num_layers' needs to be 0 or more \(got -1\)"):
        UserItemPropagation(-1)
