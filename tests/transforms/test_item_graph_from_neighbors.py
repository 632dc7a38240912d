import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import ITEM, feature_key, knn_edge_type
from alignrec_pyg.transforms import ItemGraphFromNeighbors, KNNItemGraph, NeighborLists


def graph(data, name):
    edges = data[knn_edge_type(name)]
    return edges.edge_index, edges.edge_weight


def items(count):
    data = HeteroData()
    data[ITEM].num_nodes = count
    return data


def nearest(table, k):
    """Neighbours and cosines, the slow and obvious way."""
    unit = torch.nn.functional.normalize(table.double())
    cosine, neighbor = (unit @ unit.t()).topk(k, dim=1)
    return NeighborLists(neighbor.flip(1), cosine.flip(1).float())  # any order will do


@pytest.mark.parametrize("weighting", ["cosine", "binary"])
def test_equals_the_searched_graph(weighting):
    generator = torch.Generator().manual_seed(0)
    data = items(20)
    weights = {"image": 0.1, "text": 0.9}
    lists = {}
    for name in weights:
        data[ITEM][feature_key(name)] = torch.randn(20, 5, generator=generator) + 0.5
        lists[name] = nearest(data[ITEM][feature_key(name)], 4)
    searched = KNNItemGraph(weights, 4, weighting=weighting, backend="matmul", name="g")(data)
    given = ItemGraphFromNeighbors(lists, weights=weights, weighting=weighting, name="g")(items(20))
    assert torch.equal(graph(given, "g")[0], graph(searched, "g")[0])
    torch.testing.assert_close(graph(given, "g")[1], graph(searched, "g")[1])


def test_weights_by_hand():
    lists = NeighborLists(
        torch.tensor([[0, 1], [1, 2], [1, 0]]), torch.tensor([[1.0, 0.5], [1.0, 0.2], [0.6, 0.2]])
    )
    edge_index, weight = graph(ItemGraphFromNeighbors({"a": lists})(items(3)), "a")
    assert edge_index.tolist() == [[0, 1, 1, 2, 0, 1], [0, 0, 1, 1, 2, 2]]
    assert weight.tolist() == [0.5] * 6
    _, weight = graph(ItemGraphFromNeighbors({"a": lists}, weighting="cosine")(items(3)), "a")
    degree = [1.5, 1.2, 0.8]
    expected = [
        cosine / (degree[i] * degree[j]) ** 0.5
        for i, j, cosine in [
            (0, 0, 1.0),
            (0, 1, 0.5),
            (1, 1, 1.0),
            (1, 2, 0.2),
            (2, 0, 0.2),
            (2, 1, 0.6),
        ]
    ]
    assert weight.tolist() == pytest.approx(expected)


def test_items_without_positive_cosines_hear_nobody():
    lists = NeighborLists(torch.tensor([[1], [0]]), torch.tensor([[-0.5], [0.5]]))
    _, weight = graph(ItemGraphFromNeighbors({"a": lists}, weighting="cosine")(items(2)), "a")
    assert weight.tolist() == [0.0, 0.0]


def test_graph_is_on_the_device_of_the_data():
    data = items(2)
    data[ITEM].x_a = torch.empty(2, 1, device="meta")
    edge_index, weight = graph(
        ItemGraphFromNeighbors({"a": NeighborLists(torch.tensor([[0], [1]]))})(data), "a"
    )
    assert edge_index.device.type == weight.device.type == "meta"


def test_file_round_trip(tmp_path):
    neighbor = np.array([[0, 1], [1, 0]], dtype=np.int32)
    np.savez(tmp_path / "a.npz", neighbor=neighbor, cosine=np.ones((2, 2)))
    lists = NeighborLists.load(tmp_path / "a.npz")
    assert lists.neighbor.dtype == torch.int64
    assert lists.neighbor.tolist() == neighbor.tolist()
    assert lists.cosine.dtype == torch.float32
    np.savez(tmp_path / "b.npz", neighbor=neighbor)
    assert NeighborLists.load(tmp_path / "b.npz").cosine is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.zeros(2)}, "integer array 'neighbor'"),
        ({"neighbor": np.zeros((2, 2))}, "integer array 'neighbor'"),
        ({"neighbor": np.array([{}, {}], dtype=object)}, "plain arrays"),
        ({"neighbor": np.zeros((2, 1), int), "cosine": np.zeros((2, 1), int)}, "float array"),
    ],
)
def test_unfit_files(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        NeighborLists.load(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [None, b"", b"PK broken", b"not an archive"])
def test_damaged_files(tmp_path, content):
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="'path' needs an intact .npz file"):
        NeighborLists.load(tmp_path / "a.npz")


def test_array_file_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 2), dtype=int))
    with pytest.raises(ValueError, match="'path' needs an intact .npz file"):
        NeighborLists.load(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("neighbor", "cosine", "message"),
    [
        (torch.zeros(2, 1, dtype=torch.long), None, r"shape \(3, k\)"),
        (torch.zeros(3, dtype=torch.long), None, r"shape \(3, k\)"),
        (torch.zeros(3, 0, dtype=torch.long), None, "k >= 1"),
        (
            torch.tensor([[0], [3], [1]]),
            None,
            r"in \[0, 2\] \(1 rows have others, the first: \[1\]",
        ),
        (torch.tensor([[0], [1], [-1]]), None, r"the first: \[2\]"),
        (torch.tensor([[0, 1], [1, 1], [2, 2]]), None, r"2 rows repeat one, the first: \[1, 2\]"),
        (torch.tensor([[0], [1], [2]]), torch.ones(3, 2), "cosines"),
        (torch.tensor([[0], [1], [2]]), torch.tensor([[1.0], [float("nan")], [1]]), "finite"),
    ],
)
def test_unfit_lists(neighbor, cosine, message):
    with pytest.raises(ValueError, match=message):
        ItemGraphFromNeighbors({"a": NeighborLists(neighbor, cosine)})(items(3))


def test_unfit_arguments():
    lists = NeighborLists(torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="at least one list"):
        ItemGraphFromNeighbors({})
    with pytest.raises(ValueError, match="'weighting'"):
        ItemGraphFromNeighbors({"a": lists}, weighting="dot")
    with pytest.raises(ValueError, match="'weights'"):
        ItemGraphFromNeighbors({"a": lists}, weights={"b": 1.0})
    with pytest.raises(ValueError, match="'weights'"):
        ItemGraphFromNeighbors({"a": lists}, weights={"a": -1.0})
    with pytest.raises(ValueError, match="'weights' needs .* not all zero"):
        ItemGraphFromNeighbors({"a": lists}, weights={"a": 0.0})
    with pytest.raises(ValueError, match="'name' needs at least one character"):
        ItemGraphFromNeighbors({"a": lists}, name="")
    with pytest.raises(ValueError, match=r"missing: \['a'\]"):
        ItemGraphFromNeighbors({"a": lists}, weighting="cosine")


def test_input_stays_as_it_was():
    data = items(2)
    lists = NeighborLists(torch.tensor([[0], [1]]))
    ItemGraphFromNeighbors({"a": lists})(data)
    assert data.edge_types == []
