import numpy as np
import pytest
import torch

from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models.saved_graph import graph_from_tensors, graph_tensors


@pytest.mark.parametrize(
    "ids",
    [
        np.array(["a", "", "ü x"]),
        np.array(["a", "", "ü x"], dtype=object),
        np.array([7, -1, 2**62]),
        np.array([7, 1, 2], dtype=np.int32),
        np.array(["7", 7, "x"], dtype=object),
        np.array([np.str_("7"), np.int64(7), "x"], dtype=object),
        np.array([0.5, 1.5, 2.0]),
    ],
)
def test_ids_keep_their_values_and_types(toy, ids):
    toy["user"].id = ids
    graph = graph_from_tensors(*graph_tensors(toy, [], []))
    assert graph["user"].id.tolist() == ids.tolist()
    assert graph["user"].id.dtype.kind == ids.dtype.kind
    toy["user"].id = np.array([(1,), (2,), None], dtype=object)
    with pytest.raises(ValueError, match="'id' needs to hold strings or whole numbers"):
        graph_tensors(toy, [], [])


def test_a_graph_without_ids_has_none(toy):
    del toy["user"].id, toy["item"].id
    graph = graph_from_tensors(*graph_tensors(toy, [], []))
    assert "id" not in graph["user"]
    assert (graph["user"].num_nodes, graph["item"].num_nodes) == (3, 4)


def test_tables_graphs_and_links_come_back(toy):
    toy["item"].added = torch.tensor([False, False, False, True])
    tensors, facts = graph_tensors(toy, ["text"], ["image"])
    graph = graph_from_tensors(tensors, facts)
    assert torch.equal(graph[INTERACTS].edge_index, toy[INTERACTS].edge_index)
    assert not graph["item"].mask_text.any()  # there was none
    for name in ("x_text", "added"):
        assert torch.equal(graph["item"][name], toy["item"][name])
    assert "x_image" not in graph["item"]
    kind = ("item", "knn_image", "item")
    for name in ("edge_index", "edge_weight"):
        assert torch.equal(graph[kind][name], toy[kind][name])
