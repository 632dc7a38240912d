"""What an experiment says and leaves behind: header, table, notes; JSON, CSV, Markdown, PNG."""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from alignrec_pyg.experiments.charts import write_chart
from alignrec_pyg.experiments.memory import memory_description
from alignrec_pyg.experiments.paper import PAPER_LABEL, PaperResults
from alignrec_pyg.experiments.prepare import PreparedData
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.settings import ModelSettings, published_settings
from alignrec_pyg.experiments.statistics import Comparison, mean_interval
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.experiments.summary import COMPARED, Row
from alignrec_pyg.experiments.table import Look, csv_table, markdown_table, terminal_table

_SUFFIXES = (".json", ".csv", ".md", ".png")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A finished experiment.

    Args:
        title: What was compared.
        data: The data, as the models read it.
        models: Settings of the models.
        seeds: Seeds, one cell each.
        device: Where it ran.
        cells: Finished cells.
        table: Their rows.
        comparisons: One row against the others.
        not_run: Why other models have no row.
        paper: Published values for the same data set.
        paper_source: Where they stand.
        look: How the table shows its rows.
        notes: More lines to know when reading it.
        split_told: Whether the header tells the data's split.
    """

    title: str
    data: PreparedData
    models: Mapping[str, ModelSettings]
    seeds: Sequence[int]
    device: torch.device
    cells: Sequence[CellResult]
    table: Sequence[Row]
    comparisons: Sequence[Comparison] = ()
    not_run: Mapping[str, str] = field(default_factory=dict)
    paper: PaperResults = field(default_factory=dict)
    paper_source: str = "Table 2"
    look: Look = field(default_factory=Look)
    notes: Sequence[str] = ()
    split_told: bool = True


def header(
    data: PreparedData, models: Mapping[str, ModelSettings], *, split_told: bool = True
) -> str:
    """What everything rests on: data, split, settings."""
    lines = [f"data: {data.name}", *_indented(str(data.report))]
    if data.features:
        scale = "scaled to length 1" if data.scale == "rows" else "as they are stored"
        lines.append(f"feature rows: {scale}, for all models")
    if split_told:
        lines += split_text(data).splitlines()
    lines += [f"item graph '{name}': {text}" for name, text in data.item_graphs.items()]
    lines.append(
        "settings that differ from the published ones (those for this data set where a paper names "
        "them, else its defaults), the published one in brackets:"
    )
    lines += [f"  {text}" for text in deviations(models, data.name)]
    lines.append("selection: best epoch by validation recall@20; test links choose nothing")
    return "\n".join(lines)


def split_text(data: PreparedData) -> str:
    """The split and what a ranking leaves out."""
    lines = [f"split: {data.split_rule}", *_indented(str(data.split))]
    return "\n".join([*lines, f"ranking: {masking_rule(data)}"])


def masking_rule(data: PreparedData) -> str:
    """Which links a ranking leaves out."""
    if data.split.val_known_at_test:
        return "all items but the user's train (and, at test time, validation) links"
    return (
        "all items but the user's train links, at test time too: validation links stay candidates "
        "and count as misses (MMRec's rule)"
    )


def deviations(models: Mapping[str, ModelSettings], data_name: str) -> list[str]:
    """One line per model: its settings that are not the published ones."""
    found = {
        name: settings.differences(published_settings(settings.model, data_name))
        for name, settings in models.items()
    }
    return [f"{name}: {', '.join(differences) or 'none'}" for name, differences in found.items()]


def footer(experiment: Experiment) -> str:
    """What to know when reading the table."""
    lines = [*experiment.notes]
    lines += [str(comparison) for comparison in experiment.comparisons]
    lines.append(f"values: {_seeds_text(experiment.seeds)}")
    lines += [
        f"{row.label}: {_seeds_text(row.seeds)} only; no best value, not in the tests"
        for row in experiment.table
        if row.missing
    ]
    if experiment.look.costs:
        lines.append(
            "epochs, best epoch, seconds (training and validation): means; memory: largest cell, "
            + memory_description(experiment.device)
            + "; parameters: trainable ones"
        )
    limited = [row.name for row in experiment.table if not row.stopped_early]
    if limited:
        lines.append(
            f"+ stopped by the limit of epochs, perhaps not converged: {', '.join(limited)}"
        )
    if any(row.name in experiment.paper for row in experiment.table):
        lines.append(
            f"{PAPER_LABEL}: {experiment.paper_source} of the AlignRec paper, for orientation, "
            "not comparable digit for digit"
        )
    lines += [f"not run: {name}: {reason}" for name, reason in experiment.not_run.items()]
    lines += [f"{name}: {text}" for name, text in origins(experiment.cells).items()]
    return "\n".join(lines)


def origins(cells: Sequence[CellResult]) -> dict[str, str]:
    """Commit, hardware and versions of the cells, stored ones too; ``mixed:`` where they differ."""

    def told(texts: Iterable[str]) -> str:
        distinct = list(dict.fromkeys(texts))
        return distinct[0] if len(distinct) == 1 else f"mixed: {'; '.join(distinct)}"

    def versions(origin: Origin) -> str:
        return ", ".join(f"{name} {version}" for name, version in origin.versions.items())

    return {
        "commit": told(cell.origin.commit or "not a git checkout" for cell in cells),
        "hardware": told(cell.origin.hardware for cell in cells),
        "versions": told(versions(cell.origin) for cell in cells),
    }


def table_text(experiment: Experiment, *, bold: bool) -> str:
    """The table for a terminal."""
    return terminal_table(experiment.table, experiment.paper, experiment.look, bold=bold)


def write_results(
    experiment: Experiment,
    folder: Path,
    stem: str,
    draw: Callable[[Path], None] | None = None,
) -> list[Path]:
    """Writes ``<stem>.json``, ``.csv``, ``.md`` and, with matplotlib, ``.png`` into ``folder``.

    Each appears complete or not at all; a chart of earlier results goes where there is no new one.

    Args:
        experiment: What to write.
        folder: Where.
        stem: Name of the files.
        draw: Writes another picture than the table's bars.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        ".json": json.dumps(_as_json(experiment), indent=2, allow_nan=False) + "\n",
        ".csv": csv_table(experiment.table, experiment.paper),
        ".md": _as_markdown(experiment),
    }
    written = []
    with tempfile.TemporaryDirectory(prefix=f".{stem}", dir=folder) as temporary:
        for suffix, text in texts.items():
            (Path(temporary) / stem).with_suffix(suffix).write_text(text, encoding="utf-8")
        if chart_possible():
            picture = Path(temporary) / f"{stem}.png"
            if draw is None:
                write_chart(picture, experiment.title, experiment.table, experiment.paper)
            else:
                draw(picture)
        for file in sorted(Path(temporary).iterdir()):
            written.append(file.replace(folder / file.name))
    remove_results(folder, stem, kept=written)
    return written


def remove_results(folder: Path, stem: str, kept: Sequence[Path] = ()) -> None:
    """Removes what an earlier :func:`write_results` left, but for ``kept``."""
    for suffix in _SUFFIXES:
        path = folder / f"{stem}{suffix}"
        if path not in kept:
            path.unlink(missing_ok=True)


def chart_possible() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _as_json(experiment: Experiment) -> dict[str, Any]:
    data = experiment.data
    return {
        "title": experiment.title,
        "data": {
            "name": data.name,
            "report": _finite(asdict(data.report)),
            "feature_scale": data.scale,
            **(
                {
                    "split_rule": data.split_rule,
                    "split": asdict(data.split),
                    "ranking": masking_rule(data),
                }
                if experiment.split_told
                else {}
            ),
            "item_graphs": data.item_graphs,
        },
        "rows": [
            {
                "name": row.name,
                "seeds": list(row.seeds),
                "missing_seeds": list(row.missing),
                "mean": _finite(dict(row.mean)),
                "std": None if row.std is None else _finite(dict(row.std)),
                "epochs": row.epochs,
                "best_epoch": row.best_epoch,
                "stopped_early": row.stopped_early,
                "seconds": row.seconds,
                "peak_bytes": row.peak_bytes,
                "parameters": row.num_parameters,
                "users": row.user.numel(),
                f"{COMPARED} over users": _finite(asdict(mean_interval(row.user_value))),
            }
            for row in experiment.table
        ],
        "comparisons": [
            _finite({**asdict(comparison), "text": str(comparison)})
            for comparison in experiment.comparisons
        ],
        "paper": {
            "label": PAPER_LABEL,
            "rows": {row.name: experiment.paper.get(row.name) for row in experiment.table},
        },
        "not_run": dict(experiment.not_run),
        "cells": [cell.summary() for cell in experiment.cells],
        "selection": "best epoch by validation recall@20",
        "metrics": list(experiment.table[0].mean),
        "notes": list(experiment.notes),
        "seeds": list(experiment.seeds),
        "settings_unlike_the_published": deviations(experiment.models, data.name),
        "memory": memory_description(experiment.device),
        **origins(experiment.cells),
    }


def _as_markdown(experiment: Experiment) -> str:
    notes = "\n".join(f"- {line}" for line in footer(experiment).splitlines())
    about = header(experiment.data, experiment.models, split_told=experiment.split_told)
    table = markdown_table(experiment.table, experiment.paper, experiment.look)
    return f"# {experiment.title}\n\n{table}\n\n{notes}\n\n```text\n{about}\n```\n"


def _seeds_text(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"one run with seed {seeds[0]}"
    return f"mean ± standard deviation over seeds {', '.join(str(seed) for seed in seeds)}"


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _finite(value: Any) -> Any:
    """The value with ``None`` for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
