from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from alignrec_pyg.graph import content_hash
from alignrec_pyg.nn import knn_search
from alignrec_pyg.nn.knn_search import (
    cosine_neighbors,
    nearest_rows,
    neighbors_of,
    torch_cluster_installed,
)

BACKENDS = [
    "matmul",
    pytest.param(
        "torch_cluster",
        marks=[
            pytest.mark.graph_extra,
            pytest.mark.skipif(
                not torch_cluster_installed(), reason="torch_cluster (extra 'graph') is missing"
            ),
        ],
    ),
]


def slow_neighbors(features, k):
    """Item by item, pair by pair; exact sums, and a resolution far above their noise."""
    rows = [[float(value) for value in row] for row in features]
    result = []
    for i, mine in enumerate(rows):
        ranking = []
        for j, other in enumerate(rows):
            dot = math.fsum(a * b for a, b in zip(mine, other, strict=True))
            cosine = dot / (math.hypot(*mine) * math.hypot(*other))
            ranking.append((j != i, -round(cosine, 8), j))
        result.append([j for _, _, j in sorted(ranking)[:k]])
    return result


def features_with_ties(seed, n=40, dim=3):
    """Small whole numbers: many rows are equal, or multiples of each other."""
    rows = np.random.default_rng(seed).integers(-1, 3, size=(n, dim)).astype(np.float32)
    rows[~rows.any(axis=1), 0] = 1
    return torch.from_numpy(rows)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("k", [1, 4, 17, 40])
@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_equals_the_slow_search_with_ties(backend, k, block_size):
    features = features_with_ties(k)
    neighbor, cosine = cosine_neighbors(features, k, backend=backend, block_size=block_size)
    assert neighbor.tolist() == slow_neighbors(features, k)
    unit = torch.nn.functional.normalize(features.double())
    expected = (unit.unsqueeze(1) * unit[neighbor]).sum(dim=-1)
    torch.testing.assert_close(cosine, expected, rtol=0, atol=1e-9)
    assert (cosine[:, 0] == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_slow_search_without_ties(backend):
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    neighbor, _ = cosine_neighbors(features, 5, backend=backend)
    assert neighbor.tolist() == slow_neighbors(features, 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_rows_alike(backend):
    features = torch.full((30, 5), 0.1)
    neighbor, cosine = cosine_neighbors(features, 3, backend=backend, block_size=4)
    assert neighbor[:4].tolist() == [[0, 1, 2], [1, 0, 2], [2, 0, 1], [3, 0, 1]]
    assert neighbor[29].tolist() == [29, 0, 1]
    assert (cosine == 1).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 12), block_size=st.integers(1, 50))
def test_block_size_changes_nothing(seed, k, block_size):
    features = features_with_ties(seed, n=30, dim=4)
    whole = cosine_neighbors(features, k, backend="matmul", block_size=30)
    blocks = cosine_neighbors(features, k, backend="matmul", block_size=block_size)
    assert torch.equal(whole[0], blocks[0])
    assert torch.equal(whole[1], blocks[1])


def test_permuting_rows_permutes_neighbours():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 6, generator=generator)
    order = torch.randperm(50, generator=generator)
    neighbor, cosine = cosine_neighbors(features, 7, backend="matmul")
    moved, moved_cosine = cosine_neighbors(features[order], 7, backend="matmul")
    assert torch.equal(order[moved], neighbor[order])
    assert torch.equal(moved_cosine, cosine[order])


def test_scale_of_rows_does_not_matter():
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([1e-30, 1.0, 1e30, 7.0]).repeat(5).unsqueeze(1)
    neighbor, _ = cosine_neighbors(features, 5, backend="matmul")
    assert torch.equal(cosine_neighbors(features * scale, 5, backend="matmul")[0], neighbor)


def test_out_of_memory_halves_the_block(monkeypatch):
    features = features_with_ties(0)
    expected = cosine_neighbors(features, 5, backend="matmul")
    encode, sizes = knn_search._encode, []

    def small_device(cosine, *args):
        sizes.append(len(cosine))
        if len(cosine) > 3:
            raise torch.OutOfMemoryError
        return encode(cosine, *args)

    monkeypatch.setattr(knn_search, "_encode", small_device)
    found = cosine_neighbors(features, 5, backend="matmul", block_size=128)
    assert torch.equal(found[0], expected[0])
    assert sizes[:4] == [16, 8, 4, 2]

    def no_device(cosine, *args):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(knn_search, "_encode", no_device)
    with pytest.raises(MemoryError, match="over 40 items"):
        cosine_neighbors(features, 5, backend="matmul")


@pytest.mark.parametrize("error", [ImportError, RuntimeError, OSError])
def test_missing_or_broken_torch_cluster(monkeypatch, error):
    def broken_import(name):
        raise error("undefined symbol")

    monkeypatch.setattr("alignrec_pyg.checks.import_module", broken_import)
    assert not torch_cluster_installed()
    with pytest.raises(ImportError, match="uv sync --extra graph"):
        cosine_neighbors(torch.ones(3, 2), 1, backend="torch_cluster")
    neighbor, _ = cosine_neighbors(torch.ones(3, 2), 2, backend="auto")
    assert neighbor.tolist() == [[0, 1], [1, 0], [2, 0]]


class FakeTorchCluster:
    """Returns the true candidates, but worst case among ties: the highest index first."""

    @staticmethod
    def knn(x, y, k):
        distance = (torch.cdist(y, x).square() * 1e6).round()
        order = (distance * len(x) - torch.arange(len(x))).argsort(dim=1)[:, :k]
        return torch.stack([torch.arange(len(y)).repeat_interleave(k), order.reshape(-1)])


@pytest.mark.parametrize("k", [1, 3, 12, 40])
def test_ties_beyond_the_proposed_candidates_are_found(monkeypatch, k):
    monkeypatch.setattr(knn_search, "import_torch_cluster", lambda: FakeTorchCluster)
    features = torch.cat([torch.ones(25, 3), features_with_ties(1, n=15)])
    proposed = cosine_neighbors(features, k, backend="torch_cluster", block_size=9)
    exact = cosine_neighbors(features, k, backend="matmul")
    assert torch.equal(proposed[0], exact[0])
    assert torch.equal(proposed[1], exact[1])


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_coarse_products_propose_but_never_decide(monkeypatch, precision):
    """Hardware that cuts the factors of float32 products, as these settings allow, on any CPU."""
    generator = torch.Generator().manual_seed(0)
    features = (
        torch.randn(1, 16, generator=generator) + torch.randn(60, 16, generator=generator) / 9
    )
    expected = slow_neighbors(features, 5)
    propose = knn_search._single_precision_candidates

    def coarse(features, length, fetched, block_size):
        unit = (features / length.unsqueeze(1)).bfloat16()
        return propose(unit, torch.ones_like(length), fetched, block_size)

    monkeypatch.setattr(knn_search, "_single_precision_candidates", coarse)
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        assert cosine_neighbors(features, 5, backend="matmul")[0].tolist() == expected
    finally:
        torch.set_float32_matmul_precision(usual)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_proposal_error_covers_cut_factors(monkeypatch, precision):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    generator = torch.Generator().manual_seed(0)
    exact = torch.nn.functional.normalize(torch.randn(50, 32, generator=generator).double())
    cut = exact.float()
    if precision != "highest":
        cut = (cut.view(torch.int32) & -65536).view(torch.float32)  # bfloat16, cut off
    worst = (cut.double() @ cut.double().T - exact @ exact.T).abs().max()
    assert worst < knn_search.proposal_error(32) < 2.0**-5
    assert (knn_search.proposal_error(32) < 1e-5) == (precision == "highest")


def test_precision_that_torch_cannot_name_counts_as_low(monkeypatch):
    def mixed():
        raise RuntimeError("you have used mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    assert knn_search.proposal_error(32) > 1e-2
    features = features_with_ties(2)
    neighbor, _ = cosine_neighbors(features, 5, backend="matmul")
    assert neighbor.tolist() == slow_neighbors(features, 5)


def test_peak_is_one_copy_in_single_precision(monkeypatch):
    monkeypatch.setattr(knn_search, "_CAST_ELEMENTS", 2**10)
    features = torch.randn(400, 2000, generator=torch.Generator().manual_seed(0))
    held = []

    class Held(TorchDispatchMode):
        """Bytes of all results of operations that are alive."""

        alive = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            given = {part.untyped_storage().data_ptr() for part in args if torch.is_tensor(part)}
            if torch.is_tensor(result) and result.untyped_storage().data_ptr() not in given:
                storage = result.untyped_storage()
                self.alive += storage.nbytes()
                weakref.finalize(storage, self.freed, storage.nbytes())
                held.append(self.alive)
            return result

        def freed(self, size):
            self.alive -= size

    with Held():
        cosine_neighbors(features, 3, backend="matmul", block_size=8)
    blocks = 8 * 9 * 2000 * 12  # candidates of a block, in both precisions
    assert max(held) < features.nbytes + blocks + 1_000_000


def test_autocast_changes_nothing():
    features = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(0, 300, 7)

    def search():
        return (
            *cosine_neighbors(features, 5),
            *neighbors_of(features, rows, 5),
            *nearest_rows(features, features[rows] + 0.1, 5),
        )

    expected = search()
    with torch.autocast("cpu", torch.bfloat16):
        found = search()
    for value, same in zip(found, expected, strict=True):
        assert torch.equal(value, same)


def test_features_stay_as_they_were():
    for dtype in (torch.float16, torch.float32, torch.float64, torch.int32):
        features = features_with_ties(3).to(dtype)
        given = features.clone()
        neighbor, _ = cosine_neighbors(features, 5, backend="matmul")
        assert torch.equal(features, given)
        assert neighbor.tolist() == slow_neighbors(given, 5)


def test_full_search_in_column_blocks_of_any_width(monkeypatch):
    features = torch.cat([torch.ones(25, 3), features_with_ties(1, n=15)])
    expected = slow_neighbors(features, 5)
    for elements in (1, 3 * 7, 3 * 1000):
        monkeypatch.setattr(knn_search, "_CAST_ELEMENTS", elements)
        assert cosine_neighbors(features, 5, backend="matmul")[0].tolist() == expected


def test_auto_takes_torch_cluster_for_small_work_only(monkeypatch):
    calls = []

    class Recorder(FakeTorchCluster):
        @staticmethod
        def knn(x, y, k):
            calls.append(len(x))
            return FakeTorchCluster.knn(x, y, k)

    monkeypatch.setattr(knn_search, "import_torch_cluster", lambda: Recorder)
    cosine_neighbors(torch.eye(20), 2)
    assert calls == [20]
    monkeypatch.setattr(knn_search, "_QUICK_WORK", 20 * 20 * 20 - 1)
    cosine_neighbors(torch.eye(20), 2)
    assert calls == [20]


def test_keys_of_many_rows():
    """Cosine and index come back from one integer, whatever the number of rows."""
    n = 2**31 - 1
    cosine = torch.tensor([[1.0, -1.0, 0.5, 0.0, -0.25]], dtype=torch.float64)
    index = torch.tensor([[0, n - 1, n - 2, 7, 2**30]])
    key = knn_search._encode(cosine.clone(), index, torch.tensor([7]), n)
    assert key.argsort(descending=True).tolist() == [[3, 0, 2, 4, 1]]
    found, value = knn_search.decoded(key, n)
    assert torch.equal(found, index)
    cosine[0, 3] = 1  # the row itself
    assert torch.equal(value, cosine)


def test_products_serve_both_rows():
    """Half of all products, and the lists of a plain search."""
    features = torch.randn(300, 7, generator=torch.Generator().manual_seed(0))
    computed = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            if function is torch.ops.aten.mm.default and args[0].dtype == torch.float32:
                computed.append(result.numel())
            return result

    with Products():
        neighbor, _ = cosine_neighbors(features, 6, backend="matmul", block_size=20)
    unit = torch.nn.functional.normalize(features.double())
    score = unit @ unit.T
    assert torch.equal(neighbor, score.fill_diagonal_(2).topk(6).indices)
    assert sum(computed) < 0.6 * 300**2


@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_some_rows_have_the_neighbours_they_have_among_all(block_size):
    features = features_with_ties(3)
    neighbor, cosine = cosine_neighbors(features, 9)
    rows = torch.tensor([5, 0, 39, 5])
    some, some_cosine = neighbors_of(features, rows, 9, block_size=block_size)
    assert torch.equal(some, neighbor[rows])
    assert torch.equal(some_cosine, cosine[rows])
    none, _ = neighbors_of(features, rows[:0], 9)
    assert none.shape == (0, 9)


@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_nearest_rows_to_other_vectors(block_size):
    features, queries = features_with_ties(4), features_with_ties(5, n=11)
    neighbor, cosine = nearest_rows(features, 3 * queries, 8, block_size=block_size)
    for query, items, values in zip(queries, neighbor.tolist(), cosine.tolist(), strict=True):
        exact = torch.nn.functional.cosine_similarity(query.double(), features.double(), dim=1)
        order = sorted(range(40), key=lambda j: (-round(float(exact[j]), 8), j))[:8]
        assert items == order
        assert values == pytest.approx(exact[order].tolist(), abs=1e-8)
    assert nearest_rows(features, queries[:0], 8)[0].shape == (0, 8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lfm2k/all-MiniLM-L6-v2", "1daf20d459deb425018082e8c2db8511"),
        ("lfm2k/whisper", "d27a801f389d045e0e8e6f1d6de2e249"),
        ("lfm2k/vggish", "d3b9739ffb7a5ffdc5afe0b1626cccd4"),
        ("ml-features/minilm", "017c61ed05ff902a1f9f2d0fd450063b"),
        ("ml-features/imagenet", "5449d3de8ebb005ff1a84463bb884032"),
    ],
)
def test_real_tables_have_the_neighbours_they_ever_had(data_folder, name, expected):
    """As at commit 547886c: stored graphs and models stay right."""
    features = torch.from_numpy(np.load(data_folder / f"{name}.npy"))
    assert content_hash(cosine_neighbors(features, 10, backend="matmul")[0]) == expected
