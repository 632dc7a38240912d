import json
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from multiprocessing import forkserver, get_context

import pytest
import torch
from filelock import FileLock

from alignrec_pyg.experiments import runner
from alignrec_pyg.experiments.cells import cell_key
from alignrec_pyg.experiments.runner import is_the_cells_own, run_cells
from alignrec_pyg.experiments.store import CellStore
from alignrec_pyg.models import BPR
from tests.experiments.in_processes import Broken, Killed, Slow, compare_models

pytestmark = pytest.mark.usefixtures("plain_runs")

CPU = torch.device("cpu")
NO_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 800000000000 bytes. Error code 12 (Cannot allocate memory)"
)


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


def test_a_failed_cell_leaves_the_others(here, small_cells, parts, tmp_path):
    cells, log = small_cells(), Lines()
    cells[0] = small_cells(lr=1e30)[0]
    outcome = run_cells(cells, parts, CellStore(tmp_path / "cells"), CPU, log)
    assert told(outcome) == here[1:]
    assert list(outcome.failed) == [("BPR", 0)]
    assert "not finite" in outcome.failed["BPR", 0]
    assert len(log) == 1


@pytest.mark.slow
def test_processes_give_what_one_gives_and_a_killed_one_is_replaced(
    here, small_cells, parts, tmp_path
):
    cells, log = small_cells(), Lines()
    cells[1] = small_cells(lr=1e30)[1]
    cells += small_cells(models=[Killed], seeds=[0])
    store = CellStore(tmp_path / "jobs")
    outcome = run_cells(cells, parts, store, CPU, log, jobs=2)
    assert told(outcome) == [here[0], *here[2:]]
    assert list(outcome.failed) == [("BPR", 1), ("Killed", 0)]
    assert "not finite" in outcome.failed["BPR", 1]
    assert "its process ended (exit code -9): was there enough" in outcome.failed["Killed", 0]
    assert len(log) == 2
    again = run_cells([cells[0], *cells[2:4]], parts, store, CPU, log, jobs=2)
    assert all(result.stored for result in again.results)
    assert told(again) == told(outcome)


@pytest.mark.slow
def test_a_mistake_in_the_code_ends_the_run(small_cells, parts, tmp_path):
    cells = small_cells(models=[Broken])
    for jobs in (1, 2):
        with pytest.raises(KeyError, match="no such thing"):
            run_cells(cells, parts, CellStore(tmp_path / f"{jobs}"), CPU, print, jobs=jobs)


def test_what_is_the_cells_own():
    assert is_the_cells_own(MemoryError())
    assert is_the_cells_own(FloatingPointError())
    assert is_the_cells_own(torch.OutOfMemoryError())
    assert is_the_cells_own(RuntimeError(NO_MEMORY))
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


@pytest.mark.slow
def test_a_fresh_process_prints_no_warnings(tiny_folder, tmp_path):
    """By models whose sparse products differ; all run with warnings as errors elsewhere."""
    arguments = ["--data", str(tiny_folder), "--models", "DualGNN", "GRCN", "LATTICE", "MMGCN"]
    arguments += ["--seeds", "1", "--epochs", "1", "--jobs", "1", "--device", "cpu"]
    arguments += ["--out", str(tmp_path / "out")]
    forkserver.set_forkserver_preload(["alignrec_pyg.experiments.runner"])
    process = get_context("forkserver").Process(
        target=compare_models, args=(arguments, tmp_path / "printed")
    )
    process.start()
    process.join()
    printed = (tmp_path / "printed").read_text()
    assert process.exitcode == 0, printed
    assert "MMGCN" in printed
    assert "Warning" not in printed


@pytest.mark.slow
def test_signals_reach_all_processes_and_the_run_goes_on(
    small_cells, parts, tmp_path, fork, monkeypatch
):
    """Stopped by Ctrl-C, then killed, then run to its end."""
    folder, begun, number = tmp_path / "cells", tmp_path / "begun", tmp_path / "pid"
    cells = [
        replace(cell, hparams={**cell.hparams, "begun": str(begun)})
        for cell in small_cells(models=[Slow], max_epochs=20, patience=20, batch_size=1024)
    ]
    forkserver.set_forkserver_preload(["alignrec_pyg.experiments.runner"])
    forkserver.ensure_running()

    def run_in_processes():
        forkserver._forkserver.ensure_running = lambda: None  # by the parent
        number.write_text(str(os.getpid()))
        with pytest.raises(KeyboardInterrupt):
            run_cells(cells, parts, CellStore(folder), CPU, print, jobs=2)

    def send(signal_number):
        end = time.monotonic() + 200
        while sum(count > 2 for count in Counter(begun.read_text().split()).values()) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        os.kill(int(number.read_text()), signal_number)

    for signal_number, code in ((signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)):
        begun.write_text("")
        assert fork(run_in_processes, partial(send, signal_number)) == [code, 0]
        for lock in folder.glob("*.lock"):  # killed processes end when they notice it
            with FileLock(lock, timeout=60):
                pass
    begun.unlink()
    assert not list(folder.glob("*.json"))
    states = [json.loads(file.read_text()) for file in folder.glob("*.unfinished/state.json")]
    reached = [state["state"]["epoch"] for state in states]
    assert min(reached) > 1
    trained = []
    monkeypatch.setattr(Slow, "on_epoch_start", lambda *_: trained.append(1))
    outcome = run_cells(cells, parts, CellStore(folder), CPU, print)
    assert len(trained) <= 40 - sum(reached)  # gone on with, not begun anew
    assert told(outcome) == told(run_cells(cells, parts, CellStore(tmp_path / "here"), CPU, print))
