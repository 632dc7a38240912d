import contextlib
import csv
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import alignrec_pyg
from alignrec_pyg.cli import compare
from alignrec_pyg.experiments import cells, prepare, runner, session
from alignrec_pyg.experiments import paper as paper_results
from alignrec_pyg.experiments.paper import PAPER_LABEL
from alignrec_pyg.experiments.progress import CellsProgress
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.settings import BASELINES, TABLE_2

pytestmark = pytest.mark.usefixtures("plain_runs")

ROOT = Path(alignrec_pyg.__file__).parents[1]
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
MODELS = ["AlignRec", "BPR", "LightGCN", "VBPR", "BM3", "FREEDOM"]
"""Enough to see how several models stand side by side; all of them run in test_experiments."""
QUICK = [
    "--settings",
    "published",
    "--epochs",
    "2",
    "--batch-size",
    "64",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--jobs",
    "1",
]


def run(*arguments):
    """Exit status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = compare.main([str(argument) for argument in (*arguments, *QUICK)])
    return status, out.getvalue(), err.getvalue()


def result(out):
    return json.loads((out / "compare.json").read_text())


@pytest.fixture(scope="module")
def finished(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    status, text, _ = run("--data", tiny_folder, "--models", *MODELS, "--seeds", 2, "--out", out)
    assert status == 0
    return out, text


@pytest.fixture
def finished_copy(finished, tmp_path):
    """The finished run in a folder of its own."""
    return shutil.copytree(finished[0], tmp_path / "copy")


@pytest.fixture
def fits(monkeypatch):
    """The (model, seed) of every training run."""
    calls = []
    original = cells.fit

    def counted(model, train, val, config, **arguments):
        calls.append((type(model).__name__, config.seed))
        return original(model, train, val, config, **arguments)

    monkeypatch.setattr(cells, "fit", counted)
    return calls


def test_files_agree_with_each_other(finished):
    out, text = finished
    saved = result(out)
    names = [row["name"] for row in saved["rows"]]
    assert sorted(names) == sorted(MODELS)
    recall = [row["mean"]["recall@20"] for row in saved["rows"]]
    assert recall == sorted(recall, reverse=True)
    assert len(saved["cells"]) == 12
    with (out / "compare.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines] == names
    for row, line in zip(saved["rows"], lines, strict=True):
        cells = [cell for cell in saved["cells"] if cell["row"] == row["name"]]
        for metric in METRICS:
            a, b = (cell["metrics"][metric] for cell in cells)
            assert row["mean"][metric] == pytest.approx((a + b) / 2)
            assert row["std"][metric] == pytest.approx(abs(a - b) / 2**0.5)
            assert float(line[f"{metric} mean"]) == row["mean"][metric]
        assert row["epochs"] == 2
        assert row["seconds"] > 0
        assert float(line["CPU seconds"]) == row["cpu_seconds"] > 0
        assert not row["stopped_early"]
        assert row["still_rising"] == any(cell["still_rising"] for cell in cells)
        assert row["parameters"] > 0
        assert int(line["users"]) == 24
    with (out / "curves.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert len(epochs) == 12 * 2
    for cell in saved["cells"]:
        of_cell = [e for e in epochs if (e["model"], e["seed"]) == (cell["row"], str(cell["seed"]))]
        assert [epoch["epoch"] for epoch in of_cell] == ["1", "2"]
        best = float(of_cell[cell["best_epoch"] - 1]["recall@20"])
        assert best == cell["val_metrics"]["recall@20"]
    for name in ("compare", "curves"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "compare.tex").read_text().count("\\\\\n") == 1 + len(MODELS)
    assert all(str(out / f"compare.{kind}") in text for kind in ("csv", "json", "md", "png", "tex"))


def test_markdown_table_parses_and_marks_the_best(finished):
    out, _ = finished
    rows = result(out)["rows"]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (out / "compare.md").read_text().splitlines()
        if line.startswith("|")
    ]
    head, rule, *body = lines
    assert {len(line) for line in lines} == {len(head)}
    assert all(set(cell) <= set("-:") for cell in rule)
    assert [line[0] for line in body] == [row["name"] for row in rows]
    for metric in METRICS:
        column = head.index(metric)
        best = max(rows, key=lambda row: row["mean"][metric])
        bold = [line[0] for line in body if line[column].startswith("**")]
        assert best["name"] in bold
        for line, row in zip(body, rows, strict=True):
            assert line[column].strip("*").startswith(f"{row['mean'][metric]:.4f} ± ")


def test_screen_has_four_lines_the_table_and_its_outcome(finished):
    out, text = finished
    saved = result(out)
    lines = text.splitlines()
    assert lines[0].startswith("data: tiny, 24 users, 30 items, 192 interactions")
    assert lines[1].startswith("split: labels, 144 training, ")
    assert lines[2].startswith("ranking: all items but the user's training links")
    assert lines[3] == f"settings: written with the results in {out}"
    first = lines.index(next(line for line in lines if line.startswith("model ")))
    ends = {True: "validation still rising (↑); a larger --epochs trains them longer"}
    ends[False] = "perhaps not converged"
    expected = [
        f"At the limit of epochs (+), {text}: {', '.join(names)}"
        for rising, text in ends.items()
        if (names := [row["name"] for row in saved["rows"] if row["still_rising"] == rising])
    ]
    assert lines[4:first] == ["", *expected, ""]
    assert "p (Holm)" in lines[first]
    assert saved["outcome"] in lines
    assert lines[-1].startswith("written: ")
    assert len(lines) == first + 2 + len(MODELS) + 1 + 4  # rule, rows, legend, outcome, files


def test_files_say_where_the_numbers_come_from(finished):
    out, _ = finished
    saved = result(out)
    text = (out / "compare.md").read_text()
    assert saved["data"]["split"]["fingerprint"] in text
    for feature in saved["data"]["report"]["features"]:
        assert feature["content_hash"] in text
    assert [f["name"] for f in saved["data"]["report"]["features"]] == [
        "image",
        "image+text",
        "text",
    ]
    assert "split: labels" in text
    assert "validation links count as misses" in text
    assert "seeds 0, 1" in text
    assert "max_epochs 2 (1000)" in text
    assert text.count("paired t-test over 24 users") == 5
    assert "after Holm's correction for 5" in text
    assert text.index("perhaps not converged") < text.index(saved["outcome"]) < text.index("| ---")
    for name in ("commit", "hardware", "versions"):
        assert f"\n- {name}: {saved[name]}\n" in text
    assert f"torch {torch.__version__}" in saved["versions"]
    assert PAPER_LABEL not in text  # not a data set of the paper


def test_second_call_trains_nothing(finished_copy, tiny_folder, fits):
    before = result(finished_copy)
    status, _, progress = run(
        "--data", tiny_folder, "--models", *MODELS, "--seeds", 2, "--out", finished_copy
    )
    assert status == 0
    assert fits == []
    assert progress == ""
    after = result(finished_copy)
    assert not any(cell["stored"] for cell in before["cells"])
    assert all(cell.pop("stored") for cell in after["cells"])
    for cell in before["cells"]:
        del cell["stored"]
    for saved in (before, after):
        del saved["manifest_sha256"], saved["files"]["compare.png"]  # not drawn again here
    assert after == before


def test_stored_cells_keep_their_own_origin(finished_copy, tiny_folder, monkeypatch):
    arguments = ("--data", tiny_folder, "--models", "BPR", "LightGCN", "--out", finished_copy)
    now = Origin(commit="a later one", hardware="another machine", versions={"torch": "9.9"})
    monkeypatch.setattr(cells, "origin", lambda device: now)
    status, _, _ = run(*arguments, "--seeds", 2)  # everything is stored
    assert status == 0
    text = (finished_copy / "compare.md").read_text()
    assert "a later one" not in text
    assert "another machine" not in text
    assert "9.9" not in text
    assert "mixed" not in text
    run(*arguments, "--seeds", 3)  # the third seeds run now
    text = (finished_copy / "compare.md").read_text()
    (commit,) = {cell["origin"]["commit"] for cell in result(finished_copy)["cells"]} - {
        "a later one"
    }
    assert f"commit: mixed: {commit or 'not a git checkout'}; a later one\n" in text
    assert "; another machine\n" in text
    assert "; torch 9.9\n" in text
    assert result(finished_copy)["commit"].startswith("mixed: ")


def test_other_thread_count_trains_again(finished_copy, tiny_folder, fits, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    run("--data", tiny_folder, "--seeds", 1, "--models", "BPR", "--out", finished_copy)
    assert fits == [("BPR", 0)]


def test_warms_up_once_before_the_first_cell_that_runs(finished_copy, tiny_folder, monkeypatch):
    calls = []
    monkeypatch.setattr(runner, "warm_up", calls.append)
    arguments = ["--data", tiny_folder, "--models", "BPR", "--out", finished_copy]
    run(*arguments, "--seeds", 2)  # both are stored
    assert calls == []
    run(*arguments, "--seeds", 4)
    assert calls == [torch.device("cpu")]


def test_without_matplotlib_no_old_chart_stays(finished_copy, tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, text, _ = run("--data", tiny_folder, "--seeds", 1, "--models", "BPR", "--out", finished_copy)
    assert sorted(path.name for path in finished_copy.glob("compare.*")) == [
        "compare.csv",
        "compare.json",
        "compare.md",
        "compare.tex",
    ]
    assert "pip install matplotlib" in text.splitlines()[-1]


def test_when_every_cell_fails_no_old_results_stay(finished_copy, tiny_folder, monkeypatch):
    def failing(*_, **__):
        raise FloatingPointError("the loss is not finite in epoch 0")

    monkeypatch.setattr(cells, "fit", failing)
    status, _, progress = run(
        *("--data", tiny_folder, "--models", "BPR", "--seeds", 1, "--out", finished_copy),
        *("--set", "BPR.reg_weight=0.5"),
    )
    assert status == 1
    assert "no cell has a result" in progress
    assert list(finished_copy.glob("compare.*")) == []
    assert (finished_copy / "cells").exists()


def test_changed_setting_trains_its_model_only(finished_copy, tiny_folder, fits):
    arguments = ("--data", tiny_folder, "--models", *MODELS, "--seeds", 2, "--out", finished_copy)
    run(*arguments, "--set", "BPR.reg_weight=0.5")
    assert fits == [("BPR", 0), ("BPR", 1)]
    run(*arguments)  # back again: both are kept
    assert len(fits) == 2


def test_changed_code_trains_again(finished_copy, tiny_folder, fits, monkeypatch):
    monkeypatch.setattr(cells, "code_version", lambda *_: "another")
    run("--data", tiny_folder, "--seeds", 1, "--models", "BPR", "--out", finished_copy)
    assert fits == [("BPR", 0)]


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_damaged_cell_runs_again_with_a_warning(tiny_folder, tmp_path, fits, suffix):
    arguments = ("--data", tiny_folder, "--seeds", 2, "--models", "BPR", "--out", tmp_path)
    run(*arguments)
    before = result(tmp_path)["rows"][0]["mean"]
    (damaged,) = (tmp_path / "cells").glob(f"BPR-seed1-*{suffix}")
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="BPR seed 1 runs again: its stored result is damaged"):
        run(*arguments)
    assert fits == [("BPR", 0), ("BPR", 1), ("BPR", 1)]
    assert result(tmp_path)["rows"][0]["mean"] == before


def test_interrupted_run_keeps_cells_and_continues_exactly(
    finished, tiny_folder, tmp_path, fits, monkeypatch
):
    arguments = ("--data", tiny_folder, "--seeds", 2, "--models", "BPR", "LightGCN")
    arguments += ("--out", tmp_path)

    def interrupt(progress, index, epoch, entry):
        if len(fits) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(CellsProgress, "report", interrupt)
        status, _, progress = run(*arguments)
    assert status == 130
    assert "the same command continues" in progress
    assert not (tmp_path / "compare.json").exists()
    (state,) = (tmp_path / "cells").glob("*.unfinished/state.json")
    assert json.loads(state.read_text())["state"]["epoch"] == 1
    fits.clear()
    status, _, _ = run(*arguments)
    assert status == 0
    assert sorted(fits) == [("BPR", 1), ("LightGCN", 1)]
    assert not list((tmp_path / "cells").glob("*.unfinished"))
    whole = {cell["key"]: cell for cell in result(finished[0])["cells"]}
    continued = result(tmp_path)["cells"]
    assert len(continued) == 4
    for cell in continued:
        for name in ("row", "seed", "metrics", "val_metrics", "best_epoch", "num_epochs"):
            assert cell[name] == whole[cell["key"]][name]


def test_damaged_checkpoint_starts_anew_with_a_warning(tiny_folder, tmp_path, monkeypatch):
    arguments = ("--data", tiny_folder, "--seeds", 1, "--models", "BPR", "--out", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(CellsProgress, "report", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert run(*arguments)[0] == 130
    (state,) = (tmp_path / "cells").glob("*.unfinished/state.json")
    state.write_text("{")
    with pytest.warns(UserWarning, match="BPR seed 0 starts anew: its checkpoint is damaged"):
        assert run(*arguments)[0] == 0


def test_failed_cell_leaves_the_others(tiny_folder, tmp_path, monkeypatch):
    original = cells.fit

    def failing(model, train, val, config, **arguments):
        if type(model).__name__ == "BPR" and config.seed == 1:
            raise FloatingPointError("the loss is not finite in epoch 0")
        return original(model, train, val, config, **arguments)

    monkeypatch.setattr(cells, "fit", failing)
    status, text, _ = run(
        "--data", tiny_folder, "--seeds", 2, "--models", "BPR", "LightGCN", "--out", tmp_path
    )
    assert status == 1
    assert "Not run: BPR seed 1: the loss is not finite" in text
    assert [row["seeds"] for row in result(tmp_path)["rows"]] == [[0, 1], [0]]
    assert [row["missing_seeds"] for row in result(tmp_path)["rows"]] == [[], [1]]
    assert "BPR (1/2 seeds): one run with seed 0 only; no best value" in text
    assert "mean ± standard deviation over seeds 0, 1" in text
    assert "Nothing is compared" in text
    assert result(tmp_path)["comparisons"] == []  # one complete row: nothing to compare with
    assert "*" not in text


def test_all_mistakes_are_told_at_once(tiny_folder, tmp_path):
    status, text, problems = run(
        *("--data", tiny_folder, "--out", tmp_path, "--models", "BPR", "Lightgcn"),
        *("--set", "BPR.reg_wieght=1", "--set", "BPR.reg_weight=x", "--set", "nonsense"),
        *("--set", "VBPR.reg_weight=1", "--neighbors", "text"),
    )
    assert status == 2
    assert text == ""
    assert problems.count("error: ") == problems.count("\n") == 6
    for part in (
        "did you mean 'LightGCN'?",
        "did you mean 'reg_weight'?",
        "needs to be a number (got 'x')",
        "needs the form MODEL.argument=value",
        "VBPR is not among the models",
        "needs the form NAME=FILE.npz",
    ):
        assert part in problems
    assert not (tmp_path / "cells").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "txt"], "feature 'txt' is unknown: did you mean 'text'?"),
        (["--neighbors", "text=missing.npz"], "needs an intact .npz file"),
        (["--split", "global_time"], "--split: --time needs to be known"),
        (["--set", "FREEDOM.dropout=2"], "FREEDOM: 'dropout' needs to be in [0, 1)"),
        (["--lr", "-1"], "BPR: --lr needs to be finite and positive"),
    ],
)
def test_unfit_arguments_exit_with_2(tiny_folder, tmp_path, arguments, message):
    status, _, problems = run("--data", tiny_folder, "--out", tmp_path, *arguments)
    assert status == 2
    assert message in problems


def test_missing_folder_exits_with_2(tmp_path):
    status, _, problems = run("--data", tmp_path / "nowhere")
    assert status == 2
    assert f"{tmp_path / 'nowhere'}: 'path' needs to be a folder" in problems


@pytest.mark.parametrize("inside", [False, True])
def test_out_that_is_a_file_is_refused_before_anything_is_read(tmp_path, monkeypatch, inside):
    monkeypatch.setattr(prepare, "prepare", lambda *_, **__: pytest.fail("data was prepared"))
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "folder" if inside else tmp_path / "file"
    status, text, problems = run("--out", out)
    assert (status, text) == (2, "")
    assert f"--out {out}: needs to be a folder ({tmp_path / 'file'} is a file)" in problems
    assert (tmp_path / "file").read_text() == "mine"


def test_failure_to_write_is_a_message(finished_copy, tiny_folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "compare.json")

    monkeypatch.setattr(session, "write_results", full)
    status, _, problems = run(
        "--data", tiny_folder, "--models", *MODELS, "--seeds", 2, "--out", finished_copy
    )
    assert status == 1
    assert problems == "error: [Errno 28] No space left on device: 'compare.json'\n"


def test_seeds_are_counted_by_an_integer(capsys):
    assert compare.main(["--seeds", "3-5"]) == 2
    assert "needs to be a whole number of 1 or more (got '3-5')" in capsys.readouterr().err


def test_models_without_their_input_are_listed(tmp_path, write_folder):
    folder = write_folder(tmp_path / "bare", features=())
    out = tmp_path / "out"
    status, text, _ = run("--data", folder, "--seeds", 1, "--out", out)
    assert status == 0
    of_links = {"BPR", "LightGCN", *(model.__name__ for model in BASELINES)}
    assert {row["name"] for row in result(out)["rows"]} == of_links
    assert list(result(out)["not_run"]) == [
        model.__name__ for model in TABLE_2 if model.__name__ not in ("BPR", "LightGCN")
    ]
    assert "Not run: VBPR: needs a feature table" in text
    assert result(out)["rows"][0]["std"] is None

    status, _, problems = run("--data", folder, "--models", "VBPR", "BPR", "--out", out)
    assert status == 2
    assert "VBPR needs a feature table, and the data has none" in problems


def test_ready_neighbours_serve_without_feature_tables(
    tmp_path, write_folder, write_neighbors, monkeypatch
):
    folder = write_folder(tmp_path / "baby", features=())
    monkeypatch.setitem(paper_results._SIZES, "baby", (24, 30, 24 * 8))
    image = write_neighbors(tmp_path / "image.npz", shift=3, cosine=False)
    text = write_neighbors(tmp_path / "text.npz", cosine=False)
    out = tmp_path / "out"
    status, printed, _ = run(
        *("--data", folder, "--models", "BPR", "LightGCN", "FREEDOM", "--seeds", 1, "--out", out),
        *("--neighbors", f"image={image}", f"text={text}"),
        *("--set", "FREEDOM.reg_weight=0", "--set", "LightGCN.num_layers=1"),
    )
    assert status == 0
    settings = {cell["model"]: cell["settings"]["hparams"] for cell in result(out)["cells"]}
    assert settings["FREEDOM"]["reg_weight"] == 0
    assert settings["FREEDOM"]["features"] == []
    assert settings["LightGCN"]["num_layers"] == 1
    assert "{'image': 0.1, 'text': 0.9}" in (out / "compare.md").read_text()
    # a data set of the paper: its table stands beside, never marked as the best
    assert printed.count(f"  {PAPER_LABEL} ") == 3
    assert result(out)["paper"]["rows"]["FREEDOM"]["recall@20"] == 0.0985
    assert "**0.0985**" not in (out / "compare.md").read_text()
    assert PAPER_LABEL in (out / "compare.csv").read_text()


def test_other_neighbours_are_another_cell(tiny_folder, tmp_path, fits, write_neighbors):
    arguments = ("--data", tiny_folder, "--models", "FREEDOM", "--seeds", 1, "--out", tmp_path)
    write_neighbors(tmp_path / "a.npz")
    run(*arguments, "--neighbors", f"text={tmp_path / 'a.npz'}")
    write_neighbors(tmp_path / "a.npz", shift=3)
    run(*arguments, "--neighbors", f"text={tmp_path / 'a.npz'}")
    assert len(fits) == 2


def test_default_data(tmp_path):
    status, text, _ = run("--models", "AlignRec", "--seeds", 1, "--out", tmp_path, "--epochs", 1)
    assert status == 0
    assert "data: synthetic" in text
    assert result(tmp_path)["comparisons"] == []
    assert result(tmp_path)["cells"][0]["settings"]["hparams"]["features"] == ["image+text"]
    assert "*" not in text  # alone, it is not the best
    assert "AlignRec is the only row: nothing to compare it with." in text


def test_a_path_needs_no_option(finished_copy, tiny_folder, fits):
    status, text, _ = run(tiny_folder, "--models", "BPR", "--seeds", 1, "--out", finished_copy)
    assert status == 0
    assert text.startswith("data: tiny, ")
    assert fits == []
