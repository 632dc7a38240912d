from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.sparse import csr_array
from torch_geometric.data import HeteroData

from alignrec_cli import main
from alignrec_pyg.checkpoint import write_tensors
from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.encoders import CLIPEncoder, PatchPCAEncoder, TfidfEncoder
from alignrec_pyg.transforms import EncodeItems, KNNItemGraph, SplitInteractions

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    first, second, third = blocks
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "readme"}
    torch.manual_seed(0)  # of the initial weights
    exec(compile(first, "README.md", "exec"), scope)
    assert "recall@10" in capsys.readouterr().out
    model, evaluate, test = scope["model"], scope["evaluate"], scope["test"]
    untrained = type(model)(scope["train"], features=["mm"], item_graph="mm")
    assert np.isfinite(evaluate(model, test)["recall@20"])
    assert evaluate(model, test)["recall@20"] > evaluate(untrained, test)["recall@20"]
    exec(compile(second, "README.md", "exec"), scope)
    aligned, test = scope["model"], scope["test"]
    assert evaluate(aligned, test)["recall@20"] > 2 * 20 / aligned.num_items  # far from random
    capsys.readouterr()
    exec(compile(third, "README.md", "exec"), scope)
    assert "BootstrapInterval(" in capsys.readouterr().out
    assert scope["text"].recall[20] > 2 * scope["text"].random[20]


def block_of_data_needing(name: str) -> str:
    blocks = re.findall(r"^```python no-run\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if name in block]
    return str(block)


def test_the_data_frame_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {
        "interactions": pd.DataFrame(
            {"customer": ["a", "a", "b"], "sku": [7, 9, 7], "bought_at": [1, 2, 3]}
        ),
        "items": pd.DataFrame(
            {"sku": [7, 9], "title": ["x", "y"], "description": ["", "z"], "photo": [None, "y.png"]}
        ),
        "item_ids": [9, 7],
        "matrix": np.ones((2, 3), dtype=np.float32),
    }
    exec(compile(block_of_data_needing("from_frames"), "README.md", "exec"), scope)
    assert "audio" in capsys.readouterr().out


def test_the_examples_on_files_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    links = {"customer": ["a", "b"], "sku": [7, 9], "bought_at": [1, 2]}
    pd.DataFrame(links).to_csv("ratings.csv.gz", index=False)
    pd.DataFrame({"sku": [9, 7], "title": ["x", "y"]}).to_parquet("items.parquet")
    matrix = csr_array(np.eye(2))
    scope: dict[str, object] = {"train_matrix": matrix, "test_matrix": matrix, "skus": ["p", "q"]}
    block = block_of_data_needing("from_files")
    exec(compile(block.split("dataset = from_scipy")[0], "README.md", "exec"), scope)
    assert scope["dataset"].data["item"].text == ["x", "y"]
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["dataset"].data["item"].id.tolist() == ["p", "q"]
    (command,) = re.findall(r"^alignrec (check ratings.csv.gz .*)$", README, flags=re.MULTILINE)
    assert main(command.split()) == 0


def test_the_movielens_example_runs(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_folder)
    scope: dict[str, object] = {}
    exec(compile(block_of_data_needing("MovieLens"), "README.md", "exec"), scope)
    assert scope["data"]["item"].num_nodes > 1000


def test_the_raw_content_example_runs(
    tmp_path: Path,
    tiny_clip: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (block,) = re.findall(r"^```python raw\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    rows = []
    for number, colour in enumerate(["red", "blue", "lime", "gold"] * 6):
        photo = tmp_path / f"{number}.png"
        Image.new("RGB", (20 + number, 30), colour).save(photo)
        rows.append({"title": f"{colour} cup", "brand": None, "photo": str(photo)})
    rows.append({"title": "no photo", "photo": None})
    data = HeteroData()
    data["item"].num_nodes = len(rows)
    weights = tmp_path / "weights.safetensors"
    write_tensors(weights, CLIPEncoder(tiny_clip).model.state_dict())
    block = block.replace('"ViT-B-32"', repr(tiny_clip))
    scope: dict[str, object] = {"data": data, "rows": rows, "weights": weights}
    exec(compile(block, "README.md", "exec"), scope)
    assert "25 of 25 items have a row" in capsys.readouterr().out
    assert scope["data"]["item"].x_mm.shape == (25, 32)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # Ray warns about itself
def test_the_ray_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray ('tune' extra)")
    (block,) = re.findall(r"^```python tune\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    data = Synthetic(60, 80, 900, num_topics=2, image_size=4).data
    data = EncodeItems(TfidfEncoder(8), name="mm")(data)
    del data["item"]["text"], data["item"]["image"]
    train, val, _ = SplitInteractions("random", seed=0)(KNNItemGraph("mm", k=5)(data))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")  # on a busy machine
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray writes results
    monkeypatch.chdir(tmp_path)
    block = block.replace("num_samples=8", "num_samples=2").replace("max_epochs=20", "max_epochs=2")
    ray.init(num_cpus=1, include_dashboard=False)
    scope: dict[str, object] = {"__name__": "readme", "train": train, "val": val}
    try:
        exec(compile(block, "README.md", "exec"), scope)
        results = scope["tuner"].get_results()
    finally:
        ray.shutdown()
    assert "cca_weight" in capsys.readouterr().out
    assert results.num_errors == 0
    assert [result.metrics["epoch"] for result in results] == [1.0, 1.0]
    for result in results:
        seen = result.metrics_dataframe["recall@20"]
        assert result.metrics["best_recall@20"] == seen.max()


def test_results_are_there_with_their_source() -> None:
    section = README.split("## Results")[1].split("\n## ")[0]
    for model in ("AlignRec", "BPR", "LightGCN", "VBPR", "BM3", "FREEDOM"):
        assert re.search(rf"^\| {model} \| .*0\.\d{{4}} ± 0\.\d{{4}}", section, flags=re.MULTILINE)
    for word in ("commit", "seeds", "split", "validation"):
        assert word in section


def test_the_serving_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    first = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)[0]
    imports = "\n".join(line for line in first.splitlines() if line.startswith("from "))
    scope: dict[str, Any] = {}
    exec(compile(imports, "README.md", "exec"), scope)
    data = scope["Synthetic"](seed=0, num_users=60, num_items=80, num_interactions=1500).data
    encoders = TfidfEncoder(8), PatchPCAEncoder(8)
    for name, encoder in zip(("text", "image"), encoders, strict=True):
        data = scope["EncodeItems"](encoder, name=name)(data)
    data = scope["ConcatFeatures"](["image", "text"], name="mm")(data)
    data = scope["KNNItemGraph"]("mm", k=10)(data)
    train, _, test = scope["SplitInteractions"]("random", seed=0)(data)
    items = data["item"].id.tolist()
    scope |= {
        "model": scope["AlignRec"](train, features=["mm"], item_graph="mm"),
        "test": test,
        "user_ids": data["user"].id[:3],
        "user_id": data["user"].id[0],
        "in_stock": items[:40],
        "sold_out": items[3],
        "item_id": items[5],
        "texts": data["item"].text[:2],
        "images": list(data["item"].image[:2]),
        "text_encoder": encoders[0],
        "image_encoder": encoders[1],
    }
    (block,) = re.findall(r"^```python serving\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, "README.md", "exec"), scope)
    assert scope["data"]["item"].num_nodes == 82
    copied = scope["data"]["item"].x_mm
    assert torch.allclose(copied[80:], copied[:2], atol=1e-5)
    assert (tmp_path / "best.parquet").is_file()
