from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from torch import distributed

from alignrec_cli import main

ROOT = Path(__file__).parents[1]
CLUSTER = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
COMMAND_LINE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")


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


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A small MovieLens with plots and a folder of posters: red films and blue ones."""
    rng = np.random.default_rng(0)
    number = np.arange(1, 101)
    words = np.array([f"{a}o{b}{c}" for a in "bdfgklmnpr" for b in "lmnr" for c in ("ako", "emi")])
    plots = [" ".join(rng.choice(words[:40] if n % 2 else words[40:], 12)) for n in number]
    titles = [f"{'red' if n % 2 else 'blue'} film {n}" for n in number]
    pd.DataFrame({"movieId": number, "title": titles}).to_csv(tmp_path / "movies.csv", index=False)
    pd.DataFrame({"movieId": number, "overview": plots}).to_csv(
        tmp_path / "overviews.csv", index=False
    )
    (tmp_path / "posters").mkdir()
    for n in number:
        pixels = rng.integers(0, 90, (16, 16, 3), dtype=np.uint8)
        pixels[..., 0 if n % 2 else 2] += 150
        Image.fromarray(pixels).save(tmp_path / "posters" / f"{n}.png")
    rows = []
    for user in range(1, 41):
        liked = rng.permutation(number[number % 2 == user % 2])[:25]
        rows += [(user, film, 5.0, time) for time, film in enumerate(liked)]
    columns = ["userId", "movieId", "rating", "timestamp"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "ratings.csv", index=False)
    return tmp_path


def test_the_commands_of_the_transcript_run(
    films: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On made-up films; what they print has the form of what is shown."""
    monkeypatch.chdir(films)
    first, more = re.findall(
        r"^```console\n(.*?)^```", COMMAND_LINE, flags=re.MULTILINE | re.DOTALL
    )
    steps = re.findall(r"^\$ alignrec (.*)\n((?:(?!\$ ).*\n)*)", first + more, flags=re.MULTILINE)
    assert len(steps) == 8
    assert first.count("$ alignrec") <= 6  # from raw files to titles
    for command, shown in steps:
        assert main(command.split()) == 0
        printed = capsys.readouterr().out.splitlines()
        if "--users" in command:
            recommended = [line.split(maxsplit=3) for line in printed[1:]]
            assert len(recommended) == len(shown.strip().splitlines()) - 1 == 10
            for user, _, item, title in recommended:
                assert title == f"{'red' if int(item) % 2 else 'blue'} film {item}"
                assert int(user) % 2 == int(item) % 2  # of the user's taste
        elif not command.startswith(("check", "encode")):
            words = [line.split()[:1] for line in printed]
            assert words[1:] == [line.split()[:1] for line in shown.strip().splitlines()][1:] or (
                "--similar" in command
            )
    assert (films / "best.parquet").is_file()
