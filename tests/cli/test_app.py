import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from alignrec_pyg import CheckpointError
from alignrec_pyg.cli import app, main

ROOT = Path(__file__).parents[2]
COMMANDS = (
    *("check", "encode", "features", "pretrain", "train", "compare", "evaluate", "recommend"),
    "serve",
)


def test_help_imports_nothing_heavy():
    """No torch, no arrays: help is there at once."""
    script = """
import sys
from alignrec_pyg.cli import main
codes = [main(["--help"]), *(main([name, "--help"]) for name in sys.argv[1:])]
codes.append(main(["train", "--modle", "BPR"]))
print(sorted(set(codes)), {"numpy", "pandas", "rich", "torch"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *COMMANDS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.endswith("[0, 2] set()\n")
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert "Exit codes: 0 done" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: Missing command. (alignrec --help says what there is)\n"),
        (["trian"], "error: No such command 'trian'. Did you mean 'train', 'pretrain'? "),
        (["evaluate"], "error: Missing argument 'RUN'. (alignrec evaluate --help says"),
        (["train", "--out", "y"], "error: PATH: is needed: what encode wrote"),
        (["train", "x"], "error: Missing option '--out'. (alignrec train --help says"),
        (
            ["train", "x", "--modle", "BPR"],
            "error: No such option: --modle (Possible options: --mo",
        ),
        (["train", "x", "--out", "y", "--model", "B"], "error: model 'B' is unknown: did you mean"),
        (
            ["train", "x", "--out", "y", "--lr", "fast"],
            "finite number (got 'fast') (alignrec train",
        ),
        (["evaluate", "x", "--k", "0"], "a whole number of 1 or more (got '0') (alignrec evaluate"),
        (["evaluate", "x", "--k"], "error: --k: needs at least one value (got none)\n"),
    ],
)
def test_a_usage_error_is_a_line_and_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ValueError("one\ntwo"), 1, "error: one\nerror: two\n"),
        (OSError("disk full"), 1, "error: disk full\n"),
        (ImportError("no torchscale"), 1, "error: no torchscale\n"),
        (FloatingPointError("loss"), 1, "error: loss\n"),
        (MemoryError(), 1, "error: MemoryError\n"),
        (CheckpointError("damaged"), 1, "error: damaged\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; the same command continues"),
    ],
)
def test_what_a_command_raises(error, code, told, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("alignrec_pyg.datasets.check", fail)
    if isinstance(error, ValueError):  # of check itself it would be one of the PATH
        monkeypatch.setattr("alignrec_pyg.cli.runs.load_run", fail)
        assert main(["evaluate", "x"]) == code
    else:
        assert main(["check", "x"]) == code
    assert capsys.readouterr().err.startswith(told)


def test_a_defect_of_ours_is_no_error_of_the_user(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr("alignrec_pyg.datasets.check", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["check", "x"])
    monkeypatch.setattr("alignrec_pyg.datasets.check", lambda *_, **__: sys.exit(143))
    with pytest.raises(SystemExit, match="143"):  # SIGTERM while training, with its own code
        main(["check", "x"])


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{metadata.version('alignrec-pyg')}\n"


def test_the_script_is_installed():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="alignrec")
    assert script.load() is app.main


def test_from_raw_files_to_titles(shop, run, tmp_path, capsys):
    """The whole path: everybody is recommended films of the own taste, unseen ones."""
    out = tmp_path / "best.csv"
    films = ["--items", str(shop.films), "--show", "title"]
    assert main(["recommend", str(run), "--all", "--k", "5", *films, "--out", str(out)]) == 0
    header, *lines = out.read_text().splitlines()
    assert header == "user_id,rank,item_id,title,score"
    assert len(lines) == 40 * 5
    seen = set(shop.ratings.read_text().splitlines())
    seen = {tuple(line.split(",")[:2]) for line in seen if line.split(",")[2] == "5"}
    for line in lines:
        user, _, item, title, _ = line.split(",")
        assert title == f"{('red', 'blue')[int(user[1:]) % 2]} film {int(item) - 100}"
        assert (user, item) not in seen
    told = json.loads((run / "run.json").read_text())
    assert told["settings"]["features"] == ["patch_pca", "tfidf"]
