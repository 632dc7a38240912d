"""Report on the training-free evaluation of features: tables, the best set, files, a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments.charts import chart_problem, project, write_scatter
from alignrec_pyg.experiments.features import (
    ANY_TIED,
    MASK,
    ZERO_SHOT,
    Blocks,
    FeatureSet,
    reference_lines,
)
from alignrec_pyg.experiments.paper import PAPER_LABEL, ProtocolResults
from alignrec_pyg.experiments.results import json_values, write_files
from alignrec_pyg.feature_eval import FeatureRecall, bootstrap_difference, bootstrap_interval
from alignrec_pyg.feature_eval.feature_rows import FeatureRows, unit_length
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.text_tables import Bold, csv_table, markdown_table

Maps = Callable[[Mapping[str, FeatureSet]], dict[str, tuple[Tensor, Tensor]]]
"""A function from feature sets to points and the links of their items, by name of the set."""

_STEM = "features"
_JUDGED_AT = 20
_SAMPLE = 2000


@dataclass(frozen=True, kw_only=True)
class FeaturesReport:
    """Evaluated feature sets, with published recall where it is comparable."""

    blocks: Blocks
    sets: Mapping[str, FeatureSet]
    paper: ProtocolResults
    about: Mapping[str, str | None]
    source: str

    @property
    def ks(self) -> tuple[int, ...]:
        """Cut-offs of recall."""
        return next(iter(self.blocks[ZERO_SHOT].values())).ks

    def recall_rows(self) -> list[list[str]]:
        """Recall with intervals, a row per protocol and set, the best of them in bold.

        Below them the popularity and random lines (masking has those of zero-shot) and the paper's.
        """
        rows = [["protocol", "features", *(f"recall@{k}" for k in self.ks)]]
        for block, found in self.blocks.items():
            best = {k: max(recall.hits(k).mean() for recall in found.values()) for k in self.ks}
            for name, recall in found.items():
                cells = [_with_interval(recall, k) for k in self.ks]
                if len(found) > 1:
                    cells = [
                        Bold(cell) if recall.hits(k).mean() == best[k] else cell
                        for k, cell in zip(self.ks, cells, strict=True)
                    ]
                rows.append([block, name, *cells])
            lines = {} if block.startswith(MASK) else reference_lines(found)
            lines |= {f"{PAPER_LABEL}: {n}": dict(v) for n, v in self.paper.get(block, {}).items()}
            rows += [
                [block, n, *(f"{v[k]:.4f}" if k in v else "" for k in self.ks)]
                for n, v in lines.items()
            ]
        return rows

    def set_rows(self) -> list[list[str]]:
        """The feature sets: size, and mean and deviation of the cosine of two rows."""
        rows = [["features", "width", "items without", "cosine mean", "cosine std", "hash"]]
        for name, told in self.sets.items():
            cosine = told.cosine
            figures = [f"{cosine.num_missing:,}", f"{cosine.mean:.4f}", f"{cosine.std:.4f}"]
            rows.append([name, f"{told.width:,}", *figures, told.content_hash])
        return rows

    def notes(self) -> list[str]:
        """What to know when reading the tables."""
        zero_shot = next(iter(self.blocks[ZERO_SHOT].values()))
        pairs = next(iter(self.blocks[ANY_TIED].values()))
        tied = int((torch.bincount(pairs.row) > 1).sum())
        lines = [
            choice(self.blocks[ZERO_SHOT]),
            *_losses(self.blocks),
            "in brackets: 95 % percentile bootstrap over users (zero-shot, mask) or items "
            "(item-CF), 10,000 resamples, seed 0",
            f"zero-shot and mask: {zero_shot.num_queries:,} users; random and popularity lines of "
            "one are those of the other",
            f"item-CF: {pairs.num_queries:,} items; {tied:,} have several items of the highest "
            "score, of which 'any tied' takes any",
        ]
        for block, found in self.blocks.items():
            lines += [
                f"{block} on {name}: {recall.num_unranked:,} without features, which find nothing"
                for name, recall in found.items()
                if recall.num_unranked
            ]
        if self.paper.keys() & self.blocks.keys():
            lines.append(
                "paper: Table 3 of the AlignRec paper, whose protocols leave choices open; for "
                "orientation"
            )
        return lines + [f"{name}: {value}" for name, value in self.about.items()]

    def write(self, folder: Path, maps: Maps | None) -> Iterator[list[Path]]:
        """Writes ``features.md``, ``.csv`` and ``.json``, then computes and draws the maps.

        Yields:
            The files written, and once more where there are maps, ``features.png`` among them.
        """
        title = f"Features evaluated before training ({self.about['data']})"
        parts = [
            f"# {title}",
            markdown_table(self.recall_rows(), left=(0, 1)),
            markdown_table(self.set_rows(), left=(0, 5)),
            "\n".join(f"- {note}" for note in self.notes()),
            f"```text\n{self.source}\n```",
        ]
        texts = {
            ".md": "\n\n".join(parts) + "\n",
            ".csv": csv_table(self._csv_rows()),
        }

        facts = self._as_json()
        yield write_files(folder, _STEM, facts, texts)
        drawn = {} if maps is None else maps(self.sets)
        if drawn:
            draw = partial(
                write_scatter, title=title, panels=drawn, colour_label="links of the item"
            )
            yield write_files(folder, _STEM, facts, texts, draw)

    def _csv_rows(self) -> Iterator[Sequence[object]]:
        """Unrounded values, a row per protocol and set, then the lines of scale and the paper's."""
        columns = [f"recall@{k}{end}" for k in self.ks for end in ("", " low", " high")]
        yield ["protocol", "features", "source", "queries", *columns]
        for block, found in self.blocks.items():
            for name, recall in found.items():
                intervals = [bootstrap_interval(recall.hits(k)) for k in self.ks]
                values = [value for i in intervals for value in (i.mean, i.low, i.high)]
                yield [block, name, "this run", recall.num_queries, *values]
            queries = next(iter(found.values())).num_queries
            for name, line in reference_lines(found).items():
                yield [block, name.strip("()"), "this run", queries, *self._without_intervals(line)]
            for name, published in self.paper.get(block, {}).items():
                yield [block, name, PAPER_LABEL, None, *self._without_intervals(published)]

    def _without_intervals(self, line: Mapping[int, float]) -> list[float | None]:
        return [value for k in self.ks for value in (line.get(k), None, None)]

    def _as_json(self) -> dict[str, object]:
        return {
            **self.about,
            "source": self.source,
            "best": choice(self.blocks[ZERO_SHOT]),
            "sets": {name: json_values(asdict(told)) for name, told in self.sets.items()},
            "protocols": {
                block: {
                    name: {
                        "queries": recall.num_queries,
                        "without_features": recall.num_unranked,
                        "recall": {k: asdict(bootstrap_interval(recall.hits(k))) for k in self.ks},
                        "popularity": recall.popularity,
                        "random": recall.random,
                    }
                    for name, recall in found.items()
                }
                for block, found in self.blocks.items()
            },
            "paper": {"label": PAPER_LABEL, "protocols": self.paper},
            "notes": self.notes(),
        }


def choice(found: Mapping[str, FeatureRecall]) -> str:
    """The best set by zero-shot recall@20, and whether it is significantly ahead of the second."""
    ordered = sorted(found, key=lambda name: -found[name].hits(_JUDGED_AT).mean())  # stable
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


def feature_maps(
    data: HeteroData, sets: Mapping[str, FeatureSet], sample: int = _SAMPLE
) -> dict[str, tuple[Tensor, Tensor]]:
    """A t-SNE of each set's rows at length 1, with the number of links of each item.

    All sets show the same items, at most ``sample`` drawn with seed 0, but for those without
    features. Empty without matplotlib.
    """
    if chart_problem() is not None:
        return {}
    maps = {}
    for name, told in sets.items():
        rows = FeatureRows(data, told.tables, normalize_parts=told.normalize_parts)
        links = torch.bincount(data[INTERACTS].edge_index[1], minlength=rows.num_items)
        drawn = torch.randperm(rows.num_items, generator=torch.Generator().manual_seed(0))[:sample]
        unit = unit_length(rows[drawn])
        present = unit.any(dim=1)
        unit, drawn = unit[present], drawn[present]
        maps[name] = torch.from_numpy(project(unit.float().numpy())), links[drawn]
    return maps


def _losses(blocks: Blocks) -> Iterator[str]:
    """What masking changes, user by user."""
    for block, found in blocks.items():
        if block.startswith(MASK):
            for name, recall in found.items():
                change = bootstrap_difference(recall, blocks[ZERO_SHOT][name], _JUDGED_AT)
                yield (
                    f"{block} on {name}: {change.mean:+.4f} recall@{_JUDGED_AT} against all of its "
                    f"features (95 % interval {change.low:+.4f} to {change.high:+.4f})"
                )


def _with_interval(recall: FeatureRecall, k: int) -> str:
    interval = bootstrap_interval(recall.hits(k))
    return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
