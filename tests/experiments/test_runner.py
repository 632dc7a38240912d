import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from alignrec_pyg.experiments import runner
from alignrec_pyg.experiments.cells import cell_key
from alignrec_pyg.experiments.runner import is_the_cells_own, run_cells
from alignrec_pyg.experiments.store import CellStore
from alignrec_pyg.models import BPR

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


class Lines(list):
    """Takes what is logged."""

    def __call__(self, line):
        self.append(line)


def told(outcome):
    return [
        (result.row, result.seed, result.metrics, result.best_epoch) for result in outcome.results
    ]


@pytest.fixture
def here(small_cells, parts, tmp_path):
    """What one process gives, one cell after another."""
    return told(run_cells(small_cells(), parts, CellStore(tmp_path / "here"), CPU, print))


@pytest.mark.slow
def test_processes_give_what_one_process_gives(here, small_cells, parts, tmp_path):
    store, log = CellStore(tmp_path / "jobs"), Lines()
    outcome = run_cells(small_cells(), parts, store, CPU, log, jobs=2)
    assert told(outcome) == here
    assert outcome.failed == {}
    assert log == []
    again = run_cells(small_cells(), parts, store, CPU, log, jobs=2)
    assert all(result.stored for result in again.results)
    assert told(again) == here


def test_a_failed_cell_leaves_the_others(here, small_cells, parts, tmp_path):
    cells, log = small_cells(), Lines()
    cells[0] = small_cells(lr=1e30)[0]
    outcome = run_cells(cells, parts, CellStore(tmp_path / "cells"), CPU, log)
    assert told(outcome) == here[1:]
    assert list(outcome.failed) == [("BPR", 0)]
    assert "not finite" in outcome.failed["BPR", 0]
    assert len(log) == 1


@pytest.mark.slow
def test_a_failed_cell_leaves_the_others_in_processes(here, small_cells, parts, tmp_path):
    cells, log = small_cells(), Lines()
    cells[1] = small_cells(lr=1e30)[1]
    outcome = run_cells(cells, parts, CellStore(tmp_path / "cells"), CPU, log, jobs=2)
    assert told(outcome) == [here[0], *here[2:]]
    assert "not finite" in outcome.failed["BPR", 1]


class Killed(BPR):
    """Ends its process in the middle of training, as the system does where memory is short."""

    def on_epoch_start(self, data, generator):
        os.kill(os.getpid(), signal.SIGKILL)


class Broken(BPR):
    """Has a mistake in its code."""

    def loss_terms(self, data, batch):
        raise KeyError("no such thing")


@pytest.mark.slow
def test_a_killed_process_is_a_failed_cell_and_is_replaced(here, small_cells, parts, tmp_path):
    cells, log = [*small_cells(models=[Killed]), *small_cells()], Lines()
    outcome = run_cells(cells, parts, CellStore(tmp_path / "cells"), CPU, log, jobs=2)
    assert told(outcome) == here
    assert list(outcome.failed) == [("Killed", 0), ("Killed", 1)]
    assert "its process ended (exit code -9): was there enough memory?" in log[0]


@pytest.mark.slow
def test_a_mistake_in_the_code_ends_the_run(small_cells, parts, tmp_path):
    cells = [*small_cells(), *small_cells(models=[Broken])]
    for jobs in (1, 2):
        with pytest.raises(KeyError, match="no such thing"):
            run_cells(cells, parts, CellStore(tmp_path / f"{jobs}"), CPU, print, jobs=jobs)


def test_what_is_the_cells_own():
    assert is_the_cells_own(MemoryError())
    assert is_the_cells_own(FloatingPointError())
    assert is_the_cells_own(RuntimeError("not enough memory: you tried to allocate 8 bytes"))
    assert is_the_cells_own(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"))
    assert not is_the_cells_own(RuntimeError("a mistake"))


def test_rows_of_the_same_cell_are_trained_once(small_cells, parts, tmp_path, monkeypatch):
    (cell,) = small_cells(seeds=[0], models=[BPR])
    trained = []
    monkeypatch.setattr(
        runner, "run_cell", lambda *call, run=runner.run_cell: trained.append(1) or run(*call)
    )
    cells = [cell, replace(cell, row="the same")]
    outcome = run_cells(cells, parts, CellStore(tmp_path), CPU, print)
    assert [result.row for result in outcome.results] == ["BPR", "the same"]
    assert trained == [1]


def order(cells, seconds, monkeypatch, tmp_path, parts):
    """The order in which cells run whose training takes ``seconds`` by row."""
    ran = []

    def run_cell(cell, key, parts, store, report, original=runner.run_cell):
        ran.append((cell.row, cell.seed))
        result = replace(original(cell, key, parts, store, report), seconds=seconds[cell.row])
        return result

    monkeypatch.setattr(runner, "run_cell", run_cell)
    run_cells(cells, parts, CellStore(tmp_path / "order"), CPU, print)
    return ran


def test_every_row_begins_then_the_longest_go_first(small_cells, parts, tmp_path, monkeypatch):
    ran = order(small_cells(), {"BPR": 1.0, "LightGCN": 9.0}, monkeypatch, tmp_path, parts)
    assert ran == [("BPR", 0), ("LightGCN", 0), ("LightGCN", 1), ("BPR", 1)]


def test_a_cell_of_another_run_is_left_to_it(here, small_cells, parts, tmp_path):
    """It comes last, and its result is taken over."""
    cells, log = small_cells(), Lines()
    folder = tmp_path / "shared"
    key = cell_key(cells[0], parts, CPU)
    store = CellStore(folder)

    class Other(CellStore):
        """Finds the first cell taken at first, and finished when it waits for it."""

        def lock(self, cell, key, *, wait=True):
            if wait:
                lock.__exit__(None, None, None)
            return super().lock(cell, key, wait=wait)

    lock = store.lock(cells[0], key)
    lock.__enter__()
    outcome = run_cells(cells, parts, Other(folder), CPU, log)
    assert told(outcome) == here
    assert log == ["BPR seed 0 is being trained by another run on this folder"]


SCRIPT = textwrap.dedent("""
    import sys
    import torch
    torch.set_num_threads(1)
    from pathlib import Path
    from alignrec_pyg.datasets import Synthetic
    from alignrec_pyg.experiments.cells import KS, Cell, Parts
    from alignrec_pyg.experiments.runner import run_cells
    from alignrec_pyg.experiments.store import CellStore
    from alignrec_pyg.models import LightGCN
    from alignrec_pyg.train_config import TrainConfig
    from alignrec_pyg.transforms import SplitInteractions

    class Watched(LightGCN):
        begun = 0  # leaves a file when its third epoch begins

        def on_epoch_start(self, data, generator):
            self.begun += 1
            if self.begun == 3:
                Path("begun").touch()

    def run(folder, jobs):
        data = Synthetic(200, 150, 2500, num_topics=3, image_size=4).data
        del data["item"]["text"], data["item"]["image"]
        train, val, test = SplitInteractions("random")(data)
        cells = [
            Cell(row="Watched", model=Watched, hparams={"embedding_dim": 8},
                 config=TrainConfig(seed=seed, max_epochs=40, patience=40, batch_size=256, ks=KS))
            for seed in range(2)
        ]
        outcome = run_cells(
            cells, Parts(train, val, {"test": test}), CellStore(folder),
            torch.device("cpu"), print, jobs=jobs,
        )
        return [result.metrics for result in outcome.results]

    if __name__ == "__main__":
        print(run(Path(sys.argv[1]), jobs=2))
""")


def start(tmp_path, folder):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(folder)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(pattern, folder, seconds=150):
    end = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_signals_reach_all_processes_and_the_run_goes_on(tmp_path, monkeypatch):
    """Stopped by Ctrl-C, then killed, then run to its end."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cells"
    for number in (signal.SIGINT, signal.SIGKILL):
        (tmp_path / "begun").unlink(missing_ok=True)
        stopped = start(tmp_path, folder)
        wait_for("begun", tmp_path)
        os.kill(stopped.pid, number)
        _, errors = stopped.communicate(timeout=60)
        assert stopped.returncode == -number, errors
        assert not list(folder.glob("*.json"))
        for lock in folder.glob("*.lock"):  # killed processes end when they notice it
            with FileLock(lock, timeout=60):
                pass
        states = [json.loads(file.read_text()) for file in folder.glob("*.unfinished/state.json")]
        assert max(state["state"]["epoch"] for state in states) > 1
    monkeypatch.syspath_prepend(tmp_path)
    run = importlib.import_module("script").run
    assert not list(folder.glob("*.json"))
    assert run(folder, jobs=1) == run(tmp_path / "here", jobs=1)
    assert not list(folder.glob("*.unfinished"))  # they were gone on with, not begun anew
