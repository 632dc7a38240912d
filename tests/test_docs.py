from __future__ import annotations

import re
from pathlib import Path

import pytest
from torch import distributed

ROOT = Path(__file__).parents[1]
CLUSTER = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


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
