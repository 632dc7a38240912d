"""Runs the cells of an experiment: train, select on validation, score the test links once."""

from __future__ import annotations

import shutil
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.metrics import user_metrics
from alignrec_pyg.evaluation.ranking import Ranking, rank
from alignrec_pyg.experiments.cells import Cell, CellResult, CellStore
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.experiments.provenance import Origin, code_version, origin
from alignrec_pyg.experiments.warm_up import warm_up
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    USER,
    content_hash,
    feature_mask,
    feature_table,
    knn_edge_type,
    links_to_predict,
    on_device,
)
from alignrec_pyg.models import Recommender
from alignrec_pyg.storage import CheckpointError
from alignrec_pyg.training.loop import FitResult, fit

KS = (10, 20)
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
TEST = "test"
"""Name of the test that ``CellResult.metrics`` is of."""
RANKED = 50
"""Items kept of every user's ranking."""

_LINE_SECONDS = 30.0


Ranked = Callable[[Cell, Recommender, str, HeteroData], Ranking]
"""From a cell, its trained model and a test, by name and graph, to the test's rankings."""


def rank_all_items(cell: Cell, model: Recommender, name: str, test: HeteroData) -> Ranking:
    """All items but those in ``edge_index`` of the user, for the users with links to predict."""
    return rank(model, test, RANKED)


class Parts(NamedTuple):
    """Graphs of an experiment, on the CPU.

    Args:
        train: To train on.
        val: With the links to select by.
        tests: With the links to score at the end, by name; one is called ``"test"``.
        ranked: How a trained model ranks for a test.
        ranked_by: Stands for all that ``ranked`` depends on beside the graphs.
    """

    train: HeteroData
    val: HeteroData
    tests: Mapping[str, HeteroData]
    ranked: Ranked = rank_all_items
    ranked_by: str = ""

    def to(self, device: torch.device) -> Parts:
        """The same on a device; these graphs stay on the CPU, as results do."""
        tests = {id(test): test for test in self.tests.values()}  # one may have several names
        moved = {key: on_device(test, device) for key, test in tests.items()}
        return self._replace(
            train=on_device(self.train, device),
            val=on_device(self.val, device),
            tests={name: moved[id(test)] for name, test in self.tests.items()},
        )


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
    parts: Parts,
    store: CellStore,
    device: torch.device,
    log: Callable[[str], None],
) -> RunOutcome:
    """Runs the cells that the store does not hold yet.

    A cell whose loss or scores are not finite, or for which there is too little memory, fails; the
    others go on. An interrupted cell continues from its checkpoint the next time.

    Args:
        cells: The cells.
        parts: The graphs.
        store: Finished and unfinished cells.
        device: Where to run.
        log: Takes a line about the progress.

    Raises:
        KeyboardInterrupt, SystemExit: When interrupted; finished cells are in the store.
    """
    keys = [cell_key(cell, parts, device) for cell in cells]
    here = origin(device)
    results: list[CellResult] = []
    failed: dict[tuple[str, int], str] = {}
    moved = parts.to(device)
    warm = False
    for number, (cell, key) in enumerate(zip(cells, keys, strict=True), start=1):
        title = f"[{number}/{len(cells)}] {cell.row} seed {cell.seed}"
        result = store.load(cell, key)
        if result is None:
            if not warm:
                warm_up(device)
                warm = True
            progress = _Progress(title, log)
            try:
                result = _run(cell, key, moved, store, here, progress)
            except (FloatingPointError, MemoryError, RuntimeError) as error:
                if not is_the_cells_own(error):
                    raise
                failed[cell.row, cell.seed] = str(error)
                log(f"{title}: failed: {error}")
                continue
            store.save(cell, result)
        log(f"{title}: {_outcome(result)}")
        results.append(result)
    return RunOutcome(results=results, failed=failed)


def cell_key(cell: Cell, parts: Parts, device: torch.device) -> str:
    """Hash of everything that decides what a cell gives: settings, data, code, device, threads."""
    # Seconds, memory and the last bits of sums depend on the threads.
    threads = f"{torch.get_num_threads()} threads"
    return cell.key(data_version(cell, parts), code_version(), device.type, threads)


def data_version(cell: Cell, parts: Parts) -> str:
    """Hash of all data that a cell reads: links, its feature tables, its item graphs."""
    train = parts.train
    content = [str(train[USER].num_nodes), str(train[ITEM].num_nodes), parts.ranked_by]
    tensors = [train[INTERACTS].edge_index, parts.val[INTERACTS].edge_label_index]
    for name, test in parts.tests.items():
        content.append(name)
        tensors += [test[INTERACTS].edge_label_index, test[INTERACTS].edge_index]
    content += _tables(cell)
    return content_hash(*content, *tensors, *_content(cell, train))


def content_bytes(cell: Cell, train: HeteroData) -> int:
    """Size of the feature tables and item graphs that a cell reads."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _content(cell, train))


def _tables(cell: Cell) -> list[str]:
    aligned = (cell.alignment or {}).get("features", ())
    return list(dict.fromkeys([*cell.hparams.get("features", ()), *aligned]))


def _content(cell: Cell, train: HeteroData) -> list[Tensor]:
    tensors = []
    for name in _tables(cell):
        tensors += [feature_table(train, name), feature_mask(train, name)]
    item_graphs = [*cell.hparams.get("item_graphs", ())]
    if "item_graph" in cell.hparams:
        item_graphs.append(cell.hparams["item_graph"])
    for name in item_graphs:
        edges = train[knn_edge_type(name)]
        tensors += [edges.edge_index, edges.edge_weight]
    return tensors


def link_metrics(ranking: Ranking, links: Tensor) -> dict[str, float]:
    """Recall and ndcg at :data:`KS`, means over the users of ``links``."""
    metrics: dict[str, float] = {}
    for k in KS:
        users = user_metrics(ranking, links, k)
        metrics[f"recall@{k}"] = users.recall.double().mean().item()
        metrics[f"ndcg@{k}"] = users.ndcg.double().mean().item()
    return {name: metrics[name] for name in METRICS}


def _run(
    cell: Cell,
    key: str,
    parts: Parts,
    store: CellStore,
    here: Origin,
    progress: _Progress,
) -> CellResult:
    with PeakMemory(parts.train[INTERACTS].edge_index.device) as memory:
        model, fitted = train_cell(cell, parts, store.checkpoint_dir(cell, key), progress)
        rankings = {
            name: Ranking(*(tensor.cpu() for tensor in parts.ranked(cell, model, name, test)))
            for name, test in parts.tests.items()
        }
    return CellResult(
        row=cell.row,
        model=cell.name,
        seed=cell.seed,
        key=key,
        settings=cell.settings(),
        metrics=link_metrics(rankings[TEST], links_to_predict(parts.tests[TEST]).cpu()),
        val_metrics=fitted.best_metrics,
        best_epoch=fitted.best_epoch,
        num_epochs=fitted.num_epochs,
        stopped_early=fitted.num_epochs < cell.config.max_epochs,
        seconds=fitted.seconds,
        peak_bytes=memory.peak_bytes,
        content_bytes=content_bytes(cell, parts.train),
        num_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        rankings=rankings,
        origin=here,
    )


def train_cell(
    cell: Cell,
    parts: Parts,
    checkpoint_dir: Path,
    report: Callable[[int, dict[str, float]], None] | None = None,
    checkpoint_seconds: float = 60.0,
) -> tuple[Recommender, FitResult]:
    """Trains from the checkpoint, or from the start where that is damaged (with a warning).

    From the checkpoint of a finished run, this only loads its best epoch.
    """
    device = parts.train[INTERACTS].edge_index.device

    def attempt() -> tuple[Recommender, FitResult]:
        model = cell.build(parts.train).to(device)
        fitted = fit(
            model,
            parts.train,
            parts.val,
            cell.config,
            report=report,
            checkpoint_dir=checkpoint_dir,
            checkpoint_seconds=checkpoint_seconds,
        )
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


def is_the_cells_own(error: Exception) -> bool:
    """Whether others may still run: values that are not finite, too little memory."""
    # torch has no exception of its own for the CPU's memory, nor for that of a GPU's libraries
    signs = ("not enough memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
    told = any(sign in str(error) for sign in signs)
    return told or isinstance(error, FloatingPointError | MemoryError | torch.OutOfMemoryError)


class _Progress:
    """Says how training goes now and then; on a terminal ``fit`` itself shows a bar."""

    def __init__(self, title: str, log: Callable[[str], None]) -> None:
        self._title = title
        self._log = log
        self._said = time.monotonic()
        self._best = 0.0

    def __call__(self, epoch: int, metrics: dict[str, float]) -> None:
        self._best = max(self._best, metrics["recall@20"])
        if not sys.stderr.isatty() and time.monotonic() - self._said >= _LINE_SECONDS:
            self._said = time.monotonic()
            self._log(
                f"{self._title}: epoch {epoch}, validation recall@20 "
                f"{metrics['recall@20']:.4f} (best {self._best:.4f})"
            )


def _outcome(result: CellResult) -> str:
    text = (
        f"best epoch {result.best_epoch} of {result.num_epochs}, {result.seconds:.1f} s, "
        f"recall@20 {result.val_metrics['recall@20']:.4f} on validation, "
        f"{result.metrics['recall@20']:.4f} on test"
    )
    return f"{text} (stored)" if result.stored else text
