"""Runs the cells of an experiment: train, select on validation, score the test links once."""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.checkpoint import CheckpointError
from alignrec_pyg.evaluate import evaluate, evaluate_users
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    USER,
    content_hash,
    feature_mask,
    feature_table,
    knn_edge_type,
)
from alignrec_pyg.models import Recommender
from alignrec_pyg.train import FitResult, fit
from benchmarks.cells import Cell, CellResult, CellStore, cpu_users
from benchmarks.memory import PeakMemory
from benchmarks.provenance import Origin, code_version, origin
from benchmarks.warm_up import warm_up

KS = (10, 20)
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
USER_K = 20
"""Cut-off of the per-user metrics behind paired tests."""

_LINE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What a run gave.

    Args:
        results: Finished cells, in the order asked for.
        failed: Why the other cells have no result, by row and seed.
    """

    results: list[CellResult]
    failed: dict[tuple[str, int], str]


def run_cells(
    cells: Sequence[Cell],
    parts: tuple[HeteroData, HeteroData, HeteroData],
    store: CellStore,
    device: torch.device,
    say: Callable[[str], None],
) -> RunOutcome:
    """Runs the cells that the store does not hold yet.

    A cell whose loss or scores are not finite, or for which the GPU has too little memory, fails;
    the others go on. An interrupted cell continues from its checkpoint the next time.

    Args:
        cells: The cells.
        parts: Training, validation and test graph, on the CPU.
        store: Finished and unfinished cells.
        device: Where to run.
        say: Takes a line about the progress.

    Raises:
        KeyboardInterrupt, SystemExit: When interrupted; finished cells are in the store.
    """
    # Seconds, memory and the last bits of sums depend on the threads.
    context = (code_version(), device.type, f"{torch.get_num_threads()} threads")
    keys = [cell.key(data_version(cell, *parts), *context) for cell in cells]
    here = origin(device)
    results: list[CellResult] = []
    failed: dict[tuple[str, int], str] = {}
    train, val, test = (part.to(str(device)) for part in parts)
    warm = False
    for number, (cell, key) in enumerate(zip(cells, keys, strict=True), start=1):
        title = f"[{number}/{len(cells)}] {cell.row} seed {cell.seed}"
        result = store.load(cell, key)
        if result is None:
            if not warm:
                warm_up(device)
                warm = True
            progress = _Progress(title, say)
            try:
                result = _run(cell, key, train, val, test, store, here, progress)
            except (FloatingPointError, torch.OutOfMemoryError) as error:
                failed[cell.row, cell.seed] = str(error)
                say(f"{title}: failed: {error}")
                continue
            store.save(cell, result)
        say(f"{title}: {_outcome(result)}")
        results.append(result)
    return RunOutcome(results=results, failed=failed)


def data_version(cell: Cell, train: HeteroData, val: HeteroData, test: HeteroData) -> str:
    """Hash of all data that a cell reads: links, its feature tables, its item graph."""
    content = [str(train[USER].num_nodes), str(train[ITEM].num_nodes)]
    parts = [train[INTERACTS].edge_index, val[INTERACTS].edge_label_index]
    parts += [test[INTERACTS].edge_label_index, test[INTERACTS].edge_index]
    for name in cell.hparams.get("features", ()):
        content.append(name)
        parts += [feature_table(train, name), feature_mask(train, name)]
    if "item_graph" in cell.hparams:
        edges = train[knn_edge_type(cell.hparams["item_graph"])]
        parts += [edges.edge_index, edges.edge_weight]
    return content_hash(*content, *parts)


def _run(
    cell: Cell,
    key: str,
    train: HeteroData,
    val: HeteroData,
    test: HeteroData,
    store: CellStore,
    here: Origin,
    progress: _Progress,
) -> CellResult:
    device = train[INTERACTS].edge_index.device
    with PeakMemory(device) as memory:
        model, fitted = _train(cell, train, val, store.checkpoint_dir(cell, key), progress)
        metrics = evaluate(model, test, KS)
        users = evaluate_users(model, test, USER_K)
    return CellResult(
        row=cell.row,
        model=cell.model.__name__,
        seed=cell.seed,
        key=key,
        settings=cell.settings(),
        metrics=metrics,
        val_metrics=fitted.best_metrics,
        best_epoch=fitted.best_epoch + 1,
        num_epochs=fitted.num_epochs,
        stopped_early=fitted.num_epochs < cell.config.max_epochs,
        seconds=fitted.seconds,
        peak_bytes=memory.peak_bytes,
        num_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        users=cpu_users(users),
        origin=here,
    )


def _train(
    cell: Cell,
    train: HeteroData,
    val: HeteroData,
    checkpoint_dir: Path,
    progress: _Progress,
) -> tuple[Recommender, FitResult]:
    """Trains from the checkpoint, or from the start where that is damaged (with a warning)."""

    def attempt() -> tuple[Recommender, FitResult]:
        torch.manual_seed(cell.seed)
        model = cell.model(train, **cell.hparams).to(train[INTERACTS].edge_index.device)
        fitted = fit(model, train, val, cell.config, report=progress, checkpoint_dir=checkpoint_dir)
        return model, fitted

    try:
        return attempt()
    except CheckpointError as error:
        warnings.warn(
            f"{cell.row} seed {cell.seed} starts anew: its checkpoint is damaged ({error})",
            stacklevel=2,
        )
        shutil.rmtree(checkpoint_dir)
        return attempt()


class _Progress:
    """Says how training goes now and then; on a terminal ``fit`` itself shows a bar."""

    def __init__(self, title: str, say: Callable[[str], None]) -> None:
        self._title = title
        self._say = say
        self._said = time.monotonic()
        self._best = 0.0

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        self._best = max(self._best, metrics["recall@20"])
        if not sys.stderr.isatty() and time.monotonic() - self._said >= _LINE_SECONDS:
            self._said = time.monotonic()
            self._say(
                f"{self._title}: epoch {epoch + 1}, validation recall@20 "
                f"{metrics['recall@20']:.4f} (best {self._best:.4f})"
            )


def _outcome(result: CellResult) -> str:
    text = (
        f"best epoch {result.best_epoch} of {result.num_epochs}, {result.seconds:.1f} s, "
        f"recall@20 {result.val_metrics['recall@20']:.4f} on validation, "
        f"{result.metrics['recall@20']:.4f} on test"
    )
    return f"{text} (stored)" if result.stored else text
