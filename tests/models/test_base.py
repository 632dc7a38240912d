import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from alignrec_pyg import BPR, GRCN, MGCN, AlignRec, LightGCN
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.nn import user_item_adjacency


def test_loss_skips_terms_of_weight_zero_in_the_gradient(toy):
    model = LightGCN(toy, reg_weight=0.0)
    model.loss_terms = lambda data, batch: {
        "bpr": model.user_embedding.weight.sum(),
        "reg": model.user_embedding.weight.sum() * float("inf"),
    }
    total, terms = model.loss(toy, None)
    assert torch.isfinite(total)
    assert not torch.isfinite(terms["reg"])


def test_loss_and_weights_have_to_agree(toy):
    model = BPR(toy)
    model.loss_terms = lambda data, batch: {"bpr": torch.zeros(())}
    with pytest.raises(RuntimeError, match="BPR has terms"):
        model.loss(toy, None)


@pytest.mark.parametrize("value", [0, -1])
def test_embedding_dim_has_to_be_positive(toy, value):
    with pytest.raises(ValueError, match=r"'embedding_dim' needs to be in \[1, 65536\]"):
        BPR(toy, embedding_dim=value)


def test_prepared_graphs_of_links_that_are_gone_are_dropped(toy):
    model = LightGCN(toy).eval()
    links = toy[INTERACTS].edge_index
    alive = []
    for number in range(8):
        toy[INTERACTS].edge_index = links.roll(number, dims=1)
        model(toy)
        alive.append(weakref.ref(toy[INTERACTS].edge_index))
    assert sum(reference() is not None for reference in alive) == 3


def test_a_term_weighs_as_its_argument_says(toy):
    weights = AlignRec(toy, cca_weight=0.3, l2_weight=0.4).loss_weights
    assert weights == {"bpr": 1.0, "cca": 0.3, "uia": 0.1, "reg": 0.1, "l2": 0.4}


def test_published_defects_are_those_of_the_papers_data_sets():
    assert [GRCN.published_hparams(name) for name in ("baby", "own")] == [{"faithful": True}, {}]
    assert MGCN.published_hparams("baby") == {}


def test_a_graph_of_links_is_kept_for_its_options(toy):
    model = BPR(toy)
    graphs = [model.item_to_user_graph(toy, name) for name in ("row", "symmetric", "row")]
    assert graphs[0] is graphs[2]
    assert not torch.equal(graphs[0].matrix.values(), graphs[1].matrix.values())


def test_threads_get_the_graphs_of_the_data_they_give(toy, monkeypatch):
    other = toy.clone()
    other[INTERACTS].edge_index = torch.tensor([[0, 1, 2, 2], [3, 0, 0, 2]])
    model = LightGCN(toy).eval()
    with torch.no_grad():
        expected = [model(data) for data in (toy, other)]
    together = Barrier(2)  # both threads have prepared a graph, and are about to keep it

    def build(*arguments):
        graph = user_item_adjacency(*arguments)
        together.wait(timeout=60)
        return graph

    def right(number):
        results = []
        for _ in range(150):
            with torch.no_grad():
                found = model((toy, other)[number].clone())
            results.append(all(map(torch.equal, found, expected[number])))
        return all(results)

    monkeypatch.setattr("alignrec_pyg.models.base.user_item_adjacency", build)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(right, range(2))) == [True, True]
    finally:
        sys.setswitchinterval(interval)
