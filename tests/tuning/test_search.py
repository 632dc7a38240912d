"""The course of a sweep, whole sweeps, and sweeps that are killed and go on."""

import csv
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alignrec_pyg.cli import app
from alignrec_pyg.cli.tune import TuneOptions
from alignrec_pyg.experiments.settings import SettingsError, published_settings
from alignrec_pyg.models import BPR, AlignRec
from alignrec_pyg.tuning import finals, search
from alignrec_pyg.tuning.search import (
    DEFINITION,
    _choice,
    _finalists,
    _plan,
    _space,
    _start_or_resume,
    _unfinished,
)
from alignrec_pyg.tuning.spaces import WIDE, grid_points, random_points, search_space
from alignrec_pyg.tuning.trial import collect

ROOT = Path(__file__).parents[2]
KILLS = range(int(os.environ.get("ALIGNREC_KILLS", "1")))
"""Random points at which a sweep is killed, for each kind of kill."""
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
TRIALS = 5
SWEEP = (
    "--search", "random", "--scheduler", "none", "--num-samples", TRIALS, "--seeds", 2,
    "--finalists", 2, "--epochs", 40, "--patience", 40, "--max-concurrent", 2,
)  # fmt: skip


def trials(out):
    """What became of every trial, without its time."""
    with (out / "search.csv").open() as file:
        return [{**line, "seconds": None} for line in csv.DictReader(file)]


CONTEXT = {"data": "d1", "code": "c1"}


def session_in(out, **options):
    changed = {"num_samples": 3, "axes": ("lr",), "out": out, **options}
    return SimpleNamespace(out=out, options=TuneOptions(**changed))


def test_a_new_sweep_is_written_down(tmp_path):
    _start_or_resume(session_in(tmp_path), CONTEXT)
    stored = json.loads((tmp_path / DEFINITION).read_text())
    assert stored["context"] == CONTEXT
    options = vars(TuneOptions(num_samples=3, axes=("lr",)))
    assert stored["options"].keys() == options.keys() - {"out", "path", "resume"}
    assert (stored["options"]["num_samples"], stored["options"]["axes"]) == (3, ["lr"])


def test_a_sweep_is_not_started_over_another(tmp_path):
    _start_or_resume(session_in(tmp_path), CONTEXT)
    with pytest.raises(SettingsError, match="holds a sweep; --resume continues it"):
        _start_or_resume(session_in(tmp_path), CONTEXT)


def test_the_same_sweep_resumes_from_another_place(tmp_path):
    _start_or_resume(session_in(tmp_path / "old"), CONTEXT)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = session_in(tmp_path / "new", resume=True, data="there", address="auto")
    _start_or_resume(moved, CONTEXT)
    assert json.loads((tmp_path / "new" / DEFINITION).read_text())["options"]["data"] != "there"


def test_another_sweep_does_not_resume_and_all_differences_are_told(tmp_path):
    _start_or_resume(session_in(tmp_path), CONTEXT)
    with pytest.raises(SettingsError) as caught:
        _start_or_resume(
            session_in(tmp_path, resume=True, num_samples=5), {"data": "d1", "code": "c2"}
        )
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "--resume: the sweep was started with num_samples 3 (got 5)",
        "--resume: the sweep was started with code 'c1' (got 'c2')",
    ]


def test_finalists_train_what_was_stopped_and_every_other_seed(make_trial):
    best = collect([make_trial(3), make_trial(5, outcome="stopped"), make_trial(5, seed=1)])
    configs = _unfinished(range(3), best)
    assert [(one["number"], one["seed"]) for one in configs] == [(5, 0), (3, 1), (3, 2), (5, 2)]
    assert [one["point"] for one in configs] == [{"lr": n / 100} for n in (5, 3, 3, 5)]


def with_options(found="cpu", **options):
    return SimpleNamespace(
        options=TuneOptions(**options),
        device=torch.device(found),
        data=SimpleNamespace(item_neighbors=10),
    )


@pytest.mark.parametrize(
    ("options", "max_epochs", "trials"),
    [({}, 123, 20), ({"scheduler": "none", "num_samples": 7}, None, 7)],
)
def test_the_scheduler_and_number_of_trials_are_those_asked_for(options, max_epochs, trials):
    session = with_options(**options)
    settings = published_settings(AlignRec, "").with_changes(max_epochs=123)
    plan = _plan(session, WIDE[AlignRec], settings)
    assert (plan.max_epochs, plan.trials) == (max_epochs, trials)
    assert (plan.resources.cpus, plan.resources.gpus) == (torch.get_num_threads(), 0.0)


def test_shares_of_a_gpu_fit_the_device():
    def gpus(found="cuda", **options):
        session = with_options(found, **options)
        return _plan(session, WIDE[BPR], published_settings(BPR, "")).resources.gpus

    assert gpus() == gpus(device="cuda") == 0.25
    assert gpus(gpus_per_trial=0.0) == gpus("cpu", device="cpu") == 0
    assert gpus("cpu", gpus_per_trial=1.0, address="auto") == 1
    for device, rule, share in (("cuda", "above 0", 0.0), ("cpu", "0", 0.5)):
        message = rf"needs to be {rule} with --device {device} \(got {share:g}\): leave one of"
        with pytest.raises(SettingsError, match=message):
            gpus(device, device=device, gpus_per_trial=share)
    with pytest.raises(SettingsError, match="torch finds no GPU"):
        gpus("cpu", gpus_per_trial=1.0)


def test_random_configurations_have_their_numbers_and_seed_0_the_default_one_first():
    session = with_options(search="random", num_samples=4)
    plan = _plan(session, WIDE[BPR], published_settings(BPR, ""))
    assert [(one["number"], one["seed"]) for one in plan.trials] == [(n, 0) for n in range(4)]
    points = [one["point"] for one in plan.trials]
    assert points == [plan.default, *random_points(WIDE[BPR], 3, seed=0)]
    assert plan.default == {"lr": 0.001, "batch_size": 2048, "reg_weight": 0.01}


def test_a_batch_size_that_is_given_is_not_searched():
    def axes(**options):
        session = with_options(**options)
        session.models = ["BPR"]
        return set(_space(session, published_settings(BPR, "")))

    assert axes() == {"lr", "batch_size", "reg_weight"}
    assert axes(batch_size=64) == {"lr", "reg_weight"}


def test_a_grid_begins_with_the_default_settings_and_has_each_point_once():
    settings = published_settings(AlignRec, "")
    space = search_space(settings, "paper")
    grid = grid_points(space)
    inside = _plan(with_options(search="grid"), space, settings)
    first, *others = (one["point"] for one in inside.trials)
    assert first == {"lr": 3e-4, "reg_weight": 0.1}
    assert others == [point for point in grid if point != first]
    outside = _plan(with_options(search="grid"), space, settings.with_changes(lr=2e-3))
    assert [one["point"] for one in outside.trials] == [{"lr": 2e-3, "reg_weight": 0.1}, *grid]
    assert outside.space["lr"].values == (1e-4, 3e-4, 2e-3)


def test_the_default_settings_are_always_among_the_finalists(make_trial):
    """So the chosen one has no lower mean on validation than they have."""

    def numbers(*trials):
        return [entry.number for entry in _finalists(collect(trials), 2, {"lr": 0.0})]

    better = [make_trial(n, recall=0.5 + n / 10) for n in (1, 2, 3)]
    assert numbers(make_trial(0, recall=0.1), *better) == [3, 2, 0]
    assert numbers(make_trial(0, recall=0.75), *better) == [3, 0]
    assert numbers(make_trial(0, outcome="failed"), *better) == [3, 2]  # it would fail again
    assert numbers(*better) == [3, 2, 0]  # out of time before it began
    missing = _finalists(collect(better), 2, {"lr": 0.0})[-1]
    assert _unfinished(range(2), [missing]) == [
        {"number": 0, "seed": seed, "point": {"lr": 0.0}} for seed in (0, 1)
    ]


def test_the_choice_says_how_the_default_settings_did(make_trial):
    default, chosen = collect([make_trial(0, recall=0.25), make_trial(4, recall=0.5)])
    failed, _ = collect([make_trial(0, outcome="failed"), make_trial(4, recall=0.5)])
    told = _choice(chosen, default, 1)
    assert told.startswith("chosen: configuration 4 (lr 0.04), validation recall@20 0.5000 over ")
    assert told.endswith("the best of the finalists; the default settings have 0.2500")
    assert _choice(chosen, failed, 1).endswith("finalists; the default settings failed")
    assert _choice(default, default, 1).endswith("no finalist is better on validation")


OWN_MODEL = """
from alignrec_pyg.models import BPR

class OwnModel(BPR):
    pass
"""


@pytest.fixture
def in_one_process(monkeypatch, processes):
    """Sweeps without Ray: trials one after another, in this process."""

    def run_sweep(folder, job, plan):
        return [finals._finalist(config, job) for config in plan.trials]

    monkeypatch.setattr(search, "require_package", lambda *_, **__: None)
    monkeypatch.setattr(search, "_ray", lambda *_: nullcontext())
    monkeypatch.setattr(search, "run_sweep", run_sweep)


@pytest.mark.usefixtures("in_one_process", "plain_runs")
def test_a_sweep_over_a_model_of_ones_own(tiny_folder, tmp_path, monkeypatch, capsys):
    """Its module lies in the current folder; its by-hand line gives the same figures."""
    (tmp_path / "own_model_of_a_sweep.py").write_text(OWN_MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = [
        tiny_folder, "--model", "own_model_of_a_sweep:OwnModel", "--search", "random",
        "--num-samples", 3, "--seeds", 2, "--epochs", 3, "--batch-size", 64, "--device", "cpu",
        "--out", "out",
    ]  # fmt: skip
    assert app.main(["tune", *map(str, words)]) == 0
    printed = capsys.readouterr().out
    out = tmp_path / "out"
    lines = trials(out)
    assert set(lines[0]) > {"lr", "reg_weight"}
    finalists = {line["configuration"] for line in lines if line["seed"] == "1"}
    assert len(lines) == 3 + len(finalists)
    assert "0" in finalists  # the default settings
    assert len(finalists - {"0"}) in (1, 2)  # beside or among the best two
    with (out / "search_curves.csv").open() as file:
        epochs = [(e["configuration"], e["seed"], e["epoch"]) for e in csv.DictReader(file)]
    expected = [(line["configuration"], line["seed"]) for line in lines]
    assert epochs == [(*trial, epoch) for trial in expected for epoch in ("1", "2", "3")]
    best = max(
        sorted(finalists),
        key=lambda number: sum(
            float(line["val recall@20"]) for line in lines if line["configuration"] == number
        ),
    )
    assert f"chosen: configuration {best} (lr " in printed
    saved = json.loads((out / "best.json").read_text())
    assert {row["name"] for row in saved["rows"]} == {"OwnModel, tuned", "OwnModel, defaults"}
    assert not list((out / "cells").glob("*.unfinished"))
    line = shlex.split(re.search(r"^by hand: (.+)$", printed, flags=re.MULTILINE)[1])
    assert line[:4] == ["alignrec", "compare", "--data", str(tiny_folder)]
    assert app.main([*line[1:], "--jobs", "1"]) == 0
    hand = json.loads((out / "by_hand" / "compare.json").read_text())
    tuned = [cell for cell in saved["cells"] if cell["row"] == "OwnModel, tuned"]
    for ours, theirs in zip(tuned, hand["cells"], strict=True):
        for part in ("metrics", "val_metrics", "best_epoch", "num_epochs", "key"):
            assert ours[part] == theirs[part]
    assert app.main(["tune", *map(str, words)]) == 2
    assert "holds a sweep; --resume continues it" in capsys.readouterr().err
    assert app.main(["tune", "--resume", "--out", "out"]) == 0  # nothing is trained again
    assert trials(out) == lines


# What follows starts Ray, which takes seconds, with processes that import torch.


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, tmp_path_factory, run_sweep):
    """A sweep that nobody kills: its folder and what it said."""
    folder = tmp_path_factory.mktemp("undisturbed")
    text = run_sweep(folder / "log", "--data", tiny_folder, "--out", folder / "out", *SWEEP)
    return folder / "out", text


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_from_trials_to_the_test_links(undisturbed):
    out, text = undisturbed
    lines = trials(out)
    assert {line["outcome"] for line in lines} == {"finished"}
    seconds = [line["configuration"] for line in lines if line["seed"] == "1"]
    first = sorted(
        (line for line in lines if line["seed"] == "0"), key=lambda t: -float(t["val recall@20"])
    )
    # the best two and the default settings have a second seed
    assert set(seconds) == {"0", *(line["configuration"] for line in first[:2])}
    assert len(lines) == TRIALS + len(seconds)
    means = {
        number: sum(float(t["val recall@20"]) for t in lines if t["configuration"] == number) / 2
        for number in seconds
    }
    chosen = re.search(r"chosen: configuration (\d+)", text)[1]
    assert means[chosen] == max(means.values()) >= means["0"]
    for name in WIDE[AlignRec].keys() - {"batch_size"}:  # which is given
        assert name in lines[0]
    saved = json.loads((out / "best.json").read_text())
    assert {row["name"] for row in saved["rows"]} == {"AlignRec, tuned", "AlignRec, defaults"}
    number = re.search(r"chosen: configuration (\d+)", text)[1]
    for cell in saved["cells"]:
        if cell["row"] == "AlignRec, tuned":  # the very values that it was chosen by
            (line,) = [
                line for line in lines
                if (line["configuration"], line["seed"]) == (number, str(cell["seed"]))
            ]  # fmt: skip
            assert [float(line[f"val {m}"]) for m in METRICS] == [
                cell["val_metrics"][m] for m in METRICS
            ]
    for name in ("search_parallel.png", "search_response.png", "best.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert "Importance (share of variance" in (out / "search.md").read_text()
    assert not list((out / "cells").glob("*.unfinished"))


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_by_hand_gives_the_same_figures_to_the_last_digit(undisturbed):
    out, text = undisturbed
    line = re.search(r"^by hand: (.+)$", text, flags=re.MULTILINE)[1]
    words = shlex.split(line)
    assert words[:2] == ["alignrec", "compare"]
    command = [sys.executable, ROOT / "benchmarks" / "compare.py", *words[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(stored)" not in done.stderr  # it was trained anew
    hand = json.loads((out / "by_hand" / "compare.json").read_text())
    tuned = json.loads((out / "best.json").read_text())
    chosen = [cell for cell in tuned["cells"] if cell["row"] == "AlignRec, tuned"]
    assert len(chosen) == len(hand["cells"]) == 2
    for ours, theirs in zip(chosen, hand["cells"], strict=True):
        for part in ("metrics", "val_metrics", "best_epoch", "num_epochs", "key"):
            assert ours[part] == theirs[part]


def wait_for_trials(out, process, log, seed):
    """Returns at a random moment after the first trial has saved its state."""
    chance = random.Random(seed)
    deadline = time.monotonic() + 600
    while not list((out / "cells").glob("*.unfinished/state.json")):
        assert process.poll() is None, log.read_text()[-5000:]
        assert time.monotonic() < deadline, log.read_text()[-5000:]
        time.sleep(0.05)
    time.sleep(chance.uniform(0.0, 8.0))


def processes(leader, of=""):
    """Processes of a sweep, Ray's own too, or those of them with a title of theirs."""
    command = ["ps", "-eo", "pid,sid,stat,args"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [row.split(None, 3) for row in listed.splitlines()[1:]]
    return [
        int(pid)
        for pid, session, state, title in rows
        if session == str(leader) and of in title and not state.startswith("Z")
    ]


def busy_worker(process, log):
    """A worker that is at a trial or a finalist; between two there is none for a moment."""
    while not (
        workers := processes(process.pid, of="ray::ImplicitFunc")
        + processes(process.pid, of="ray::_finalist")
    ):
        assert process.poll() is None, log.read_text()[-5000:]
        time.sleep(0.05)
    return workers[0]


def killed_sweep(tiny_folder, folder, seed, start_sweep):
    """The folder and the session of a sweep whose driver is killed at a random moment."""
    out, log = folder / "out", folder / "log"
    process = start_sweep(log, "--data", tiny_folder, "--out", out, *SWEEP)
    wait_for_trials(out, process, log, seed)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return out, process.pid


def same(out, undisturbed):
    """Whether a sweep came to the very figures of the one that nobody killed."""
    tables = [
        json.loads((folder / "best.json").read_text())["rows"] for folder in (out, undisturbed)
    ]
    means = [[(row["name"], row["mean"]) for row in rows] for rows in tables]
    return trials(out) == trials(undisturbed) and means[0] == means[1]


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", KILLS)
def test_a_killed_driver_loses_nothing(
    seed, undisturbed, tiny_folder, tmp_path, start_sweep, run_sweep
):
    """Resumed at once, while workers of the killed one may still be there."""
    out, _ = killed_sweep(tiny_folder, tmp_path, seed, start_sweep)
    run_sweep(tmp_path / "log2", "--resume", "--out", out)
    assert same(out, undisturbed[0])


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_moved_folder_can_be_resumed(undisturbed, tiny_folder, tmp_path, start_sweep, run_sweep):
    out, session = killed_sweep(tiny_folder, tmp_path, len(KILLS), start_sweep)
    deadline = time.monotonic() + 300
    while processes(session) and time.monotonic() < deadline:
        time.sleep(0.2)
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    out.rename(moved)
    run_sweep(tmp_path / "log2", "--resume", "--out", moved)
    assert same(moved, undisturbed[0])
    assert not out.exists()


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", KILLS)
def test_a_killed_worker_loses_nothing(seed, undisturbed, tiny_folder, tmp_path, start_sweep):
    out, log = tmp_path / "out", tmp_path / "log"
    process = start_sweep(log, "--data", tiny_folder, "--out", out, *SWEEP)
    wait_for_trials(out, process, log, seed)
    os.kill(busy_worker(process, log), signal.SIGKILL)
    assert process.wait(timeout=900) == 0, log.read_text()[-5000:]
    assert same(out, undisturbed[0])


KILLER = """
import os, signal, sys
sys.path.insert(0, {root!r})
from tuning import search
from alignrec_pyg.tuning import sweep
ended = sweep._Progress.on_trial_complete
killed = []
def on_trial_complete(self, *, trials, trial, **info):
    ended(self, trials=trials, trial=trial, **info)
    if not killed:
        killed.append(trial.last_result["pid"])
        os.kill(killed[0], signal.SIGKILL)
sweep._Progress.on_trial_complete = on_trial_complete
sys.exit(search.main(sys.argv[1:]))
"""


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_killed_between_two_trials_loses_nothing(
    undisturbed, tiny_folder, tmp_path, start_sweep
):
    """It is being given the next trial, and Ray does not start that one again by itself."""
    out, log, script = tmp_path / "out", tmp_path / "log", tmp_path / "killer.py"
    script.write_text(KILLER.format(root=str(ROOT)))
    process = start_sweep(log, "--data", tiny_folder, "--out", out, *SWEEP, script=script)
    assert process.wait(timeout=900) == 0, log.read_text()[-5000:]
    assert "a worker died: its trial is started again" in log.read_text()
    assert same(out, undisturbed[0])


@pytest.mark.tune_extra
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", KILLS)
def test_a_killed_search_proposes_the_rest(seed, tiny_folder, tmp_path, start_sweep, run_sweep):
    """What Optuna proposes hangs on what came before; that every trial ends well does not."""
    out, log = tmp_path / "out", tmp_path / "log"
    words = ["--search", "optuna", "--scheduler", "asha", *SWEEP[4:-2]]
    process = start_sweep(log, "--data", tiny_folder, "--out", out, *words)
    wait_for_trials(out, process, log, seed)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run_sweep(tmp_path / "log2", "--resume", "--out", out)
    lines = trials(out)
    assert {line["outcome"] for line in lines} <= {"finished", "stopped"}
    assert {line["configuration"] for line in lines} == {str(n) for n in range(TRIALS)}
    assert lines[0]["outcome"] == "finished"  # the default settings are never stopped
    finalists = {line["configuration"] for line in lines if line["seed"] == "1"}
    assert "0" in finalists
    assert len(finalists) in (2, 3)
    assert (out / "best.json").exists()
