"""What a finished experiment prints and the files it writes."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alignrec_pyg.atomic import folder_lock, private_folder, publish, set_aside
from alignrec_pyg.experiments.cells import model_code
from alignrec_pyg.experiments.charts import chart_problem, write_chart
from alignrec_pyg.experiments.description import (
    SELECTED_BY,
    SELECTION,
    description,
    deviations,
    masking_rule,
    split_rule,
)
from alignrec_pyg.experiments.memory import memory_description
from alignrec_pyg.experiments.paper import PAPER_LABEL, PaperResults
from alignrec_pyg.experiments.prepared_data import PreparedData
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.result_table import (
    LIMITED,
    RISING,
    TableStyle,
    csv_rows,
    in_pairs,
    marked_values,
    outcome,
    table_rows,
)
from alignrec_pyg.experiments.settings import ModelSettings
from alignrec_pyg.experiments.statistics import Comparison, Row, mean_interval
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.storage import (
    CheckpointError,
    file_sha256,
    pending,
    read_manifest,
    remove_listed,
    write_manifest,
)
from alignrec_pyg.text_tables import aligned_table, csv_table, latex_table, markdown_table


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A finished experiment; ``one_split`` if all rows are of the data's own split."""

    title: str
    data: PreparedData
    models: Mapping[str, ModelSettings]
    seeds: Sequence[int]
    device: torch.device
    cells: Sequence[CellResult]
    table: Sequence[Row]
    comparisons: Sequence[Comparison] | None = None
    not_run: Mapping[str, str] = field(default_factory=dict)
    paper: PaperResults = field(default_factory=dict)
    paper_source: str = "Table 2"
    style: TableStyle = field(default_factory=TableStyle)
    notes: Sequence[str] = ()
    one_split: bool = True

    @property
    def rows(self) -> list[list[str]]:
        """Header and rows of the table as text."""
        return table_rows(self.table, self.comparisons or (), self.paper, self.style)

    @property
    def outcome(self) -> str:
        """What the comparisons found, in one sentence; empty if rows are not compared."""
        return "" if self.comparisons is None else outcome(self.table, self.comparisons)

    @property
    def warnings(self) -> list[str]:
        """What to know before any comparison is read: what is not converged, or missing."""
        limited = [row for row in self.table if not row.stopped_early]
        stopped = [row for row in self.table if row.stopped_early and row.still_rising]
        ends = (
            (
                f"At the limit of epochs ({LIMITED}), validation still rising ({RISING}); a larger "
                "--epochs trains them longer",
                [row for row in limited if row.still_rising],
            ),
            (
                f"At the limit of epochs ({LIMITED}), perhaps not converged",
                [row for row in limited if not row.still_rising],
            ),
            (
                f"Stopped early with validation still rising ({RISING}); --patience "
                f"{self._evaluations_waited(stopped)} (evaluations) or more trains them longer",
                stopped,
            ),
        )
        lines = [f"{text}: {', '.join(row.name for row in of)}" for text, of in ends if of]
        lines += [
            f"{row.label}: {_seeds_text(row.seeds)} only; no best value, not in the tests"
            for row in self.table
            if row.missing
        ]
        return lines + [f"Not run: {name}: {reason}" for name, reason in self.not_run.items()]

    def _evaluations_waited(self, rows: Sequence[Row]) -> int:
        """The most evaluations after the best one among the cells of some rows."""
        names = {row.name for row in rows}
        waited = (
            sum(SELECTED_BY in entry and entry["epoch"] > cell.best_epoch for entry in cell.history)
            for cell in self.cells
            if cell.row in names
        )
        return max(waited, default=0)

    @property
    def legend(self) -> str:
        """How to read the table."""
        parts = [_seeds_text(self.seeds)]
        if self.comparisons:
            first = self.comparisons[0]
            against = "" if in_pairs(self.comparisons) else f" against {first.reference}"
            parts.append(
                f"p: paired t-test{against}, {first.metric} of {first.difference.num_users:,} "
                f"users, Holm's correction for {len(self.comparisons)}"
            )
        return "; ".join(parts)


def screen_text(experiment: Experiment, *, ansi: bool) -> str:
    """The table with what to know before, and its outcome after it."""
    table = aligned_table(experiment.rows, rule=True, ansi=ansi)
    parts = ["\n".join(experiment.warnings), f"{table}\n{experiment.legend}", experiment.outcome]
    return "\n\n".join(part for part in parts if part)


def origins(cells: Sequence[CellResult]) -> dict[str, str]:
    """Commit, hardware and versions of the cells, stored ones too; ``mixed:`` where they differ."""

    def joined(texts: Iterable[str]) -> str:
        distinct = list(dict.fromkeys(texts))
        return distinct[0] if len(distinct) == 1 else f"mixed: {'; '.join(distinct)}"

    def versions(origin: Origin) -> str:
        return ", ".join(f"{name} {version}" for name, version in origin.versions.items())

    return {
        "commit": joined(cell.origin.commit or "not a git checkout" for cell in cells),
        "hardware": joined(cell.origin.hardware for cell in cells),
        "versions": joined(versions(cell.origin) for cell in cells),
    }


def write_results(
    experiment: Experiment,
    folder: Path,
    stem: str,
    draw: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Writes the experiment as JSON, CSV, Markdown, LaTeX and, with matplotlib, a chart.

    The chart is the table as bars, or what ``draw`` writes.

    Returns:
        The files written.
    """
    cells = csv_rows(experiment.table, experiment.comparisons or (), experiment.paper)
    without_costs = TableStyle(unmarked=experiment.style.unmarked, costs=False)
    tabular = table_rows(
        experiment.table, experiment.comparisons or (), experiment.paper, without_costs
    )
    texts = {
        ".csv": csv_table(cells),
        ".md": _as_markdown(experiment),
        ".tex": f"% {experiment.title}; {experiment.legend}\n{latex_table(tabular)}\n",
    }
    bars = partial(
        write_chart,
        title=experiment.title,
        table=experiment.table,
        paper=experiment.paper,
        style=experiment.style,
    )
    return write_files(folder, stem, _as_json(experiment), texts, draw or bars)


def write_files(
    folder: Path,
    stem: str,
    facts: Mapping[str, Any],
    texts: Mapping[str, str],
    draw: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Writes ``<stem>.json``, ``<stem><suffix>`` for each text and, with matplotlib, a picture.

    Each file appears complete or not at all, the JSON file, which lists the others, last. What an
    earlier call left of this stem and is not written anew, such as a picture, is removed. A file
    that no earlier call wrote, or that was edited, is kept under another name, with a warning.

    Returns:
        The files written.
    """
    writers: dict[str, Callable[[Path], object]] = {
        f"{stem}{suffix}": partial(Path.write_text, data=text, encoding="utf-8")
        for suffix, text in texts.items()
    }
    if draw is not None and chart_problem() is None:
        writers[f"{stem}.png"] = draw
    manifest = folder / f"{stem}.json"
    note = pending(manifest)
    with folder_lock(folder, stem), ExitStack() as stack:
        known = [*_listed(manifest).items(), *_listed(note).items()]
        made, files = {}, {}
        for name, write in writers.items():
            made[name] = stack.enter_context(private_folder(folder / name)) / name
            write(made[name])
            files[name] = file_sha256(made[name])
        write_manifest(note, {"files": files})  # a killed process's files are known by it
        for name, file in made.items():
            path = folder / name
            if path.exists() and (name, file_sha256(path)) not in [*known, *files.items()]:
                warnings.warn(f"{path} is kept as {set_aside(path).name}", stacklevel=2)
            publish(file, path)
        write_manifest(manifest, {**json_values(dict(facts)), "files": files})
        for entry in dict.fromkeys(name for name, _ in known if name not in files):
            path = folder / entry
            hashes = [sha256 for name, sha256 in known if name == entry]
            there = file_sha256(path) if path.is_file() else ""
            sha256 = there if there in hashes else hashes[0]
            remove_listed(folder, {entry: sha256}, _names(stem))
        note.unlink()
    return sorted([manifest, *(folder / name for name in files)])


def json_values(value: Any) -> Any:
    """A value, or values in lists and dictionaries, with ``None`` for NaN and infinity."""
    if isinstance(value, dict):
        return {name: json_values(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove_results(folder: Path, stem: str) -> None:
    """Removes what :func:`write_files` wrote, but for what was edited since."""
    manifest = folder / f"{stem}.json"
    before = _listed(manifest)
    if before:
        remove_listed(folder, before, _names(stem))
        manifest.unlink()


def _listed(manifest: Path) -> dict[str, str]:
    """The files that an intact list of results names; none if there is no such list."""
    if not manifest.exists():
        return {}
    try:
        files: dict[str, str] = read_manifest(manifest, {"files": dict})["files"]
    except CheckpointError:
        warnings.warn(f"{manifest} is kept as {set_aside(manifest).name}", stacklevel=3)
        return {}
    return files


def _names(stem: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(stem)}\.[a-z]+")


def _as_json(experiment: Experiment) -> dict[str, Any]:
    data = experiment.data
    split = {
        "split_rule": split_rule(data),
        "split": asdict(data.split),
        "ranking": masking_rule(data),
    }
    return {
        "title": experiment.title,
        "data": {
            "name": data.name,
            "report": asdict(data.report),
            "feature_scale": data.scale,
            **(split if experiment.one_split else {}),
            "item_graphs": data.item_graphs,
            "fused_weights": data.fused_weights,
        },
        "rows": [
            {
                "name": row.name,
                "seeds": list(row.seeds),
                "missing_seeds": list(row.missing),
                "mean": dict(row.mean),
                "std": row.std and dict(row.std),
                "epochs": row.epochs,
                "best_epoch": row.best_epoch,
                "stopped_early": row.stopped_early,
                "still_rising": row.still_rising,
                "seconds": row.seconds,
                "cpu_seconds": row.cpu_seconds,
                "peak_bytes": row.peak_bytes,
                "parameters": row.num_parameters,
                "users": row.user.numel(),
                f"{row.compared} over users": asdict(mean_interval(row.user_value)),
            }
            for row in experiment.table
        ],
        "comparisons": [
            {**asdict(comparison), "text": str(comparison)}
            for comparison in experiment.comparisons or ()
        ],
        "paper": {
            "label": PAPER_LABEL,
            "rows": {row.name: experiment.paper.get(row.name) for row in experiment.table},
        },
        "not_run": dict(experiment.not_run),
        "cells": [cell.summary() for cell in experiment.cells],
        "selection": SELECTION,
        "table": experiment.rows,
        "best": marked_values(experiment.table, experiment.style),
        "legend": experiment.legend,
        "outcome": experiment.outcome,
        "code": {name: model_code(one.model) for name, one in experiment.models.items()},
        "metrics": list(experiment.table[0].mean),
        "notes": list(experiment.notes),
        "seeds": list(experiment.seeds),
        "settings_unlike_the_published": deviations(experiment.models, data.name),
        "memory": memory_description(experiment.device),
        **origins(experiment.cells),
    }


def _as_markdown(experiment: Experiment) -> str:
    before = [*experiment.warnings, experiment.outcome]
    about = description(experiment.data, experiment.models, one_split=experiment.one_split)
    parts = [
        f"# {experiment.title}",
        *(line for line in before if line),
        markdown_table(experiment.rows),
        "\n".join(f"- {line}" for line in _notes(experiment)),
        f"```text\n{about}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _notes(experiment: Experiment) -> list[str]:
    """All that is known about the table, a line each."""
    lines = [experiment.legend, *experiment.notes]
    lines += [str(comparison) for comparison in experiment.comparisons or ()]
    if experiment.style.costs:
        lines.append(
            "epochs, best epoch, seconds of training and validation (CPU: of the processor, all "
            "threads together): means; memory: largest cell, "
            + memory_description(experiment.device)
            + "; parameters: trainable ones"
        )
    if any(row.name in experiment.paper for row in experiment.table):
        lines.append(
            f"{PAPER_LABEL}: {experiment.paper_source} of the AlignRec paper, for orientation, "
            "not comparable digit for digit"
        )
    lines += [f"{name}: {text}" for name, text in origins(experiment.cells).items()]
    return lines


def _seeds_text(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"one run with seed {seeds[0]}"
    return f"mean ± standard deviation over seeds {', '.join(str(seed) for seed in seeds)}"
