import pytest
import torch

from alignrec_pyg.nn import faiss_search
from alignrec_pyg.nn.faiss_search import approximate_neighbors
from alignrec_pyg.nn.knn_search import cosine_neighbors

faiss = pytest.importorskip("faiss", reason="faiss (extra 'serving') is missing")


def groups(n=1500, dim=12, num_groups=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(num_groups, dim, generator=generator)
    member = torch.randint(num_groups, (n,), generator=generator)
    return centre[member] + 0.3 * torch.randn(n, dim, generator=generator)


def share_as_near(cosine, exact):
    """Of the other neighbours, row by row and one by one."""
    hits = [
        value >= best[-1]
        for found, best in zip(cosine.tolist(), exact.tolist(), strict=True)
        for value in found[1:]
    ]
    return sum(hits) / len(hits)


def test_recall_is_that_of_the_lists(monkeypatch):
    monkeypatch.setattr(faiss_search, "_CHUNK", 400)
    features = groups()
    exact_neighbor, exact_cosine = cosine_neighbors(features, 8, backend="matmul")
    recalls = []
    monkeypatch.setattr(faiss_search, "_FIRST_PROBES", 1)
    for least in (0.5, 0.9, 0.99):
        neighbor, cosine, recall = approximate_neighbors(features, 8, min_recall=least)
        asked = torch.randperm(1500, generator=torch.Generator().manual_seed(0))[:1000]
        assert recall == pytest.approx(share_as_near(cosine[asked], exact_cosine[asked]))
        assert recall >= least
        assert torch.equal(neighbor[:, 0], torch.arange(1500))
        whole = (neighbor == exact_neighbor).all(dim=1)
        assert torch.equal(cosine[whole], exact_cosine[whole])
        assert whole.double().mean() > 1 - 8 * (1 - recall)
        recalls.append(recall)
    assert recalls[0] < recalls[-1]


def test_a_recall_out_of_reach_is_refused_with_the_one_in_reach():
    features = torch.randn(800, 48, generator=torch.Generator().manual_seed(0))
    message = r"'min_recall' needs to be at most 0\.\d+ \(got 0\.95\).*the exact search"
    with pytest.raises(ValueError, match=message) as caught:
        approximate_neighbors(features, 10)
    reached = float(str(caught.value).split("at most ")[1].split(" ")[0])
    assert 0.1 < reached < 0.9
    assert approximate_neighbors(features, 10, min_recall=reached)[2] >= reached


def test_copies_are_as_good_as_each_other():
    """More equal rows than are fetched: any of them may be found, each row itself first."""
    features = groups(n=40).repeat(25, 1)
    neighbor, cosine, recall = approximate_neighbors(features, 6)
    assert torch.equal(neighbor[:, 0], torch.arange(1000))
    assert all(len(set(row)) == 6 for row in neighbor.tolist())
    assert (cosine == 1).all()
    assert recall == 1


def test_lists_that_are_too_short_are_made_up_for(monkeypatch):
    monkeypatch.setattr(faiss_search, "_LISTS_BY_ROOT", 12)
    features = groups(n=200)
    exact = cosine_neighbors(features, 20, backend="matmul")
    monkeypatch.setattr(faiss_search, "_FIRST_PROBES", 1)
    neighbor, cosine, _ = approximate_neighbors(features, 20, min_recall=0.01)
    assert torch.equal(neighbor, exact[0])
    assert torch.equal(cosine, exact[1])


def test_threads_are_those_of_torch_meanwhile(monkeypatch):
    seen = []
    search = faiss_search._candidates

    def look(*args):
        seen.append(faiss.omp_get_max_threads())
        return search(*args)

    monkeypatch.setattr(faiss_search, "_candidates", look)
    before = faiss.omp_get_max_threads()
    other = torch.get_num_threads() + 1
    faiss.omp_set_num_threads(other)
    try:
        approximate_neighbors(groups(n=300), 5, min_recall=0.1)
        assert set(seen) == {torch.get_num_threads()}
        assert faiss.omp_get_max_threads() == other
    finally:
        faiss.omp_set_num_threads(before)


def test_missing_faiss(monkeypatch):
    def no_import(name):
        raise ImportError(name)

    monkeypatch.setattr("alignrec_pyg.checks.import_module", no_import)
    with pytest.raises(ImportError, match="backend='faiss'.*faiss-cpu"):
        approximate_neighbors(groups(n=50), 5)
