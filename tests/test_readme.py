from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array

from alignrec_pyg.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "readme"}
    torch.manual_seed(0)  # of the initial weights
    exec(compile(block, "README.md", "exec"), scope)
    assert "recall@10" in capsys.readouterr().out
    model, evaluate, test = scope["model"], scope["evaluate"], scope["test"]
    untrained = type(model)(scope["train"], features=["mm"], item_graph="mm")
    assert np.isfinite(evaluate(model, test)["recall@20"])
    assert evaluate(model, test)["recall@20"] > evaluate(untrained, test)["recall@20"]


def block_of_data_needing(name: str) -> str:
    blocks = re.findall(r"^```python no-run\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if name in block]
    return str(block)


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


def test_results_are_there_with_their_source() -> None:
    section = README.split("## Results")[1].split("\n## ")[0]
    for model in ("AlignRec", "BPR", "LightGCN", "VBPR", "BM3", "FREEDOM"):
        assert re.search(rf"^\| {model} \| .*0\.\d{{4}} ± 0\.\d{{4}}", section, flags=re.MULTILINE)
    for word in ("commit", "seeds", "split", "validation"):
        assert word in section
