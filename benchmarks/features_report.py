"""What training-free evaluation of features says: tables, the best set, files and a picture."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments.charts import chart_problem, write_scatter
from alignrec_pyg.experiments.paper import PAPER_LABEL, ProtocolResults
from alignrec_pyg.experiments.results import remove_results
from alignrec_pyg.feature_eval import (
    CosineStatistics,
    FeatureRecall,
    bootstrap_difference,
    bootstrap_interval,
)
from alignrec_pyg.feature_eval.feature_rows import FeatureRows, unit_length
from alignrec_pyg.graph import INTERACTS

KS = (10, 20, 50)

ZERO_SHOT = "zero-shot"
ITEM_CF = "item-CF"
ANY_TIED = "item-CF, any tied"

Blocks = Mapping[str, Mapping[str, FeatureRecall]]
"""What was found, by protocol and feature set."""

_STEM = "features"
_JUDGED_AT = 20
_SAMPLE = 2000
_MASK = "mask"


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """One or more tables side by side.

    Args:
        tables: Their names.
        normalize_parts: Whether the rows of each have length 1.
        width: Width of a row.
        cosine: How alike the rows are.
        content_hash: Of the tables.
    """

    tables: Sequence[str]
    normalize_parts: bool
    width: int
    cosine: CosineStatistics
    content_hash: str


@dataclass(frozen=True, kw_only=True)
class FeaturesReport:
    """Evaluated feature sets.

    Args:
        blocks: What was found.
        sets: The feature sets.
        paper: Published recall by protocol, features and cut-off, where comparable.
        about: Data, options, machine and versions.
        source: What was read.
    """

    blocks: Blocks
    sets: Mapping[str, FeatureSet]
    paper: ProtocolResults
    about: Mapping[str, str | None]
    source: str


def recall_table(report: FeaturesReport) -> list[str]:
    """Recall with intervals in Markdown, a row per protocol and set, the best of them in bold.

    Below them the popularity and random lines (masking has those of zero-shot) and the paper's.
    """
    lines = [
        f"| protocol | features | {' | '.join(f'recall@{k}' for k in KS)} |",
        f"| --- | --- |{' ---: |' * len(KS)}",
    ]
    for block, found in report.blocks.items():
        best = {k: max(recall.hits(k).mean() for recall in found.values()) for k in KS}
        rows = []
        for name, recall in found.items():
            cells = []
            for k in KS:
                text = _with_interval(recall, k)
                is_best = len(found) > 1 and recall.hits(k).mean() == best[k]
                cells.append(f"**{text}**" if is_best else text)
            rows.append((name, cells))
        if not block.startswith(_MASK):
            scale = next(iter(found.values()))
            for name, values in (("popularity", scale.popularity), ("random", scale.random)):
                rows.append((f"({name})", [f"{values[k]:.4f}" for k in KS]))
        for name, published in report.paper.get(block, {}).items():
            rows.append((f"{PAPER_LABEL}: {name}", [f"{published[k]:.4f}" for k in KS]))
        lines += [f"| {block} | {name} | {' | '.join(cells)} |" for name, cells in rows]
    return lines


def sets_table(report: FeaturesReport) -> list[str]:
    """The feature sets in Markdown: size, and mean and spread of the cosine of two rows."""
    lines = [
        "| features | width | items without | cosine mean | cosine std | hash |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, told in report.sets.items():
        lines.append(
            f"| {name} | {told.width:,} | {told.cosine.num_missing:,} | {told.cosine.mean:.4f} | "
            f"{told.cosine.std:.4f} | {told.content_hash} |"
        )
    return lines


def notes(report: FeaturesReport) -> list[str]:
    """What to know when reading the tables."""
    zero_shot = next(iter(report.blocks[ZERO_SHOT].values()))
    pairs = next(iter(report.blocks[ANY_TIED].values()))
    tied = int((torch.bincount(pairs.row) > 1).sum())
    lines = [
        choice(report.blocks[ZERO_SHOT]),
        *_losses(report.blocks),
        "in brackets: 95 % percentile bootstrap over users (zero-shot, mask) or items (item-CF), "
        "10,000 resamples, seed 0",
        f"zero-shot and mask: {zero_shot.num_queries:,} users; random and popularity lines of one "
        "are those of the other",
        f"item-CF: {pairs.num_queries:,} items; {tied:,} have several items of the highest score, "
        "of which 'any tied' takes any",
    ]
    for block, found in report.blocks.items():
        lines += [
            f"{block} on {name}: {recall.num_unranked:,} without features, which find nothing"
            for name, recall in found.items()
            if recall.num_unranked
        ]
    if report.paper.keys() & report.blocks.keys():
        lines.append(
            "paper: Table 3 of the AlignRec paper, whose protocols leave choices open; for "
            "orientation"
        )
    return lines + [f"{name}: {value}" for name, value in report.about.items()]


def choice(found: Mapping[str, FeatureRecall]) -> str:
    """The best set by zero-shot recall@20, and how sure it is that it beats the second."""
    ordered = sorted(found, key=lambda name: -found[name].recall[_JUDGED_AT])  # stable
    first = ordered[0]
    text = f"best set by {ZERO_SHOT} recall@{_JUDGED_AT}: {first}"
    if len(ordered) == 1:
        return f"{text} (the only one)"
    second = ordered[1]
    difference = bootstrap_difference(found[first], found[second], _JUDGED_AT)
    sure = difference.low > 0
    return (
        f"{text}; against {second}, the second: {difference.mean:+.4f} per user (95 % interval "
        f"{difference.low:+.4f} to {difference.high:+.4f}, paired bootstrap over "
        f"{difference.num_values:,} users), "
        + ("so these users tell them apart" if sure else "so these users do not tell them apart")
    )


def _losses(blocks: Blocks) -> Iterator[str]:
    """What masking changes, user by user."""
    for block, found in blocks.items():
        if block.startswith(_MASK):
            for name, recall in found.items():
                change = bootstrap_difference(recall, blocks[ZERO_SHOT][name], _JUDGED_AT)
                yield (
                    f"{block} on {name}: {change.mean:+.4f} recall@{_JUDGED_AT} against all of its "
                    f"features (95 % interval {change.low:+.4f} to {change.high:+.4f})"
                )


def write(
    report: FeaturesReport, folder: Path, maps: Mapping[str, tuple[Tensor, Tensor]]
) -> list[Path]:
    """Writes ``features.md``, ``.csv``, ``.json`` and, with matplotlib, ``.png``: each complete.

    A picture of earlier results goes where there is no new one.

    Args:
        report: What to write.
        folder: Where; it exists.
        maps: Points ``[n, 2]`` and colours ``[n]`` of each set's picture; none without matplotlib.

    Returns:
        The files written.
    """
    title = f"Features judged before training ({report.about['data']})"
    text = [f"# {title}", "", *recall_table(report), "", *sets_table(report), ""]
    text += [*(f"- {note}" for note in notes(report)), "", "```text", report.source, "```"]
    texts = {
        ".md": "\n".join(text) + "\n",
        ".csv": _csv(report),
        ".json": json.dumps(_as_json(report), indent=2, allow_nan=False) + "\n",
    }
    with tempfile.TemporaryDirectory(prefix=f".{_STEM}", dir=folder) as temporary:
        for suffix, content in texts.items():
            (Path(temporary) / f"{_STEM}{suffix}").write_text(content, encoding="utf-8")
        if maps:
            write_scatter(Path(temporary) / f"{_STEM}.png", title, maps, "links of the item")
        written = [file.replace(folder / file.name) for file in sorted(Path(temporary).iterdir())]
    remove_results(folder, _STEM, kept=written)
    return written


def feature_maps(
    data: HeteroData, sets: Mapping[str, FeatureSet], sample: int = _SAMPLE
) -> dict[str, tuple[Tensor, Tensor]]:
    """A t-SNE of each set's rows at length 1, with the number of links of each item.

    All sets show the same items, at most ``sample`` drawn with seed 0, but for those without
    features. Empty without matplotlib.
    """
    if chart_problem() is not None:
        return {}
    from sklearn.manifold import TSNE

    maps = {}
    for name, told in sets.items():
        rows = FeatureRows(data, told.tables, normalize_parts=told.normalize_parts)
        links = torch.bincount(data[INTERACTS].edge_index[1], minlength=rows.num_items)
        drawn = torch.randperm(rows.num_items, generator=torch.Generator().manual_seed(0))[:sample]
        unit = unit_length(rows[drawn])
        present = unit.any(dim=1)
        unit, drawn = unit[present], drawn[present]
        perplexity = min(30.0, (drawn.numel() - 1) / 3)
        map_of = TSNE(random_state=0, init="pca", perplexity=perplexity)
        maps[name] = torch.from_numpy(map_of.fit_transform(unit.float().numpy())), links[drawn]
    return maps


def _with_interval(recall: FeatureRecall, k: int) -> str:
    interval = bootstrap_interval(recall.hits(k))
    return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _csv(report: FeaturesReport) -> str:
    """Unrounded values, a line per protocol and set, then the lines of scale and the paper's."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [f"recall@{k}{end}" for k in KS for end in ("", " low", " high")]
    writer.writerow(["protocol", "features", "source", "queries", *columns])
    for block, found in report.blocks.items():
        for name, recall in found.items():
            values: list[float | None] = []
            for k in KS:
                interval = bootstrap_interval(recall.hits(k))
                values += [interval.mean, interval.low, interval.high]
            writer.writerow([block, name, "this run", recall.num_queries, *values])
        scale = next(iter(found.values()))
        for name, line in (("popularity", scale.popularity), ("random", scale.random)):
            values = [value for k in KS for value in (line[k], None, None)]
            writer.writerow([block, name, "this run", scale.num_queries, *values])
        for name, published in report.paper.get(block, {}).items():
            values = [value for k in KS for value in (published[k], None, None)]
            writer.writerow([block, name, PAPER_LABEL, None, *values])
    return buffer.getvalue()


def _as_json(report: FeaturesReport) -> dict[str, object]:
    return {
        **report.about,
        "source": report.source,
        "best": choice(report.blocks[ZERO_SHOT]),
        "sets": {
            name: {
                **asdict(told),
                "cosine": {k: _finite(v) for k, v in asdict(told.cosine).items()},
            }
            for name, told in report.sets.items()
        },
        "protocols": {
            block: {
                name: {
                    "queries": recall.num_queries,
                    "without_features": recall.num_unranked,
                    "recall": {k: asdict(bootstrap_interval(recall.hits(k))) for k in KS},
                    "popularity": recall.popularity,
                    "random": recall.random,
                }
                for name, recall in found.items()
            }
            for block, found in report.blocks.items()
        },
        "paper": {"label": PAPER_LABEL, "protocols": report.paper},
        "notes": notes(report),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
