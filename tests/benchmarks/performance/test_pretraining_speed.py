from __future__ import annotations

import pytest

from benchmarks.performance import pretraining_speed

TINY = ["--config", "tiny", "--batch-size", "4", "--micro-batch-size", "2", "--device", "cpu"]


def test_pairs_after_the_first_step_over_their_time(monkeypatch, capsys):
    """Three steps of four pairs at 10, 12 and 15 seconds: eight pairs in five."""
    pytest.importorskip("torchscale", exc_type=ImportError)
    pytest.importorskip("sentencepiece")
    monkeypatch.setattr(pretraining_speed, "_PHOTO", 40)
    monkeypatch.setattr(pretraining_speed, "_NUM_PHOTOS", 4)
    monkeypatch.setattr(pretraining_speed, "_CODES", 8)
    monkeypatch.setattr(pretraining_speed, "perf_counter", iter([10, 12, 15] * 2).__next__)
    assert pretraining_speed.main([*TINY, "--steps", "3", "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split("|")[1:3] for line in printed.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row] for row in rows[2:4]] == [
        ["float32", "1.6"],
        ["bfloat16", "1.6"],
    ]
    assert "2 at a time" in printed


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--steps", "1"], "--steps: needs 2 or more"),
        (["--num-workers", "-1"], "--num-workers: needs 0 or more (got -1)"),
        (["--device", "cuda"], "--device cuda: torch finds no GPU"),
    ],
)
def test_arguments_that_do_not_fit(arguments, problem, monkeypatch, capsys):
    monkeypatch.setattr(pretraining_speed.torch.cuda, "is_available", lambda: False)
    assert pretraining_speed.main(["--config", "tiny", *arguments]) == 2
    assert problem in capsys.readouterr().err
