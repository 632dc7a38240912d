"""Cells of an experiment: a cell is the training of one model with one seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.atomic import set_aside
from alignrec_pyg.evaluation.metrics import user_metrics
from alignrec_pyg.evaluation.ranking import Ranking, rank
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.experiments.provenance import code_hash, code_version, origin
from alignrec_pyg.experiments.store import CellResult, CellStore
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    USER,
    content_hash,
    feature_mask,
    feature_table,
    knn_edge_type,
    known_pairs,
    links_to_predict,
    on_device,
)
from alignrec_pyg.models.aligned import Aligned
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.content import ContentRecommender
from alignrec_pyg.storage import CheckpointError
from alignrec_pyg.train_config import CompleteTrainConfig
from alignrec_pyg.training.loop import FitResult, fit

KS = (10, 20)
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
TEST = "test"
"""Name of the test that ``CellResult.metrics`` is of."""
RANKED = 50
"""Number of items that are stored of every user's ranking."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of an experiment, for a row of its table.

    The seed of ``config`` is that of the initial weights too; ``alignment`` holds arguments of
    :class:`~alignrec_pyg.models.Aligned`, if the model is trained with AlignRec's alignments.
    """

    row: str
    model: type[Recommender]
    hparams: Mapping[str, Any]
    config: CompleteTrainConfig
    alignment: Mapping[str, Any] | None = None

    @property
    def seed(self) -> int:
        """Seed of the initial weights and of training."""
        return self.config.seed

    @property
    def name(self) -> str:
        """The model's name, also as part of file names."""
        return self.model.__name__ if self.alignment is None else f"Aligned{self.model.__name__}"

    def build(self, train: HeteroData) -> Recommender:
        """The untrained model, with weights drawn from the cell's seed.

        Raises:
            ValueError: If the settings do not fit the model or ``train``.
        """
        torch.manual_seed(self.seed)
        model = self.model(train, **self.hparams)
        if self.alignment is None:
            return model
        if not isinstance(model, ContentRecommender):
            raise ValueError(
                f"'alignment' needs a model with separate content and ID vectors (got {model})"
            )
        return Aligned(train, model, **self.alignment)

    def settings(self) -> dict[str, Any]:
        """What the cell runs, as values for JSON."""
        settings = {
            "model": self.model.__name__,
            "hparams": dict(self.hparams),
            "config": {**asdict(self.config), "ks": list(self.config.ks)},
        }
        if self.alignment is not None:
            settings["alignment"] = dict(self.alignment)
        return settings

    def code(self) -> str:
        """Hash of the code behind the cell: of all that its model and this module import."""
        return code_version(self.model.__module__, __name__)

    def key(self, *context: str) -> str:
        """Hash of what the cell runs, and of ``context``: data, code, device, threads."""
        return content_hash(repr(_sorted(self.settings())), *context)


def model_code(model: type[Recommender]) -> str:
    """Hash of the code behind cells of a model, whatever the versions of the libraries."""
    return code_hash(model.__module__, __name__)


Ranked = Callable[[Cell, Recommender, str, HeteroData], Ranking]
"""From a cell, its trained model and a test, by name and graph, to the test's rankings."""


def rank_all_items(cell: Cell, model: Recommender, name: str, test: HeteroData) -> Ranking:
    """All items but those in ``edge_index`` of the user, for the users with links to predict."""
    return rank(model, test, RANKED)


def rank_unknown_items(cell: Cell, model: Recommender, name: str, test: HeteroData) -> Ranking:
    """As :func:`rank_all_items`, without the known pairs."""
    return rank(model, test, RANKED, exclude_known_pairs=True)


class Parts(NamedTuple):
    """Graphs of an experiment, on the CPU; one of ``tests`` is called ``"test"``.

    ``ranked`` ranks with a trained model for a test; ``ranked_by`` identifies everything that this
    depends on beside the graphs.
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


def cell_key(cell: Cell, parts: Parts, device: torch.device) -> str:
    """Hash of everything that a cell's result depends on: settings, data, code, device, threads."""
    # Seconds, memory and the last bits of sums depend on the threads.
    threads = f"{torch.get_num_threads()} threads"
    return cell.key(data_version(cell, parts), cell.code(), device.type, threads)


def data_version(cell: Cell, parts: Parts) -> str:
    """Hash of all data that a cell reads: links, its feature tables, its item graphs."""
    train = parts.train
    content = [str(train[USER].num_nodes), str(train[ITEM].num_nodes), parts.ranked_by]
    tensors = [train[INTERACTS].edge_index, links_to_predict(parts.val), known_pairs(train)]
    for name, test in parts.tests.items():
        content.append(name)
        tensors += [links_to_predict(test), test[INTERACTS].edge_index, known_pairs(test)]
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


def run_cell(
    cell: Cell,
    key: str,
    parts: Parts,
    store: CellStore,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> CellResult:
    """Trains a cell, or continues its training, ranks for every test, and stores the result.

    Raises:
        FloatingPointError: If the loss or a score is not finite.
    """
    device = parts.train[INTERACTS].edge_index.device
    with PeakMemory(device) as memory:
        model, fitted = train_cell(cell, parts, store.checkpoint_dir(cell, key), report)
        rankings = {
            name: Ranking(*(tensor.cpu() for tensor in parts.ranked(cell, model, name, test)))
            for name, test in parts.tests.items()
        }
    result = CellResult(
        row=cell.row,
        model=cell.name,
        seed=cell.seed,
        key=key,
        settings=cell.settings(),
        metrics=link_metrics(rankings[TEST], links_to_predict(parts.tests[TEST]).cpu()),
        val_metrics=fitted.best_metrics,
        best_epoch=fitted.best_epoch,
        num_epochs=fitted.num_epochs,
        stopped_early=fitted.stopped_early,
        still_rising=fitted.still_rising,
        seconds=fitted.seconds,
        cpu_seconds=fitted.cpu_seconds,
        peak_bytes=memory.peak_bytes,
        content_bytes=content_bytes(cell, parts.train),
        num_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        rankings=rankings,
        history=fitted.history,
        origin=origin(device),
    )
    store.save(cell, result)
    return result


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
            progress=False,
        )
        return model, fitted

    try:
        return attempt()
    except CheckpointError as error:
        warnings.warn(
            f"{cell.row} seed {cell.seed} starts anew: its checkpoint is damaged ({error}) and "
            f"kept as {set_aside(checkpoint_dir)}",
            stacklevel=2,
        )
        return attempt()


def _sorted(value: Any) -> Any:
    """Dictionaries in the order of their keys, so that equal settings look the same."""
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return value
