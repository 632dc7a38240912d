"""What the models cost as text, files and a picture, with the paper's figures where they fit."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from alignrec_pyg.experiments.charts import write_bars
from alignrec_pyg.experiments.paper import TABLE_9
from alignrec_pyg.experiments.results import chart_possible, remove_results

Costs = Mapping[str, float | None]
"""Values by the keys of :data:`COLUMNS`; no memory where it is not measured."""

COLUMNS = {
    "parameters": "parameters",
    "set-up": "set-up s",
    "epoch": "epoch s",
    "graphs": "inference graphs s",
    "propagation": "propagation s",
    "scoring": "scoring s",
    "metrics": "metrics s",
    "memory": "peak MB",
}

_STEM = "cost"
_FUSED_WIDTH = 768
_SEPARATE_WIDTHS = (384, 4096)
_CORRECTED = ("MMGCN", "GRCN", "DualGNN")


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """Measured models.

    Args:
        models: Their costs.
        widths: Widths of the feature tables.
        paper_data: The paper's data set whose links these are, or have the shape of, if any.
        made_up: Whether the links are made up.
        about: Data, machine and versions.
    """

    models: Mapping[str, Costs]
    widths: Mapping[str, int]
    paper_data: str | None
    made_up: bool
    about: Mapping[str, object]


def table(report: CostReport) -> list[str]:
    """A Markdown table, a row per model."""
    return [
        f"| model | {' | '.join(COLUMNS.values())} |",
        f"| --- |{' ---: |' * len(COLUMNS)}",
        *(
            f"| {name} | {' | '.join(cost_text(costs, key) for key in COLUMNS)} |"
            for name, costs in report.models.items()
        ),
    ]


def notes(report: CostReport) -> list[str]:
    """What to know when reading the table."""
    lines = [f"{name}: {value}" for name, value in report.about.items()]
    lines.append(
        "each model in a process of its own; one epoch; inference is over the test links, its "
        "parts medians of three (the graphs are made once; differences of times may be negative)"
    )
    corrected = [name for name in _CORRECTED if name in report.models]
    if corrected:
        lines.append(
            f"{', '.join(corrected)}: as the paper of each intends, not as the published code"
        )
    return [*lines, *_paper_notes(report)]


def write(report: CostReport, folder: Path) -> list[Path]:
    """Writes ``cost.md``, ``.csv``, ``.json`` and, with matplotlib, ``.png``: each complete.

    A picture of earlier results goes where there is no new one.

    Args:
        report: What to write.
        folder: Where; it exists.

    Returns:
        The files written.
    """
    text = ["# What the models cost", "", *table(report), "", *(f"- {n}" for n in notes(report))]
    paper = {name: dict(zip(_PUBLISHED, f, strict=True)) for name, f in published(report).items()}
    content = {**report.about, "widths": report.widths, "models": report.models, "paper": paper}
    texts = {
        ".md": "\n".join(text) + "\n",
        ".csv": _csv(report),
        ".json": json.dumps(content, indent=2, allow_nan=False) + "\n",
    }
    with tempfile.TemporaryDirectory(prefix=f".{_STEM}", dir=folder) as temporary:
        for suffix, content_text in texts.items():
            (Path(temporary) / f"{_STEM}{suffix}").write_text(content_text, encoding="utf-8")
        if chart_possible():
            write_bars(
                Path(temporary) / f"{_STEM}.png",
                f"What the models cost: {report.about['data']}",
                {
                    title: {
                        name: value
                        for name, costs in report.models.items()
                        if (value := costs[key]) is not None
                    }
                    for key, title in (
                        ("epoch", "seconds per epoch"),
                        ("memory", "peak memory, MB"),
                    )
                },
            )
        written = [file.replace(folder / file.name) for file in sorted(Path(temporary).iterdir())]
    remove_results(folder, _STEM, kept=written)
    return written


def cost_text(costs: Costs, key: str) -> str:
    """One value, rounded."""
    value = costs[key]
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if key in ("parameters", "memory") else f"{value:.2f}"


_PUBLISHED = ("million parameters", "inference seconds, hardware unstated")


def published(report: CostReport) -> dict[str, tuple[float, float]]:
    """The paper's figures of the models that ran on data and features of its sizes."""
    figures = TABLE_9.get(report.paper_data or "", {})
    return {
        name: figures[name]
        for name in report.models
        if name in figures and _has_papers_width(name, report.widths)
    }


def _has_papers_width(model: str, widths: Mapping[str, int]) -> bool:
    """Whether features are as wide as the paper's: AlignRec's fused, of the others separate."""
    if model == "AlignRec":
        return sum(widths.values()) == _FUSED_WIDTH
    return tuple(sorted(widths.values())) == _SEPARATE_WIDTHS


def _paper_notes(report: CostReport) -> Iterator[str]:
    figures = TABLE_9.get(report.paper_data or "", {})
    shown = published(report)
    if shown:
        source = f"paper (Table 9, {str(report.paper_data).capitalize()}"
        source += "; links here are made up, of its shape)" if report.made_up else ")"
        counts = ", ".join(f"{name} {count:.2f}" for name, (count, _) in shown.items())
        seconds = ", ".join(f"{name} {time:.2f}" for name, (_, time) in shown.items())
        yield f"{source}, million parameters: {counts}"
        yield f"{source}, seconds of inference over the test set, hardware unstated: {seconds}"
    if {"BM3", "MGCN"} & shown.keys():
        yield "the paper's counts of BM3 and MGCN differ from what their published code allocates"
    left_out = [name for name in report.models if name in figures and name not in shown]
    if left_out:
        yield (
            f"no figures of the paper for {', '.join(left_out)}: its features are of other widths "
            f"({_FUSED_WIDTH} in all for AlignRec, 4096 and 384 for the others)"
        )


def _csv(report: CostReport) -> str:
    """Unrounded values, a line per model; empty where there is none."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["model", *COLUMNS.values()])
    for name, costs in report.models.items():
        writer.writerow([name, *(costs[key] for key in COLUMNS)])
    return buffer.getvalue()
