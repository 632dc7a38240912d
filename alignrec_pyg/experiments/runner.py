"""Runs the cells of an experiment, several at a time in processes of their own."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets import Synthetic
from alignrec_pyg.evaluation.ranking import rank
from alignrec_pyg.experiments.cells import Cell, Parts, cell_key, run_cell
from alignrec_pyg.experiments.estimate import Trial, estimate, try_rows
from alignrec_pyg.experiments.progress import CellsProgress
from alignrec_pyg.experiments.store import CellResult, CellStore
from alignrec_pyg.graph import ITEM, feature_key
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.models import AlignRec
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training.loop import fit
from alignrec_pyg.transforms import KNNItemGraph, SplitInteractions

_POLL_SECONDS = 0.5
# A process that only starts others, with torch imported: they begin at once, and nothing of this
# process (threads, a GPU, open files) is theirs.
_START_METHOD = "forkserver" if sys.platform != "win32" else "spawn"

_USERS, _ITEMS, _LINKS = 60, 80, 900
_TABLE = "noise"
_GRAPH = "cosine"


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """Finished cells in the order asked for, and why others failed, by row and seed."""

    results: list[CellResult]
    failed: dict[tuple[str, int], str]


def run_cells(
    cells: Sequence[Cell],
    parts: Parts,
    store: CellStore,
    device: torch.device,
    log: Callable[[str], None],
    *,
    jobs: int = 1,
    estimated: bool = False,
) -> RunOutcome:
    """Runs the cells that the store does not hold yet.

    A cell whose loss or scores are not finite, or for which there is too little memory, fails; the
    others go on. An interrupted cell continues from its checkpoint the next time. A cell that
    another run on the same folder has begun is left to it as long as there are others.

    Args:
        cells: The cells.
        parts: The graphs.
        store: Finished and unfinished cells.
        device: Where to run.
        log: Called with lines about what went wrong.
        jobs: Cells to run at a time, each in a process with as many threads as this one has.
            Results do not depend on it.
        estimated: Whether to print an estimate of time and memory first, for which every model is
            trained for a few steps.

    Raises:
        KeyboardInterrupt, SystemExit: When interrupted; finished cells are in the store.
    """
    keys = [cell_key(cell, parts, device) for cell in cells]
    results = {
        index: result
        for index, (cell, key) in enumerate(zip(cells, keys, strict=True))
        if (result := store.load(cell, key)) is not None
    }
    failed: dict[int, str] = {}
    jobs = min(jobs, len(cells) - len(results))
    trials: dict[str, Trial] = {}
    if estimated and jobs:
        moved = parts.to(device)
        trials = try_rows(cells, results, moved, is_the_cells_own)
        if any(trial != Trial() for trial in trials.values()):
            log(_estimate(cells, results, moved, jobs, trials))
        del moved
    with CellsProgress(cells, results, jobs, trials) as progress:
        run = _Run(cells, keys, parts, store, device, log, progress, results, failed)
        if jobs > 1:
            _run_in_processes(run, jobs)
        else:
            try:
                _run_here(run)
            finally:
                gc.unfreeze()  # what warm_up has frozen is collected when the process ends
    return RunOutcome(
        results=[results[index] for index in sorted(results)],
        failed={(cells[i].row, cells[i].seed): reason for i, reason in sorted(failed.items())},
    )


def _estimate(
    cells: Sequence[Cell],
    finished: Mapping[int, CellResult],
    parts: Parts,
    jobs: int,
    trials: Mapping[str, Trial],
) -> str:
    """The estimate of the cells that have not finished, as text."""
    rows = [cell.row for index, cell in enumerate(cells) if index not in finished]
    peaks: dict[str, int | None] = {row: trial.peak_bytes for row, trial in trials.items()}
    peaks |= {result.row: result.peak_bytes for result in finished.values()}
    seconds = CellsProgress(cells, finished, jobs, trials).seconds_to_go()
    return estimate(seconds, rows, [peaks.get(row) for row in rows], jobs, trials, parts)


def is_the_cells_own(error: BaseException) -> bool:
    """Whether other cells may still run: values that are not finite, too little memory."""
    # torch has no exception of its own for the CPU's memory, nor for that of a GPU's libraries
    signs = ("not enough memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
    named = any(sign in str(error) for sign in signs)
    return named or isinstance(error, FloatingPointError | MemoryError | torch.OutOfMemoryError)


@dataclass
class _Run:
    """The cells of a run, and the state of each."""

    cells: Sequence[Cell]
    keys: Sequence[str]
    parts: Parts
    store: CellStore
    device: torch.device
    log: Callable[[str], None]
    progress: CellsProgress
    results: dict[int, CellResult]
    failed: dict[int, str]
    running: set[int] = field(default_factory=set)
    taken: set[int] = field(default_factory=set)  # begun by another run, when last looked at

    def next_cell(self) -> int | None:
        """The cell to begin: first one of each row, then those of the rows that take longest."""
        ended = self.results.keys() | self.failed.keys() | self.running
        same = {self.keys[index] for index in self.running}  # two rows may be of the same cell
        open_cells = [
            index
            for index in range(len(self.cells))
            if index not in ended and self.keys[index] not in same
        ]
        if not open_cells:
            return None
        seen = {self.cells[index].row for index in ended}
        return min(
            open_cells,
            key=lambda index: (
                index in self.taken,
                self.cells[index].row in seen,
                -self.progress.expected_seconds(index),
            ),
        )

    def finish(self, index: int, result: CellResult) -> None:
        """Notes the result of a cell, also for other rows of the same cell."""
        self.running.discard(index)
        for other, key in enumerate(self.keys):
            if key == self.keys[index] and other not in self.failed:
                self.results[other] = replace(result, row=self.cells[other].row)
                self.progress.finish(other, self.results[other])

    def fail(self, index: int, reason: str) -> None:
        """Notes why a cell has no result."""
        self.running.discard(index)
        self.failed[index] = reason
        self.progress.fail(index)
        cell = self.cells[index]
        self.log(f"{cell.row} seed {cell.seed} failed: {reason}")

    def leave(self, index: int) -> None:
        """Notes that another run has begun a cell."""
        self.running.discard(index)
        if index not in self.taken:
            cell = self.cells[index]
            self.log(f"{cell.row} seed {cell.seed} is being trained by another run on this folder")
        self.taken.add(index)


def _run_here(run: _Run) -> None:
    """Runs cells one after another in this process."""
    parts = None
    while (index := run.next_cell()) is not None:
        if parts is None:
            parts = run.parts.to(run.device)
            warm_up(run.device)
        cell, key = run.cells[index], run.keys[index]
        with run.store.lock(cell, key, wait=index in run.taken) as ours:
            if not ours:
                run.leave(index)
                continue
            result = run.store.load(cell, key)  # another run may have ended meanwhile
            if result is None:
                try:
                    result = run_cell(cell, key, parts, run.store, run.progress.reporter(index))
                except (FloatingPointError, MemoryError, RuntimeError) as error:
                    if not is_the_cells_own(error):
                        raise
                    run.fail(index, str(error))
                    continue
        run.finish(index, result)


def _run_in_processes(run: _Run, jobs: int) -> None:
    """Runs cells in processes of their own, which end with this one."""
    context = multiprocessing.get_context(_START_METHOD)
    if _START_METHOD == "forkserver":
        context.set_forkserver_preload(["alignrec_pyg.experiments.runner"])
    # Bytes, not tensors in shared memory, of which containers have little.
    shared = pickle.dumps((run.parts, run.store.folder, run.device, torch.get_num_threads()))
    workers: dict[Connection, _Worker] = {}
    with StopRequest(active=True) as stop, _ended(workers):
        for _ in range(jobs):
            _start_worker(context, shared, workers)
        for worker in list(workers.values()):
            _give_work(run, worker)
        while run.running:
            if stop.requested:
                for worker in workers.values():
                    worker.send_signal(stop.number)
                for worker in workers.values():
                    worker.process.join()
                stop.exit_if_requested()
            ready = wait(list(workers), timeout=_POLL_SECONDS)
            for worker in [workers[connection] for connection in workers if connection in ready]:
                try:
                    kind, value = worker.connection.recv()
                except EOFError:
                    _replace(run, context, shared, workers, worker)
                    continue
                _handle(run, worker, kind, value)
            run.progress.refresh()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    index: int | None = None

    def send_signal(self, number: int) -> None:
        """Makes the process save its cell and end."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)


@contextmanager
def _ended(workers: dict[Connection, _Worker]) -> Iterator[None]:
    """Ends all processes at the end of the block, also after an error."""
    try:
        yield
    finally:
        for worker in workers.values():
            worker.connection.close()  # an idle process ends by itself
            if worker.index is not None:
                worker.process.terminate()
        for worker in workers.values():
            worker.process.join()


def _start_worker(context: Any, shared: bytes, workers: dict[Connection, _Worker]) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    ours.send_bytes(shared)
    worker = _Worker(process, ours)
    workers[ours] = worker
    return worker


def _give_work(run: _Run, worker: _Worker) -> None:
    index = run.next_cell()
    worker.index = index
    if index is not None:
        run.running.add(index)
        run.progress.begin(index)
        worker.connection.send((run.cells[index], run.keys[index], index in run.taken))


def _handle(run: _Run, worker: _Worker, kind: str, value: Any) -> None:
    """Takes a message of a process that runs a cell."""
    index = worker.index
    if index is None:
        raise RuntimeError(f"a process without a cell sent {kind!r}")
    if kind == "epoch":
        run.progress.report(index, *value)
        return
    if kind == "finished":
        result = run.store.load(run.cells[index], run.keys[index])
        if result is None:
            run.fail(index, "its result cannot be read back")
        else:
            run.finish(index, result)
    elif kind == "failed":
        run.fail(index, value)
    elif kind == "taken":
        run.leave(index)
    else:
        raise value
    _give_work(run, worker)


def _replace(
    run: _Run, context: Any, shared: bytes, workers: dict[Connection, _Worker], worker: _Worker
) -> None:
    """Starts another process for one that was killed; its cell counts as failed."""
    del workers[worker.connection]
    worker.connection.close()
    worker.process.join()
    if worker.index is not None:
        code = worker.process.exitcode
        run.fail(worker.index, f"its process ended (exit code {code}): was there enough memory?")
    _give_work(run, _start_worker(context, shared, workers))


def _work(connection: Connection) -> None:
    """Runs the cells that come through a pipe, until it is closed."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C reaches the starting process, which passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parts, folder, device, threads = pickle.loads(connection.recv_bytes())
    torch.set_num_threads(threads)
    store = CellStore(Path(folder))
    moved: Parts | None = None
    while True:
        try:
            cell, key, waits = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        if moved is None:
            moved = parts.to(device)
            warm_up(device)
        try:
            with store.lock(cell, key, wait=waits) as ours:
                if not ours:
                    connection.send(("taken", None))
                    continue
                if store.load(cell, key) is None:
                    run_cell(
                        cell, key, moved, store,
                        lambda epoch, entry: connection.send(("epoch", (epoch, entry))),
                    )  # fmt: skip
            connection.send(("finished", None))
        except (KeyboardInterrupt, BrokenPipeError):
            return  # the cell is saved; or the starting process is no more
        except Exception as error:
            own = is_the_cells_own(error)
            connection.send(("failed", str(error)) if own else ("error", _sendable(error)))


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception as reason:
        return RuntimeError(f"{type(error).__name__}: {error} (not sent as it is: {reason})")
    return error


def warm_up(device: torch.device) -> None:
    """Trains and scores AlignRec for one epoch on a tiny data set, checkpoint included."""
    train, val, test = (part.to(str(device)) for part in _tiny_data())
    model = AlignRec(train, features=[_TABLE], item_graph=_GRAPH).to(device)
    with tempfile.TemporaryDirectory() as folder:
        fit(model, train, val, TrainConfig(max_epochs=1), checkpoint_dir=folder)
    rank(model, test)
    gc.collect()
    gc.freeze()  # what has been loaded stays: each cell's measurement would look through it again


def _tiny_data() -> tuple[HeteroData, HeteroData, HeteroData]:
    data = Synthetic(_USERS, _ITEMS, _LINKS, num_topics=2, image_size=4).data
    del data[ITEM]["text"], data[ITEM]["image"]
    generator = torch.Generator().manual_seed(0)
    data[ITEM][feature_key(_TABLE)] = torch.randn(_ITEMS, 8, generator=generator)
    data = KNNItemGraph(_TABLE, weighting="cosine", name=_GRAPH)(data)
    return SplitInteractions("random")(data)
