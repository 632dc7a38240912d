from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.transforms import KNNItemGraph, knn_item_graph


def items(mask=None, n=24, dim=5, seed=0, **tables):
    data = HeteroData()
    data["item"].num_nodes = n
    data["item"].x_text = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    for name, table in tables.items():
        data["item"][f"x_{name}"] = table
    if mask is not None:
        data["item"].mask_text = torch.zeros(n, dtype=torch.bool)
        data["item"].mask_text[mask] = True
    return data


def edges(data, name="text"):
    """{(neighbour, item): weight}"""
    store = data["item", f"knn_{name}", "item"]
    pairs = [tuple(pair) for pair in store.edge_index.T.tolist()]
    assert pairs == sorted(set(pairs), key=lambda pair: pair[::-1])  # by item, then neighbour
    assert store.edge_index.dtype == torch.int64
    assert store.edge_weight.dtype == torch.float32
    return dict(zip(pairs, store.edge_weight.tolist(), strict=True))


def slow_graph(features, k, weighting="cosine", symmetric=False):
    """The definition, entry by entry."""
    n = len(features)
    unit = features.numpy().astype(np.float64)
    unit /= np.sqrt((unit**2).sum(axis=1, keepdims=True))
    W = np.zeros((n, n))
    kept = np.zeros((n, n), dtype=bool)
    for i in range(n):
        cosine = [2.0 if j == i else float((unit[i] * unit[j]).sum()) for j in range(n)]
        for j in sorted(range(n), key=lambda j: (-cosine[j], j))[:k]:
            W[i, j] = 1.0 if weighting == "binary" or i == j else cosine[j]
            kept[i, j] = True
    if symmetric:
        W, kept = np.where(kept, W, W.T), kept | kept.T
    degree = W.sum(axis=1)
    return {
        (j, i): W[i, j] / np.sqrt(degree[i] * degree[j])
        for i in range(n)
        for j in range(n)
        if kept[i, j]
    }


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("weighting", ["cosine", "binary"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_equals_the_definition(k, weighting, symmetric):
    data = items()
    graph = KNNItemGraph("text", k, weighting=weighting, symmetric=symmetric)(data)
    assert edges(graph) == pytest.approx(slow_graph(data["item"].x_text, k, weighting, symmetric))
    assert not data.edge_types


def test_binary_is_one_over_k_with_self():
    found = edges(KNNItemGraph("text", 4, weighting="binary")(items()))
    assert len(found) == 24 * 4
    assert list(found.values()) == pytest.approx([0.25] * 96)
    assert all((i, i) in found for i in range(24))


def test_symmetric_is_symmetric_and_directed_is_not():
    found = edges(KNNItemGraph("text", 4, symmetric=True)(items()))
    assert all(found[i, j] == pytest.approx(weight) for (j, i), weight in found.items())
    directed = edges(KNNItemGraph("text", 4)(items()))
    assert any((i, j) not in directed for j, i in directed)


def test_weighted_sum_of_feature_sets():
    image = torch.randn(24, 3, generator=torch.Generator().manual_seed(9))
    data = items(image=image)
    graph = KNNItemGraph({"image": 0.1, "text": 0.9}, 4, weighting="binary")(data)
    expected = defaultdict(float)
    for weight, features in ((0.1, image), (0.9, data["item"].x_text)):
        for pair in slow_graph(features, 4, "binary"):
            expected[pair] += weight / 4
    found = edges(graph, "image_text")
    assert found == pytest.approx(expected)
    assert {round(4 * weight, 5) for weight in found.values()} == {0.1, 0.9, 1.0}  # FREEDOM

    equal = edges(KNNItemGraph(["image", "text"], 4, name="both")(data), "both")
    halves = defaultdict(float)
    for features in (image, data["item"].x_text):
        for pair, weight in slow_graph(features, 4).items():
            halves[pair] += weight / 2
    assert equal == pytest.approx(halves)


def test_items_without_the_feature_keep_to_themselves():
    data = items(mask=[3, 7])
    data["item"].x_text[11] = 0  # missing as well, whatever the mask says
    found = edges(KNNItemGraph("text", 5)(data))
    missing = {3, 7, 11}
    assert {pair for pair in found if missing & set(pair)} == {(i, i) for i in missing}
    assert all(found[i, i] == 1 for i in missing)
    others = [i for i in range(24) if i not in missing]
    expected = slow_graph(data["item"].x_text[others], 5)
    assert {pair: weight for pair, weight in found.items() if pair[0] not in missing} == (
        pytest.approx({(others[j], others[i]): weight for (j, i), weight in expected.items()})
    )


def test_missing_items_take_the_mean():
    data = items(mask=[3])
    filled = data["item"].x_text.clone()
    others = [i for i in range(24) if i != 3]
    filled[3] = filled[others].mean(dim=0)
    graph = KNNItemGraph("text", 5, missing="mean")(data)
    assert edges(graph) == pytest.approx(slow_graph(filled, 5))
    data["item"].x_text = torch.tensor([[1.0], [-1.0]]).repeat(12, 1)
    data["item"].mask_text[2] = True
    with pytest.raises(ValueError, match="non-zero mean"):
        KNNItemGraph("text", 5, missing="mean")(data)


@pytest.mark.parametrize("weighting", ["cosine", "binary"])
def test_constant_features(weighting):
    data = items()
    data["item"].x_text = torch.full((24, 5), 3.0)
    found = edges(KNNItemGraph("text", 3, weighting=weighting)(data))
    assert len(found) == 72
    assert list(found.values()) == pytest.approx([1 / 3] * 72)
    assert all((i, i) in found for i in range(24))


def test_negative_row_sums_give_no_nan():
    data = items(n=3, dim=2)
    data["item"].x_text = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.1]])
    graph = KNNItemGraph("text", 3)(data)
    weight = graph["item", "knn_text", "item"].edge_weight
    assert weight.isfinite().all()
    found = edges(graph)
    assert found[0, 0] == pytest.approx(1)  # its positive similarities: its own
    assert found[1, 0] < 0


@pytest.mark.parametrize("block_size", [1, 5, 100])
def test_block_size_and_dtype_change_nothing(block_size):
    data = items()
    expected = edges(KNNItemGraph("text", 5)(data))
    assert edges(KNNItemGraph("text", 5, block_size=block_size)(data)) == expected
    data["item"].x_text = data["item"].x_text.double().T.contiguous().T
    assert edges(KNNItemGraph("text", 5, block_size=block_size)(data)) == expected


def test_features_that_need_repair():
    data = items()
    data["item"].x_text[[2, 5]] = float("nan")
    data["item"].x_text[9, 1] = float("inf")
    with pytest.raises(ValueError, match=r"in 3 rows, the first: \[2, 5, 9\]"):
        KNNItemGraph("text")(data)
    data["item"].mask_text = torch.zeros(24, dtype=torch.bool)
    data["item"].mask_text[[2, 5, 9]] = True
    assert len(edges(KNNItemGraph("text", 2)(data))) == 21 * 2 + 3
    data["item"].mask_text = torch.zeros(23, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mask of feature 'text'.*\(24,\)"):
        KNNItemGraph("text", 2)(data)
    for table in (torch.ones(23, 2), torch.ones(24), torch.ones(24, 0)):
        with pytest.raises(ValueError, match=r"needs the shape \[24, dim\]"):
            KNNItemGraph("text", 2)(items(text=table))
    with pytest.raises(ValueError, match="x_image is missing"):
        KNNItemGraph("image", 2)(items())


def test_names_go_without_their_prefix():
    with pytest.raises(ValueError, match=r"without the prefix 'x_', of \['text'\].*give 'text'"):
        KNNItemGraph("x_text", 2)(items())
    data = items(x_text=torch.eye(24))  # a name of its own, odd as it is
    assert edges(KNNItemGraph("x_text", 2)(data), "x_text")


def test_more_neighbours_than_items():
    with pytest.raises(ValueError, match=r"'k' needs to be in \[1, 24\] \(got 25\): of 24 items"):
        KNNItemGraph("text", 25)(items())
    with pytest.raises(ValueError, match=r"'k' needs to be in \[1, 22\] \(got 23\)"):
        KNNItemGraph("text", 23)(items(mask=[0, 1]))
    for missing in ("self_loop", "mean"):
        with pytest.raises(ValueError, match="0 have feature 'text'"):
            KNNItemGraph("text", 1, missing=missing)(items(mask=slice(None)))
    assert len(edges(KNNItemGraph("text", 24)(items()))) == 24 * 24


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"k": 0}, "'k'"),
        ({"k": -3}, "'k'"),
        ({"k": 2.5}, "'k'"),
        ({"block_size": 0}, "'block_size'"),
        ({"weighting": "cos"}, "'weighting'"),
        ({"backend": "annoy"}, "'backend'"),
        ({"min_recall": 1.1}, "'min_recall'"),
        ({"missing": "drop"}, "'missing'"),
        ({"name": ""}, "'name'"),
        ({"features": []}, "'features'"),
        ({"features": ["a", "a"]}, "'features'"),
        ({"features": {"a": -1.0}}, "'features'"),
        ({"features": {"a": float("nan")}}, "'features'"),
        ({"features": {"a": 0.0}}, "'features'"),
    ],
)
def test_rejects_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"{name} needs"):
        KNNItemGraph(**{"features": "text"} | arguments)


def test_cache_serves_the_same_graph(tmp_path, monkeypatch):
    transform = KNNItemGraph("text", 5, cache_dir=tmp_path / "new")
    first = edges(transform(items()))
    monkeypatch.setattr(KNNItemGraph, "_build", None)  # a second build would fail
    assert edges(transform(items())) == first
    renamed = KNNItemGraph("text", 5, cache_dir=tmp_path / "new", name="other", block_size=3)
    assert edges(renamed(items()), "other") == first


def test_cache_is_keyed_by_features_and_arguments(tmp_path, monkeypatch):
    def stored():
        return len(list(tmp_path.glob("*.json")))

    base = {"features": "text", "k": 5, "cache_dir": tmp_path}
    KNNItemGraph(**base)(items())
    changes = [
        (items(seed=1), {}),
        (items(mask=[0]), {}),
        (items(), {"k": 4}),
        (items(), {"weighting": "binary"}),
        (items(), {"symmetric": True}),
        (items(mask=[1]), {"missing": "mean"}),
        (items(), {"features": {"text": 0.5}}),
    ]
    for number, (data, change) in enumerate(changes, start=2):
        cached = edges(KNNItemGraph(**base | change)(data))
        assert stored() == number
        assert cached == edges(KNNItemGraph(**base | change | {"cache_dir": None})(data))
    monkeypatch.setattr(knn_item_graph, "_VERSION", "another")
    KNNItemGraph(**base)(items())
    assert stored() == len(changes) + 2


def test_faiss_tells_its_recall(tmp_path):
    pytest.importorskip("faiss", reason="faiss (extra 'serving') is missing")
    data = items(
        n=300, dim=3, image=torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    )
    arguments = {"features": ["text", "image"], "k": 5, "cache_dir": tmp_path}
    graph = KNNItemGraph(**arguments, backend="faiss", min_recall=0.6)(data)
    store = graph["item", "knn_text_image", "item"]
    assert 0.6 <= store.recall <= 1
    again = KNNItemGraph(**arguments, backend="faiss", min_recall=0.6)(data)
    assert again["item", "knn_text_image", "item"].recall == store.recall
    exact = KNNItemGraph(**arguments)(data)["item", "knn_text_image", "item"]
    assert "recall" not in exact
    more = KNNItemGraph("text", 5, backend="faiss", min_recall=0.9)(data)[
        "item", "knn_text", "item"
    ]
    assert more.recall >= 0.9
    wanted = edges(KNNItemGraph("text", 5)(data))
    assert len(wanted.keys() & set(map(tuple, more.edge_index.T.tolist()))) > 0.9 * len(wanted)


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="the item graph is not kept for the next time: .*file"):
        found = KNNItemGraph("text", 5, cache_dir=tmp_path / "file" / "folder")(items())
    assert edges(found) == edges(KNNItemGraph("text", 5)(items()))


def test_damaged_cache_is_rebuilt(tmp_path):
    transform = KNNItemGraph("text", 5, cache_dir=tmp_path)
    first = edges(transform(items()))
    (path,) = tmp_path.glob("*.safetensors")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.warns(UserWarning, match="rebuilding the item graph"):
        assert edges(transform(items())) == first
    assert path.read_bytes() == good


def test_parallel_builders_do_not_clash(tmp_path):
    def build(_):
        return edges(KNNItemGraph("text", 5, cache_dir=tmp_path)(items()))

    with ThreadPoolExecutor(4) as pool:
        graphs = list(pool.map(build, range(8)))
    assert all(graph == graphs[0] for graph in graphs)
    assert sorted(path.suffix for path in tmp_path.glob("[!.]*")) == [".json", ".safetensors"]


def test_repr():
    assert repr(KNNItemGraph("text", 5)) == (
        "KNNItemGraph({'text': 1.0}, k=5, weighting='cosine', name='text')"
    )
