import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import BPR, CheckpointError, Server
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.serving import ItemIndex, index_recall
from alignrec_pyg.storage import read_manifest, write_manifest

pytest.importorskip("faiss")

USERS, ITEMS = 50, 3000


@pytest.fixture(scope="module")
def case():
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = USERS, ITEMS
    data["item"].id = np.array([f"i{n}" for n in range(ITEMS)], dtype=object)
    liked = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.01
    data[INTERACTS].edge_index = liked.nonzero().t()
    torch.manual_seed(0)
    server = Server(BPR(data, embedding_dim=16), data)
    exact = ids_of(server.recommend(np.arange(USERS), k=20))
    return server, data, exact


def ids_of(lists):
    return [row.item for row in lists]


def lists(rows):
    return [row.tolist() for row in rows]


def test_the_exact_index_gives_the_exact_lists_after_a_round_trip(case, tmp_path):
    server, data, exact = case
    server.to_faiss(tmp_path)
    index = ItemIndex.load(tmp_path)
    user_x, _ = server.vectors
    found = index.recommend(user_x, 20, known=data[INTERACTS].edge_index)
    assert lists(found) == lists(exact)
    assert index_recall(found, exact) == 1
    without = ids_of(server.recommend(np.arange(USERS), k=20, exclude_known=False))
    assert lists(index.recommend(user_x, 20)) == lists(without)


def test_the_approximate_index_finds_nearly_all(case, tmp_path):
    server, data, exact = case
    server.to_faiss(tmp_path, "hnsw")
    user_x, item_x = server.vectors
    found = ItemIndex.load(tmp_path).recommend(user_x, 20, data[INTERACTS].edge_index)
    assert all(len(row) == 20 for row in found)
    assert index_recall(found, exact) >= 0.95
    blind = ItemIndex.build(item_x, server.items.ids, "hnsw", width=1).recommend(user_x, 20)
    assert index_recall(blind, exact) < index_recall(found, exact)


def test_lists_are_short_where_nothing_is_left(toy):
    index = ItemIndex.build(torch.randn(4, 3), toy["item"].id)
    known = torch.tensor([[0, 0, 0, 1], [0, 1, 3, 2]])
    first, second = index.recommend(torch.ones(2, 3), 10, known)
    assert first.tolist() == [30]
    assert sorted(second) == [10, 20, 40]


def test_recall_of_lists():
    exact = [np.array([1, 2, 3, 4]), np.array([], dtype=int), np.array([7])]
    assert index_recall([np.array([4, 9, 1]), np.array([5]), np.array([7])], exact) == 0.75


def test_damage_and_bad_arguments_are_named(toy, tmp_path):
    server = Server(BPR(toy, embedding_dim=3), toy)
    index = server.to_faiss(tmp_path)
    with pytest.raises(ValueError, match=r"'user_x' needs the shape \[n, 3\] \(got \[2, 4\]\)"):
        index.recommend(torch.ones(2, 4))
    with pytest.raises(ValueError, match="'kind' needs to be one of"):
        server.to_faiss(tmp_path / "tree", "tree")
    (path,) = tmp_path.glob("items-*.faiss")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="damaged or was replaced"):
        ItemIndex.load(tmp_path)
    manifest = read_manifest(tmp_path / "index.json")
    write_manifest(tmp_path / "index.json", manifest, version=9)
    with pytest.raises(CheckpointError, match="of format 9"):
        ItemIndex.load(tmp_path)
