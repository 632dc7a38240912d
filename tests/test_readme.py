from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "readme"}
    torch.manual_seed(0)  # of the initial weights
    assert "max_epochs=20" in block
    exec(compile(block.replace("max_epochs=20", "max_epochs=4"), "README.md", "exec"), scope)
    assert "recall@10" in capsys.readouterr().out
    model, evaluate, test = scope["model"], scope["evaluate"], scope["test"]
    untrained = type(model)(scope["train"], features=["mm"], item_graph="mm")
    assert evaluate(model, test)["recall@20"] > 3 * evaluate(untrained, test)["recall@20"]


def test_the_rows_of_the_results_stand_in_the_whole_table() -> None:
    """The README shows five of its rows, and fewer of their columns."""
    results = README.split("## Results")[1].split("\n## ")[0]
    everything = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = everything.split("## Synthetic data: the default comparison")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| (.* ± 0\.\d{4}.*) \|$", results, re.MULTILINE)
    assert len(rows) == 5
    assert {"AlignRec", "Popularity"} < {model for model, _ in rows}
    for model, figures in rows:
        assert f"\n| {model} | {figures} |" in table
    for word in ("commit", "seeds", "split", "validation"):
        assert word in results.lower()


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 150
