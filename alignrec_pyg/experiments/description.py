"""Data, split, ranking and settings of an experiment in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alignrec_pyg.experiments.prepared_data import PreparedData
from alignrec_pyg.experiments.settings import ModelSettings, published_settings

SELECTED_BY = "recall@20"
"""The validation metric by which epochs, configurations and the model to serve are chosen."""
SELECTION = f"best epoch by validation {SELECTED_BY}"


def header(data: PreparedData, out: Path) -> str:
    """Data, split, ranking and where everything else is written, a line each."""
    counts = data.source_report
    features = ", ".join(data.features) or "none"
    train, val, test = (f"{part.interactions:,}" for part in data.split.parts)
    return "\n".join(
        [
            f"data: {data.name}, {counts.users:,} users, {counts.items:,} items, "
            f"{counts.interactions:,} interactions; features: {features}",
            f"split: {split_rule(data)}, {train} training, {val} validation, {test} test links",
            f"ranking: {masking_rule(data)}; {SELECTION}",
            f"settings: written with the results in {out}",
        ]
    )


def description(
    data: PreparedData, models: Mapping[str, ModelSettings], *, one_split: bool = True
) -> str:
    """Everything that the figures depend on: data with its hashes, split, item graphs, settings."""
    lines = [f"data: {data.name}", *_indented(str(data.report))]
    if data.features:
        scale = "scaled to length 1" if data.scale == "rows" else "as they are stored"
        lines.append(f"feature rows: {scale}, for all models")
    if one_split:
        lines += split_text(data).splitlines()
    lines += [f"weights in '{name}': {weights}" for name, weights in data.fused_weights.items()]
    lines += [f"item graph '{name}': {text}" for name, text in data.item_graphs.items()]
    lines.append(
        "settings that differ from the published ones (those for this data set where a paper names "
        "them, else its defaults), the published one in brackets:"
    )
    complete = {name: settings.completed(data.train) for name, settings in models.items()}
    lines += [f"  {text}" for text in deviations(complete, data.name)]
    lines.append(f"selection: {SELECTION}; test links choose nothing")
    return "\n".join(lines)


def split_text(data: PreparedData) -> str:
    """The split and which items a ranking leaves out."""
    lines = [f"split: {split_rule(data)}", *_indented(str(data.split))]
    return "\n".join([*lines, f"ranking: {masking_rule(data)}"])


def split_rule(data: PreparedData) -> str:
    """The rule of the split, and where its validation part is from."""
    if data.val_from_train is None:
        return data.split_rule
    return f"{data.split_rule}, validation: {data.val_from_train:g} of the training links"


def masking_rule(data: PreparedData) -> str:
    """Which items a ranking leaves out."""
    if data.exclude_known_pairs:
        return (
            "all items but the user's training links and, at test time, known pairs and validation "
            "links"
        )
    if data.split.val_known_at_test:
        return "all items but the user's training and, at test time, validation links"
    return "all items but the user's training links; at test time validation links count as misses"


def deviations(models: Mapping[str, ModelSettings], data_name: str) -> list[str]:
    """One line per model: its settings that are not the published ones."""
    found = {
        name: settings.differences(published_settings(settings.model, data_name))
        for name, settings in models.items()
    }
    return [f"{name}: {', '.join(differences) or 'none'}" for name, differences in found.items()]


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]
