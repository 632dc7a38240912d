"""The model to serve: best on validation, trained anew on all links, saved with all it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.experiments.cells import Cell, cell_key
from alignrec_pyg.experiments.description import SELECTED_BY
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import model_path
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.graph import INTERACTS, content_hash, known_pairs, on_device
from alignrec_pyg.models import ClosedFormRecommender
from alignrec_pyg.models.saving import CONFIG
from alignrec_pyg.serving import refit
from alignrec_pyg.storage import (
    CheckpointError,
    check_sha256,
    file_sha256,
    files_of,
    read_manifest,
    write_manifest,
)
from alignrec_pyg.training import FitResult
from alignrec_pyg.training.state import discard

_MODEL = "model"
_MANIFEST = "model.json"


@dataclass(frozen=True, kw_only=True)
class Served:
    """The model to serve.

    Args:
        folder: What ``alignrec_pyg.load`` reads.
        row: The row of the table.
        validation: Mean of the validation metric over seeds by row, the highest first.
        seeds: The seeds of the mean.
        num_links: Links that it was trained on anew.
        epochs: Passes over them, as many as the chosen run had made at its best epoch; ``None`` of
            a model in closed form.
        class_path: ``"module:Class"`` of a class that is none of the package's.
    """

    folder: Path
    row: str
    validation: dict[str, float]
    seeds: Sequence[int]
    num_links: int
    epochs: int | None
    class_path: str | None = None

    def __str__(self) -> str:
        """How it was chosen and made, and where it is."""
        over = f", mean over {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        best, *others = (f"{row} {value:.4f}" for row, value in self.validation.items())
        then = f", then {others[0]}" if others else ""
        how = "trained" if self.epochs is not None else "solved"
        epochs = ""
        if self.epochs is not None:
            epochs = f" in {self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        return (
            f"to serve: {self.row}, best by validation {SELECTED_BY}{over} ({best}{then}; test "
            f"links choose nothing)\n{how} anew on all {self.num_links:,} links{epochs}: "
            f"{self.folder}"
        )


def choose(results: Sequence[CellResult], seeds: Sequence[int]) -> dict[str, float]:
    """Mean of the validation metric by row, the highest first; equal ones in the table's order.

    Rows that miss a seed cannot be chosen, unless all do.
    """
    of_row: dict[str, list[CellResult]] = {}
    for result in results:
        of_row.setdefault(result.row, []).append(result)
    complete = {row: cells for row, cells in of_row.items() if len(cells) == len(seeds)}
    means = {
        row: fmean(cell.val_metrics[SELECTED_BY] for cell in cells)
        for row, cells in (complete or of_row).items()
    }
    return dict(sorted(means.items(), key=lambda entry: -entry[1]))


def keep_best(session: Session, cells: Sequence[Cell], results: Sequence[CellResult]) -> Served:
    """Trains the row of the best validation anew on all links and saves it with its graph.

    Of its seeds, the one of the best validation gives weights and number of epochs. A model that
    was trained before from the same run is kept; interrupted training continues.

    Args:
        session: The session, with the data and the folder.
        cells: The cells of the experiment.
        results: Their results, some at least.
    """
    validation = choose(results, session.seeds)
    row = next(iter(validation))
    result = max(
        (one for one in results if one.row == row), key=lambda one: one.val_metrics[SELECTED_BY]
    )
    cell = next(one for one in cells if (one.row, one.seed) == (row, result.seed))
    known = session.data.known
    links = known[INTERACTS].edge_index
    path = model_path(cell.model)
    served = Served(
        folder=session.out / _MODEL,
        row=row,
        validation=validation,
        seeds=session.seeds,
        num_links=links.size(1),
        epochs=None if issubclass(cell.model, ClosedFormRecommender) else result.best_epoch,
        class_path=path if ":" in path else None,
    )
    key = content_hash(
        cell_key(cell, session.data.parts, session.device),
        str(result.best_epoch),
        links,
        known_pairs(known),
    )
    with folder_lock(session.out, _MANIFEST):
        if not _is_made(session.out, key):
            _make(session, cell, result, key)
    return served


def _make(session: Session, cell: Cell, result: CellResult, key: str) -> None:
    checkpoint = session.out / "cells" / f"{cell.name}-refit-{key[:16]}.unfinished"
    chosen = FitResult(
        best_epoch=result.best_epoch,
        best_metrics=result.val_metrics,
        num_epochs=result.num_epochs,
        stopped_early=result.stopped_early,
        still_rising=result.still_rising,
        seconds=result.seconds,
        cpu_seconds=result.cpu_seconds,
        config=cell.config,
        history=result.history,
    )
    data = on_device(session.data.known, session.device)
    model = refit(
        cell.build(session.data.train).to(session.device),
        data,
        chosen,
        checkpoint_dir=checkpoint,
    )
    model.cpu().save_pretrained(session.out / _MODEL, session.data.known)
    made = {"key": key, "row": result.row, "seed": cell.seed, "sha256": _config_sha256(session.out)}
    write_manifest(session.out / _MANIFEST, made)
    discard(checkpoint)


def _is_made(out: Path, key: str) -> bool:
    """Whether the model in the folder is that of the key, and complete."""
    try:
        made = read_manifest(out / _MANIFEST, {"key": str, "sha256": str})
        for name, sha256 in files_of(out / _MODEL / CONFIG).items():
            check_sha256(out / _MODEL / name, sha256)
        return bool(made["key"] == key and made["sha256"] == _config_sha256(out))
    except (CheckpointError, OSError):
        return False


def _config_sha256(out: Path) -> str:
    return file_sha256(out / _MODEL / CONFIG)
