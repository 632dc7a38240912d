"""What an experiment says and leaves behind: header, table, notes; JSON, CSV, Markdown, PNG."""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import CellResult
from benchmarks.chart import write_chart
from benchmarks.memory import memory_description
from benchmarks.paper_results import PAPER_LABEL
from benchmarks.prepare import PreparedData
from benchmarks.presets import PAPER, Preset
from benchmarks.provenance import code_version, commit, hardware, versions
from benchmarks.runner import METRICS
from benchmarks.summary import PairedTest, Row
from benchmarks.table import PaperResults, csv_table, markdown_table, terminal_table


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A finished experiment.

    Args:
        title: What was compared.
        data: The data, as the models read it.
        presets: Settings of the models.
        seeds: Seeds, one cell each.
        device: Where it ran.
        cells: Finished cells.
        table: Their rows.
        test: Best against second; ``None`` where there is no second.
        not_run: Why other models have no row.
        paper: Published values for the same data set.
    """

    title: str
    data: PreparedData
    presets: Mapping[str, Preset]
    seeds: Sequence[int]
    device: torch.device
    cells: Sequence[CellResult]
    table: Sequence[Row]
    test: PairedTest | None
    not_run: Mapping[str, str]
    paper: PaperResults


def header(data: PreparedData, presets: Mapping[str, Preset], device: torch.device) -> str:
    """What everything rests on: data, split, settings, machine."""
    lines = [f"data: {data.name}", *_indented(str(data.report))]
    lines += [f"split: {data.split_rule}", *_indented(str(data.split))]
    lines.append(f"ranking: {masking_rule(data)}")
    lines += [f"item graph '{name}': {text}" for name, text in data.item_graphs.items()]
    lines.append("settings that differ from the papers' (theirs in brackets):")
    lines += [f"  {text}" for text in deviations(presets)]
    lines.append("selection: best epoch by validation recall@20; test links scored once, after it")
    lines.append(f"commit: {commit() or 'not a git checkout'}; code {code_version()}")
    lines.append(f"hardware: {hardware(device)}")
    lines.append("versions: " + ", ".join(f"{name} {text}" for name, text in versions().items()))
    return "\n".join(lines)


def masking_rule(data: PreparedData) -> str:
    """Which links a ranking leaves out."""
    if data.split.val_known_at_test:
        return "all items but the user's train (and, at test time, validation) links"
    return (
        "all items but the user's train links, at test time too: validation links stay candidates "
        "and count as misses (MMRec's rule)"
    )


def deviations(presets: Mapping[str, Preset]) -> list[str]:
    """One line per model: its settings that are not the papers'."""
    return [
        f"{name}: {', '.join(preset.differences(PAPER[name])) or 'none'}"
        for name, preset in presets.items()
    ]


def footer(experiment: Experiment) -> str:
    """What to know when reading the table."""
    lines = []
    if experiment.test is not None:
        lines.append(f"paired test: {experiment.test}")
    seeds = ", ".join(str(seed) for seed in experiment.seeds)
    spread = "mean ± standard deviation over" if len(experiment.seeds) > 1 else "one run with"
    lines.append(f"values: {spread} seed{'s' if len(experiment.seeds) > 1 else ''} {seeds}")
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
            f"{PAPER_LABEL}: Table 2 of the AlignRec paper, for orientation, not comparable digit "
            "for digit"
        )
    lines += [f"not run: {name}: {reason}" for name, reason in experiment.not_run.items()]
    return "\n".join(lines)


def table_text(experiment: Experiment, *, bold: bool) -> str:
    """The table for a terminal."""
    return terminal_table(experiment.table, experiment.paper, bold=bold)


def write_results(experiment: Experiment, folder: Path, stem: str) -> list[Path]:
    """Writes ``<stem>.json``, ``.csv``, ``.md`` and, with matplotlib, ``.png`` into ``folder``.

    Each appears complete or not at all.

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
            write_chart(
                Path(temporary) / f"{stem}.png",
                experiment.title,
                experiment.table,
                experiment.paper,
            )
        for file in sorted(Path(temporary).iterdir()):
            written.append(file.replace(folder / file.name))
    return written


def chart_possible() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def _as_json(experiment: Experiment) -> dict[str, Any]:
    data = experiment.data
    test = experiment.test
    return {
        "title": experiment.title,
        "data": {
            "name": data.name,
            "report": _finite(asdict(data.report)),
            "split_rule": data.split_rule,
            "split": asdict(data.split),
            "ranking": masking_rule(data),
            "item_graphs": data.item_graphs,
        },
        "rows": [
            {
                "name": row.name,
                "seeds": list(row.seeds),
                "mean": dict(row.mean),
                "std": None if row.std is None else dict(row.std),
                "epochs": row.epochs,
                "best_epoch": row.best_epoch,
                "stopped_early": row.stopped_early,
                "seconds": row.seconds,
                "peak_bytes": row.peak_bytes,
                "parameters": row.num_parameters,
                "users": row.user.numel(),
            }
            for row in experiment.table
        ],
        "paired_test": None if test is None else _finite({**asdict(test), "text": str(test)}),
        "paper": {
            "label": PAPER_LABEL,
            "rows": {row.name: experiment.paper.get(row.name) for row in experiment.table},
        },
        "not_run": dict(experiment.not_run),
        "cells": [cell.summary() for cell in experiment.cells],
        "selection": "best epoch by validation recall@20",
        "metrics": list(METRICS),
        "seeds": list(experiment.seeds),
        "settings_unlike_the_papers": deviations(experiment.presets),
        "memory": memory_description(experiment.device),
        "commit": commit(),
        "code": code_version(),
        "hardware": hardware(experiment.device),
        "versions": versions(),
    }


def _as_markdown(experiment: Experiment) -> str:
    notes = "\n".join(f"- {line}" for line in footer(experiment).splitlines())
    about = header(experiment.data, experiment.presets, experiment.device)
    table = markdown_table(experiment.table, experiment.paper)
    return f"# {experiment.title}\n\n{table}\n\n{notes}\n\n```text\n{about}\n```\n"


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _finite(value: Any) -> Any:
    """The value with ``None`` for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
