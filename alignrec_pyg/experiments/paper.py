"""Figures of the AlignRec paper (CIKM 2024, https://arxiv.org/abs/2403.12384), for orientation.

Test metrics at the best validation recall@20, with the paper's own features and split, as they
stand in ``paper.csv``, a line per row of a table. Most baseline columns of Table 2 equal those of
earlier papers; do not take them for one code base's output. Every function gives figures by row and
metric, and none for data that is not the paper's.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from alignrec_pyg.report import DataReport

PaperResults = Mapping[str, Mapping[str, float]]

ProtocolResults = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Recall by protocol, features and cut-off."""

PAPER_LABEL = "paper (its own features and split)"

PAPER_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")

_SIZES = {
    "baby": (19_445, 7_050, 160_792),
    "sports": (35_598, 18_357, 296_337),
    "elec": (192_403, 63_001, 1_689_188),
}
"""Users, items and interactions of the paper's data sets (its Table 1)."""


def table_2(data_name: str, report: DataReport) -> PaperResults:
    """All models."""
    return _by_row("2", data_name, report)


def table_3(data_name: str, report: DataReport) -> ProtocolResults:
    """Features evaluated without training; vision is the modality ``"image"``."""
    found: dict[str, dict[str, Mapping[int, float]]] = {}
    for line in _lines("3", data_name, report):
        recall = {k: float(line[f"recall@{k}"]) for k in (10, 20, 50)}
        found.setdefault(line["row"], {})[f"{line['features']} features"] = recall
    return found


def table_4(data_name: str, report: DataReport) -> list[str]:
    """Feature sets swapped, one line per row: they are no rows of ours.

    Memory saved is against Amazon's features; which memory is not said.
    """
    return [
        f"paper's Table 4, {line['row']} on {line['features']} features: "
        + ", ".join(f"{metric} {line[metric]}" for metric in PAPER_METRICS)
        + (f", memory saved {line['memory saved %']} %" if line["memory saved %"] else "")
        for line in _lines("4", data_name, report)
    ]


def table_5(data_name: str, report: DataReport) -> PaperResults:
    """Without vision: rows ``"<model>"`` and ``"<model> w/o image"``."""
    return _by_row("5", data_name, report)


def table_8(data_name: str, report: DataReport) -> PaperResults:
    """AlignRec without one of its parts: @10 of Table 6, one run, @20 of Table 8, means of 5."""
    return _by_row("8", data_name, report)


def _by_row(table: str, data_name: str, report: DataReport) -> PaperResults:
    return {
        line["row"]: {metric: float(line[metric]) for metric in PAPER_METRICS}
        for line in _lines(table, data_name, report)
    }


def _lines(table: str, data_name: str, report: DataReport) -> list[dict[str, str]]:
    """The lines of a table for data with both the name and the size of one of the paper's."""
    if _SIZES.get(data_name) != (report.users, report.items, report.interactions):
        return []
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return [
            line
            for line in csv.DictReader(file)
            if (line["table"], line["data"]) == (table, data_name)
        ]
