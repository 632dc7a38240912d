import contextlib
import io
import json
import subprocess
import sys
import tempfile
from dataclasses import replace

import pytest
import torch

from alignrec_pyg.experiments import paper as paper_results
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.training.loop import fit
from benchmarks.performance import cost
from benchmarks.performance.cost_report import COLUMNS
from benchmarks.performance.generated import Shape

TINY = Shape(num_users=30, num_items=40, train=150, val=40, test=45)
BATCH_SIZE = 32
BATCHES = 5  # of 150 links


@pytest.fixture
def tiny_shape(monkeypatch):
    monkeypatch.setitem(cost.SHAPES, "baby", TINY)
    return ["--threads", "1", "--device", "cpu", "--widths", "image=5", "text=7"]


@pytest.fixture
def small_batches(monkeypatch):
    for name, preset in cost.PAPER.items():
        monkeypatch.setitem(cost.PAPER, name, preset.with_train(batch_size=BATCH_SIZE))


@pytest.fixture
def without_processes(monkeypatch):
    """Children run in this process: an import of torch and PyG for each would take long."""

    in_a_process = subprocess.run

    def run(command, **kwargs):
        if "--measure-here" not in command:
            return in_a_process(command, **kwargs)
        assert command[:4] == [sys.executable, "-W", "ignore", cost.__file__]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                status = cost.main(command[4:])
            except ValueError as error:
                kwargs["stderr"].write(f"Traceback\nValueError: {error}\n")
                status = 1
        return subprocess.CompletedProcess(command, status, printed.getvalue())

    monkeypatch.setattr(subprocess, "run", run)


@pytest.fixture
def known_costs(monkeypatch):
    """Costs without measuring; BPR fails."""

    def measure(name, options):
        if name == "BPR":
            raise ValueError("no luck")
        return {**dict.fromkeys(COLUMNS, 1.5), "parameters": 1234}

    monkeypatch.setattr(cost, "measure", measure)


class Clock:
    """Time that passes only in what is told to take it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def taking(self, function, seconds):
        """``function``, which takes the next of ``seconds`` each time; ``0`` after the last."""
        left = iter(seconds)

        def slow(*args, **kwargs):
            self.now += next(left, 0)
            return function(*args, **kwargs)

        return slow


def test_each_part_gets_its_own_time(tiny_shape, small_batches, monkeypatch):
    clock, model = Clock(), cost.PAPER["BPR"].model
    seen = []

    class FixedMemory:
        peak_bytes = 5e6

        def __init__(self, device):
            assert device.type == "cpu"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(cost, "perf_counter", clock)
    monkeypatch.setattr(cost, "PeakMemory", FixedMemory)
    monkeypatch.setattr(model, "__init__", clock.taking(model.__init__, [7]))
    monkeypatch.setattr(model, "loss", clock.taking(model.loss, [2] * BATCHES))
    monkeypatch.setattr(model, "forward", clock.taking(model.forward, [10, 3, 5, 4]))
    rank, metrics = cost.rank, cost.user_metrics

    def rank_test_links(model, data):
        seen.append(data[INTERACTS].edge_label_index)
        return rank(model, data)

    monkeypatch.setattr(cost, "rank", clock.taking(rank_test_links, [100, 9, 7, 8]))
    monkeypatch.setattr(cost, "user_metrics", clock.taking(metrics, [0.25, 0.5, 0, 0.125, 1, 1]))
    options = cost._parser().parse_args(tiny_shape)
    assert cost.measure("BPR", options) == {
        "parameters": (30 + 40) * 64,
        "set-up": 7,
        "epoch": 2 * BATCHES,
        "graphs": 10 - 4,
        "propagation": 4,
        "scoring": 8 - 4,
        "metrics": 0.75,
        "memory": 5,
    }
    test = cost.load(options, cost._widths(options)).test[INTERACTS].edge_label_index
    assert len(seen) == 4
    assert all(torch.equal(links, test) for links in seen)


def test_differences_of_times_may_be_negative(tiny_shape, monkeypatch):
    options = cost._parser().parse_args(tiny_shape)
    data = cost.load(options, cost._widths(options))
    clock, model = Clock(), cost.PAPER["BPR"].model(data.train)
    monkeypatch.setattr(cost, "perf_counter", clock)
    monkeypatch.setattr(model, "forward", clock.taking(model.forward, [1, 3, 3, 3]))
    found = cost._inference(model, data.test)
    assert (found["graphs"], found["scoring"]) == (-2, -3)


@pytest.mark.parametrize("name", ["FREEDOM", "BM3", "SLMRec", "AlignRec"])
def test_an_epoch_trains_as_fit_does(tiny_shape, small_batches, name):
    options, preset = cost._parser().parse_args(tiny_shape), cost.PAPER[name]
    data = cost.load(options, cost._widths(options))

    def built():
        torch.manual_seed(3)
        return preset.model(data.train, **{**preset.hparams(), **data.inputs(preset)})

    ours, theirs, initial = built(), built(), built().state_dict()
    assert cost.train_epoch(ours, data.train, preset) > 0
    fit(theirs, data.train, data.val, replace(preset.train, max_epochs=1))
    for parameter, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[parameter], value), parameter
    assert any(not torch.equal(ours.state_dict()[key], initial[key]) for key in initial)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is not measured elsewhere")
def test_counts_and_memory_of_a_model(tiny_shape):
    found = cost.measure("FREEDOM", cost._parser().parse_args(tiny_shape))
    assert set(found) == set(COLUMNS)
    assert found["parameters"] == 70 * 64 + 40 * 12 + (5 + 7 + 2) * 64
    wider = [*tiny_shape[:4], "--widths", "image=5", "text=50000"]
    wide = cost.measure("FREEDOM", cost._parser().parse_args(wider))
    # a trainable table, its start, gradient and two moments: 8 MB each
    assert wide["memory"] > 24
    assert wide["parameters"] == 70 * 64 + 40 * 50005 + (5 + 50000 + 2) * 64


def test_data_of_the_shape_with_features_of_the_widths(tiny_shape):
    options = cost._parser().parse_args(tiny_shape)
    data = cost.load(options, cost._widths(options))
    assert data.features == ["image", "text"]
    assert data.train["item"].x_image.shape == (40, 5)
    assert data.train["item"].x_text.shape == (40, 7)
    parts = (data.train, data.val, data.test)
    assert [part[INTERACTS].edge_label_index.size(1) for part in parts] == [150, 40, 45]
    assert all(part[INTERACTS].edge_index.size(1) == 150 for part in parts)
    assert not torch.equal(data.train["item"].x_text[:, :5], data.train["item"].x_image)


@pytest.mark.parametrize("labels", [True, False])
def test_data_of_a_folder_is_split_as_it_says(tmp_path, write_folder, labels):
    folder = write_folder(tmp_path / "some", labels=labels)
    options = cost._parser().parse_args(["--data", str(folder)])
    data = cost.load(options, {"text": 4})
    assert data.name == "some"
    assert data.split_rule == ("labels" if labels else "random")
    assert data.features == ["text"]
    test = set(map(tuple, data.test[INTERACTS].edge_label_index.t().tolist()))
    if labels:
        rows = [line.split("\t") for line in (folder / "some.inter").read_text().splitlines()[1:]]
        assert test == {(int(user), int(item)) for user, item, label in rows if label == "2"}
    else:
        assert 0 < len(test) < 24 * 8 / 2


def test_each_model_runs_in_a_process(tmp_path, tiny_folder, capsys):
    out = tmp_path / "new" / "out"
    arguments = ["--data", str(tiny_folder), "--models", "BPR", "BPR", "--threads", "1"]
    arguments += ["--widths", "text=4", "--out", str(out)]
    assert cost.main(arguments) == 0
    saved = json.loads((out / "cost.json").read_text())
    assert saved["models"]["BPR"]["parameters"] == (24 + 30) * 64
    printed = capsys.readouterr()
    assert "text 4" in printed.out
    assert "| BPR | 3,456 |" in printed.out
    assert "Table 9" not in printed.out
    assert printed.err.count("BPR: parameters 3,456") == 1
    for suffix in (".csv", ".md", ".json"):
        assert str(out / f"cost{suffix}") in printed.out


def test_failures_are_told_and_give_status_1(
    tmp_path, tiny_shape, without_processes, known_costs, capsys
):
    arguments = [*tiny_shape, "--models", "BPR", "VBPR", "--out", str(tmp_path)]
    assert cost.main(arguments) == 1
    assert "BPR: failed: ValueError: no luck" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "cost.json").read_text())["models"]) == ["VBPR"]
    assert cost.main([*tiny_shape, "--models", "VBPR", "--out", str(tmp_path)]) == 0
    assert cost.main([*tiny_shape, "--models", "BPR", "--out", str(tmp_path / "none")]) == 1
    assert list((tmp_path / "none").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], "paper (Table 9, Baby; links here are made up, of its shape), million parameters: "),
        (["--shape", "sports"], "paper (Table 9, Sports; links here are made up, of its shape), "),
        (["--shape", "electronics"], None),
        (["--data"], None),
    ],
)
def test_papers_figures_of_the_shape(
    tmp_path, tiny_folder, without_processes, known_costs, capsys, options, shown
):
    options = [*options, str(tiny_folder)] if options == ["--data"] else options
    arguments = ["--models", "AlignRec", "--threads", "1", "--out", str(tmp_path)]
    assert cost.main([*arguments, *options]) == 0
    printed = capsys.readouterr().out
    assert ("Table 9" in printed) == (shown is not None)
    assert (shown or "") in printed


@pytest.mark.parametrize("name", ["baby", "sports"])
def test_papers_figures_of_a_folder_of_its_name_and_size_only(
    tmp_path, write_folder, without_processes, known_costs, capsys, monkeypatch, name
):
    folder = write_folder(tmp_path / name)
    arguments = ["--models", "AlignRec", "--threads", "1", "--out", str(tmp_path / "out")]
    arguments += ["--data", str(folder)]
    assert cost.main(arguments) == 0
    assert "Table 9" not in capsys.readouterr().out
    monkeypatch.setitem(paper_results._SIZES, name, (24, 30, 24 * 8))
    assert cost.main(arguments) == 0
    count = {"baby": "7.17", "sports": "17.60"}[name]
    label = f"paper (Table 9, {name.capitalize()}), million parameters: AlignRec {count}"
    assert label in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "Lightgcn"], "did you mean 'LightGCN'?"),
        (["--widths", "text"], "needs the form NAME=NUMBER"),
        (["--data", "nowhere"], "--data nowhere: "),
        (["--out", __file__], f"--out {__file__}: needs to be a folder ({__file__} is a file)"),
        (["--out", f"{__file__}/x"], f"needs to be a folder ({__file__} is a file)"),
    ],
)
def test_unfit_arguments_exit_with_2_before_measuring(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(cost, "_in_a_process", lambda *_: pytest.fail("measured"))
    assert cost.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_takes_no_files_is_refused(tmp_path, capsys, monkeypatch):
    def refuse(*, dir):
        assert dir == tmp_path
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(cost, "_in_a_process", lambda *_: pytest.fail("measured"))
    assert cost.main(["--out", str(tmp_path)]) == 2
    message = (
        f"--out {tmp_path}: needs to be a folder that can be written to ([Errno 13] Permission"
    )
    assert message in capsys.readouterr().err


def test_unfit_arguments_make_no_folder(tmp_path):
    assert cost.main(["--models", "none", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("typo", ["--model", "--measure", "--thread"])
def test_options_are_not_abbreviated(typo, capsys, monkeypatch):
    monkeypatch.setattr(cost, "_in_a_process", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit) as stop:
        cost.main([typo, "1"])
    assert stop.value.code == 2
    assert f"unrecognized arguments: {typo}" in capsys.readouterr().err
