from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from alignrec_pyg import LightGCN, fit
from alignrec_pyg.experiments import estimate as estimates
from alignrec_pyg.experiments.estimate import Seconds, Trial, estimate, try_cell, try_rows
from alignrec_pyg.experiments.runner import is_the_cells_own, run_cells
from alignrec_pyg.experiments.store import CellStore
from alignrec_pyg.models import Popularity

CPU = torch.device("cpu")
GB = 10**9
SECOND = Trial(epoch_seconds=1.0)


@pytest.fixture
def slow_steps(monkeypatch):
    """The clock of training counts a second for each epoch begun and a tenth for each step."""

    def timed(model, train, val, config, **_):
        fitted = fit(model, train, val, config, progress=False)
        return SimpleNamespace(seconds=1.0 + 0.1 * fitted.history[-1]["step"])

    monkeypatch.setattr(estimates, "fit", timed)


@pytest.mark.parametrize("batch_size", [10, 100, 5000])
def test_an_epoch_is_as_long_as_its_steps_and_what_begins_it(
    slow_steps, small_cells, parts, batch_size
):
    cell = small_cells(models=[LightGCN], seeds=[0], batch_size=batch_size)[0]
    num_links = parts.train["user", "interacts", "item"].edge_index.size(1)
    trial = try_cell(cell, parts)
    assert trial.epoch_steps == -(-num_links // batch_size)
    assert trial.epoch_seconds == pytest.approx(1 + 0.1 * trial.epoch_steps)
    assert trial.evaluation_seconds > 0


def test_a_trial_leaves_the_data_as_they_are(small_cells, parts):
    before = parts.train.to_dict()
    try_cell(small_cells()[0], parts)
    after = parts.train.to_dict()
    assert before.keys() == after.keys()
    assert parts.train["user", "interacts", "item"].edge_label_index.equal(
        before["user", "interacts", "item"]["edge_label_index"]
    )


def test_only_rows_of_which_nothing_is_known_are_tried(small_cells, parts, monkeypatch):
    tried = []
    monkeypatch.setattr(estimates, "try_cell", lambda cell, _: tried.append((cell.row, cell.seed)))
    cells = small_cells()
    finished = {0: SimpleNamespace(row="BPR")}
    assert list(try_rows(cells, finished, parts, is_the_cells_own)) == ["LightGCN"]
    assert tried == [("LightGCN", 0)]


def test_a_model_in_closed_form_is_not_tried(small_cells, parts):
    (cell,) = small_cells(models=[Popularity], seeds=[0])
    cell = replace(cell, hparams={})
    assert try_rows([cell], {}, parts, is_the_cells_own) == {"Popularity": Trial()}


def test_a_cell_that_fails_is_told_by_its_run_alone(small_cells, parts, tmp_path):
    cells = [*small_cells(seeds=[0], models=[LightGCN]), *small_cells(seeds=[0], lr=1e30)[:1]]
    assert list(try_rows(cells, {}, parts, is_the_cells_own)) == ["LightGCN"]
    lines = []
    outcome = run_cells(cells, parts, CellStore(tmp_path), CPU, lines.append, estimated=True)
    assert list(outcome.failed) == [("BPR", 0)]
    assert lines[0].startswith("estimate: about ")


def words(**changes):
    given = {
        "seconds": Seconds(least=30.0, expected=400.0, most=7200.0),
        "rows": ["A", "A", "B"],
        "peaks": [GB, GB, 2 * GB],
        "jobs": 1,
        "trials": {"A": SECOND, "B": SECOND},
        "parts": SimpleNamespace(
            train=SimpleNamespace(
                stores=[{"a": torch.zeros(100_000_000, dtype=torch.uint8), "n": 3}]
            )
        ),
        **changes,
    }
    return estimate(**given).split("\n  ")


@pytest.fixture
def machine(monkeypatch):
    """A machine with 8 GB free, whose processes have 0.5 GB each."""
    monkeypatch.setattr(estimates, "positive_links", lambda _: torch.zeros(2, 1))
    free = SimpleNamespace(available=8 * GB)
    monkeypatch.setattr(estimates, "available_memory", lambda: free.available)
    own = SimpleNamespace(uss=GB // 2)
    memory = SimpleNamespace(memory_full_info=lambda: own, children=list)
    monkeypatch.setattr(estimates.psutil, "Process", lambda: memory)
    return free


def test_it_says_what_it_rests_on(machine):
    assert words() == [
        "estimate: about 7 min for 3 runs, 1 at a time; 30 s if every model stops as early as its "
        "patience allows, 2.0 h if all go to their limit of epochs",
        "memory: about 2.0 GB beside what this process has now, of 8.0 GB that are free",
        "it is based on 5 steps and a validation of each model, timed just now",
    ]
    assert words(trials={"A": SECOND})[-1].endswith("timed just now and on finished runs")
    assert words(trials={"A": SECOND, "B": Trial()})[-1].endswith(
        "timed just now; B: solved in closed form, not counted"
    )
    assert words(trials={})[-1] == "it is based on finished runs"
    same = Seconds(least=3.0, expected=3.0, most=3.0)
    assert words(seconds=same, rows=["A"])[0] == "estimate: about 3 s for 1 run, 1 at a time"


def test_memory_is_that_of_the_largest_at_a_time_in_their_processes(machine):
    # 2 and 1 GB, and twice a process (0.5) with its graph (0.1)
    expected = "memory: about 4.2 GB beside what this process has now, of 8.0 GB that are free"
    assert words(jobs=2)[1] == expected
    assert words(peaks=[3 * GB // 100] * 3)[1].startswith("memory: about 30 MB beside ")
    machine.available = 4 * GB
    assert words(jobs=2)[1].endswith(
        "of 4.0 GB that are free: TOO LITTLE, try it with fewer --jobs"
    )
    machine.available = GB
    assert words()[1].endswith("TOO LITTLE, try it with a smaller --batch-size")
    assert len(words(peaks=[GB, None, GB])) == 2  # not measured here


def test_nothing_is_estimated_where_nothing_is_to_train(small_cells, parts, tmp_path):
    lines = []
    baseline = replace(small_cells(models=[Popularity], seeds=[0])[0], hparams={})
    run_cells([baseline], parts, CellStore(tmp_path), CPU, lines.append, estimated=True)
    assert lines == []
    cells, store = small_cells(seeds=[0], max_epochs=1), CellStore(tmp_path)
    for _ in range(2):
        run_cells(cells, parts, store, CPU, lines.append, estimated=True)
    assert len(lines) == 1
