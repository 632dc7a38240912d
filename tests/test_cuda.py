"""On a GPU everything gives what it gives on the CPU, up to rounding.

The models' own tests (``models/test_conformance.py``) run on both devices; stage 1's are in
``pretraining/test_cuda.py``.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import (
    AlignRec,
    LightGCN,
    Server,
    TrainConfig,
    activity_groups,
    beyond_accuracy,
    cosine_statistics,
    evaluate,
    evaluate_users,
    fit,
    intra_list_diversity,
    item_cf,
    long_tail_links,
    mask_modality,
    popularity_groups,
    rank,
    user_metrics,
    zero_shot,
)
from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.encoders import (
    BEiT3Config,
    BEiT3Encoder,
    BEiT3Model,
    CLIPEncoder,
    ItemContent,
    Precomputed,
    SentencePieceTokenizer,
)
from alignrec_pyg.graph import INTERACTS, on_device
from alignrec_pyg.models import Recommender
from alignrec_pyg.nn import knn_search
from alignrec_pyg.nn.knn_search import cosine_neighbors
from alignrec_pyg.pretraining import CLIPFinetuneConfig, finetune_clip
from alignrec_pyg.serving import add_items, new_items
from alignrec_pyg.transforms import EncodeItems, HoldOutItems, KNNItemGraph, SplitInteractions

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GRAPH = KNNItemGraph(["image", "text"], k=5)


@pytest.fixture(scope="module")
def data() -> HeteroData:
    """300 users, 200 items, image and text vectors, no graph of the items yet."""
    data = Synthetic(num_users=300, num_items=200, num_interactions=4_000, seed=0).data
    generator = torch.Generator().manual_seed(0)
    for name, width in (("image", 24), ("text", 16)):
        data["item"][f"x_{name}"] = torch.randn(200, width, generator=generator)
    return data


def on_gpu(graph: HeteroData) -> HeteroData:
    return on_device(graph, "cuda")


def split(data: HeteroData) -> tuple[HeteroData, ...]:
    return SplitInteractions()(GRAPH(copy.copy(data)))


def trained(graphs: tuple[HeteroData, ...], model_cls=AlignRec, **config: Any) -> Recommender:
    """The same initial weights on either device; a few steps of training make it a model."""
    torch.manual_seed(0)
    model = model_cls(graphs[0], embedding_dim=16).to(graphs[0][INTERACTS].edge_index.device)
    settings = {"lr": 0.01, "max_epochs": 3, "batch_size": 512, **config}
    fit(model, graphs[0], graphs[1], TrainConfig(**settings))
    return model


@pytest.fixture(scope="module")
def case(data) -> tuple[Recommender, HeteroData, Recommender, HeteroData]:
    """One trained model and its test graph, here and there."""
    train, val, test = split(data)
    model = trained((train, val))
    return model, test, copy.deepcopy(model).to("cuda"), on_gpu(test)


def assert_same(here: Any, there: Any, **tolerance: float) -> None:
    """Fields and entries alike, numbers within the tolerance."""
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    if isinstance(here, torch.Tensor):
        torch.testing.assert_close(there.cpu(), here, equal_nan=True, **tolerance)
    elif isinstance(here, np.ndarray) and here.dtype != object:
        np.testing.assert_allclose(there, here, **tolerance)
    elif isinstance(here, dict):
        assert here.keys() == there.keys()
        assert_same(list(here.values()), list(there.values()), **tolerance)
    elif isinstance(here, list | tuple):
        assert len(here) == len(there)
        for one, two in zip(here, there, strict=True):
            assert_same(one, two, **tolerance)
    elif isinstance(here, float):
        assert there == pytest.approx(here, rel=1e-4, abs=1e-5, nan_ok=True)
    elif hasattr(here, "__dict__"):
        assert_same(vars(here), vars(there), **tolerance)
    else:
        assert there == here


@pytest.mark.parametrize("k", [1, 10, 200])
@pytest.mark.parametrize(
    "backend", ["matmul", pytest.param("torch_cluster", marks=pytest.mark.graph_extra)]
)
def test_neighbours_and_their_order(k, backend):
    """Also among many ties: whole numbers, several rows alike."""
    if backend == "torch_cluster":
        k = min(k, 100)
    rows = np.random.default_rng(k).integers(-1, 3, size=(200, 4)).astype(np.float32)
    rows[~rows.any(axis=1), 0] = 1
    features = torch.from_numpy(rows)
    here = cosine_neighbors(features, k, backend="matmul", block_size=64)
    there = cosine_neighbors(features.cuda(), k, backend=backend, block_size=64)
    for one, two in zip(here, there, strict=True):
        assert two.is_cuda
        assert torch.equal(two.cpu(), one)


def test_torch_cluster_is_taken_on_a_gpu_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(
        knn_search, "_torch_cluster_candidates", lambda *_: pytest.fail("was taken")
    )
    monkeypatch.setattr(knn_search, "torch_cluster_installed", lambda: True)
    neighbor, _ = cosine_neighbors(torch.eye(20, device="cuda"), 2, backend="auto")
    assert neighbor.shape == (20, 2)


def test_item_graphs_and_splits(data):
    here = [*split(data), *HoldOutItems(seed=1)(data)]
    there = [*SplitInteractions()(GRAPH(on_gpu(data))), *HoldOutItems(seed=1)(on_gpu(data))]
    assert len(here) == len(there)
    for one, two in zip(here, there, strict=True):
        for edge_type, store in one.edge_items():
            for name, value in store.items():
                found = two[edge_type][name]
                if isinstance(value, torch.Tensor):
                    assert found.is_cuda
                    assert_same(value, found)


@pytest.mark.parametrize("model_cls", [AlignRec, LightGCN])
def test_training_takes_the_same_steps(data, model_cls):
    here, there = split(data), tuple(on_gpu(graph) for graph in split(data))
    for one, two in zip(
        trained(here, model_cls).parameters(), trained(there, model_cls).parameters(), strict=True
    ):
        torch.testing.assert_close(two.cpu(), one, rtol=1e-2, atol=1e-3)


def test_a_run_continues_on_the_other_device(data, tmp_path):
    """Interrupted on the CPU, finished on the GPU."""
    here, there = split(data), tuple(on_gpu(graph) for graph in split(data))
    config = TrainConfig(lr=0.01, max_epochs=4, batch_size=512)

    def run(graphs, folder=None, stop_at=None):
        torch.manual_seed(0)
        model = LightGCN(graphs[0], embedding_dim=16).to(graphs[0][INTERACTS].edge_index.device)

        def report(epoch, entry):
            if epoch == stop_at:
                raise KeyboardInterrupt

        result = fit(
            model, *graphs[:2], config, report=report, checkpoint_dir=folder, checkpoint_seconds=0
        )
        return model, result

    expected, result = run(here)
    with pytest.raises(KeyboardInterrupt):
        run(here, tmp_path, stop_at=2)
    model, continued = run(there, tmp_path)
    assert continued.num_epochs == 4
    assert continued.history[0]["loss"] == result.history[0]["loss"]
    for one, two in zip(expected.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(two.cpu(), one, rtol=1e-3, atol=1e-4)


def test_a_saved_model_loads_on_the_other_device(case, tmp_path):
    model, test, moved, moved_test = case
    moved.save_pretrained(tmp_path / "gpu")
    model.save_pretrained(tmp_path / "cpu")
    for folder in ("gpu", "cpu"):
        assert_same(model(test), AlignRec.from_pretrained(tmp_path / folder, test)(test))
        loaded = AlignRec.from_pretrained(tmp_path / folder, moved_test)
        assert next(loaded.parameters()).is_cuda
        assert_same(model(test), loaded(moved_test))


def test_a_model_back_on_the_cpu_leaves_nothing_behind(data):
    """A process without a GPU can read it: workers of another machine are sent models."""
    graph = on_device(GRAPH(copy.copy(data)), "cuda")
    model = AlignRec(graph, embedding_dim=8).to("cuda").cpu()
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    places = []
    torch.load(stored, map_location=lambda s, place: places.append(place) or s, weights_only=False)
    assert set(places) == {"cpu"}


def test_encoded_items_and_given_tables(data):
    graph = on_device(data, "cuda")
    given = Precomputed(graph["item"].x_text, ids=graph["item"].id)
    encoded = EncodeItems(given, "given")(graph)
    assert encoded["item"].x_given.is_cuda
    assert_same(data["item"].x_text, encoded["item"].x_given)


def test_rankings_and_all_that_is_told_of_them(case, monkeypatch):
    model, test, moved, moved_test = case
    monkeypatch.setattr(
        "alignrec_pyg.evaluation.ranking._BLOCK_SCORES_CUDA", 64 * 200
    )  # several blocks

    def told(model, graph):
        ranking = rank(model, graph, k=20)
        links = graph[INTERACTS].edge_label_index
        metrics = user_metrics(ranking, links, k=20)
        return {
            "evaluate": evaluate(model, graph, ks=(5, 20)),
            "users": evaluate_users(model, graph, k=20),
            "activity": activity_groups(metrics, graph),
            "popularity": popularity_groups(ranking, graph, links),
            "beyond": beyond_accuracy(ranking, graph),
            "diversity": intra_list_diversity(ranking, graph, "text"),
            "tail": long_tail_links(graph, links),
        }

    assert_same(told(model, test), told(moved, moved_test))


def test_lists_for_users_new_users_and_items(case, tmp_path):
    model, test, moved, moved_test = case
    users, items = test["user"].id[:5].tolist(), test["item"].id[:5].tolist()
    here, there = Server(model, test), Server(moved, moved_test)

    def told(server):
        lists = {
            "recommend": server.recommend([*users, "zoe"], k=10, unknown="popular"),
            "new users": server.new_users([items, items[:1]], k=10),
            "similar": server.similar(items, k=10),
            "reasons": server.explain(users[0], items, k=2),
        }
        return {name: [row.item.tolist() for row in rows] for name, rows in lists.items()}

    assert told(here) == told(there)
    paths = tmp_path / "cpu.parquet", tmp_path / "gpu.parquet"
    assert here.to_parquet(paths[0], k=10) == there.to_parquet(paths[1], k=10)
    one, two = map(pd.read_parquet, paths)
    pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=1e-4)


def test_new_items_join(case):
    model, test, moved, moved_test = case
    generator = torch.Generator().manual_seed(4)
    rows = {
        "image": torch.randn(3, 24, generator=generator),
        "text": torch.randn(3, 16, generator=generator),
    }
    new = new_items([901, 902, 903], features=rows)
    grown, larger = add_items(model, test, new, item_graphs=[GRAPH])
    moved_grown, moved_larger = add_items(moved, moved_test, new, item_graphs=[GRAPH])
    assert_same(grown(larger), moved_grown(moved_larger))


def test_a_scorer_is_exported(case, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    _, _, moved, moved_test = case
    Server(moved, moved_test).to_onnx(tmp_path / "scorer.onnx", k=5)
    assert onnxruntime.InferenceSession(tmp_path / "scorer.onnx").get_inputs()


@pytest.mark.parametrize(
    "protocol",
    [
        lambda data: zero_shot(data, ["image", "text"]),
        lambda data: item_cf(data, ["image", "text"]),
        lambda data: mask_modality(data, ["image", "text"], "image", protocol=item_cf),
        lambda data: cosine_statistics(data, ["image", "text"]),
    ],
    ids=["zero-shot", "item-CF", "mask-modality", "cosines"],
)
def test_feature_evaluation(data, protocol: Callable[[HeteroData], Any]):
    here, there = protocol(data), protocol(on_gpu(data))
    assert_same(here, there)


@pytest.fixture(scope="module")
def content() -> ItemContent:
    generator = torch.Generator().manual_seed(0)
    images = list(torch.randint(256, (4, 3, 32, 40), dtype=torch.uint8, generator=generator))
    return ItemContent(["a red car", None, "a blue sofa", "a cup"], [*images[:3], None])


def test_clip_encodes_and_is_tuned(tiny_clip, content):
    rows = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        encoder = CLIPEncoder(tiny_clip, device=device)
        rows.append(encoder(content))
    assert_same(rows[0], rows[1], rtol=1e-3, atol=1e-4)
    result = finetune_clip(
        encoder,
        ItemContent(["a red car", "a blue sofa", "a cup"] * 2, list(content.image[:3]) * 2),
        CLIPFinetuneConfig(lr=1e-3, batch_size=6, epochs=30, val_share=0.0),
    )
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_beit3_encodes(content):
    pytest.importorskip("torchscale", exc_type=ImportError)
    pytest.importorskip("sentencepiece")
    tokenizer = SentencePieceTokenizer.train(["a red car", "a blue sofa", "a cup"] * 5, 30)
    rows = []
    for device in ("cpu", "cuda"):
        model = BEiT3Model(BEiT3Config.tiny(vocab_size=tokenizer.vocab_size), seed=0)
        rows.append(BEiT3Encoder(model, tokenizer, device=device)(content))
    assert_same(rows[0], rows[1], rtol=1e-3, atol=1e-4)
