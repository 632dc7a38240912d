from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from torch import distributed

from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.demo import Showcase

ROOT = Path(__file__).parents[1]
CLUSTER = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
DEMO = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")


def test_the_script_for_torchrun_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the only worker, which torchrun would tell so."""
    (script,) = re.findall(r"^```python\n(.*?)^```", CLUSTER, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(
        distributed,
        "init_process_group",
        lambda backend, init=distributed.init_process_group: init(
            "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
        ),
    )
    exec(compile(script, "cluster.md", "exec"), {"__name__": "train"})
    assert "recall@20" in capsys.readouterr().out
    assert (tmp_path / "run" / "state.json").exists()
    assert not distributed.is_initialized()


def test_the_examples_for_ray_are_calls_of_ours() -> None:
    """They need a cluster: what they import is there, and they are Python."""
    blocks = re.findall(r"^```python no-run\n(.*?)^```", CLUSTER, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "cluster.md", "exec")
        exec("\n".join(line for line in block.splitlines() if line.startswith("from ")), {})


def test_the_example_of_the_demo_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the launch of the page, in whose place the showcase is asked."""
    (script,) = re.findall(r"^```python\n(.*?)^```", DEMO, flags=re.MULTILINE | re.DOTALL)
    script = script.replace("max_epochs=20", "max_epochs=1")
    asked: list[Showcase] = []

    class Asked:
        def __init__(self, showcase: Showcase, *, title: str) -> None:
            asked.append(showcase)

        def launch(self) -> None:
            assert asked[0].for_user("3", 5).recommended[0].item.title.startswith("Item ")
            text = asked[0].new_item(None, Synthetic(seed=0).data["item"].text[3], 5)
            assert text.used == ("text",)

    page_module = sys.modules["alignrec_pyg.demo.page"]  # the package has a function of that name
    monkeypatch.setattr(page_module, "require", lambda *given, **named: None)
    monkeypatch.setattr(page_module, "Page", Asked)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "demo.md", "exec"), {"__name__": "show"})
    assert asked[0].reads == ("image", "text")
