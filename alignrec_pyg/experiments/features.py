"""Feature sets evaluated before any training: the three protocols, and the links they use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Literal

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import unknown_names
from alignrec_pyg.experiments.prepared_data import Scale
from alignrec_pyg.experiments.session import log
from alignrec_pyg.experiments.settings import SettingsError, errors_about
from alignrec_pyg.feature_eval import (
    CosineStatistics,
    FeatureRecall,
    ItemCFRecall,
    cosine_statistics,
    item_cf,
    mask_modality,
    zero_shot,
)
from alignrec_pyg.feature_eval.item_targets import Score
from alignrec_pyg.feature_eval.ranks import Similarity
from alignrec_pyg.feature_eval.user_targets import Ties
from alignrec_pyg.graph import INTERACTS, content_hash, feature_table, on_device
from alignrec_pyg.transforms import SplitInteractions
from alignrec_pyg.transforms.split_interactions import SplitRule

ZERO_SHOT = "zero-shot"
ITEM_CF = "item-CF"
ANY_TIED = "item-CF, any tied"
MASK = "mask"

Blocks = Mapping[str, Mapping[str, FeatureRecall]]
"""What was found, by protocol and feature set."""


@dataclass(frozen=True, kw_only=True)
class ProtocolData:
    """The links that the protocols use, and a description of them.

    The targets of zero-shot are the links to predict of ``held_out``, or without it each user's
    latest of ``links``.
    """

    links: HeteroData
    held_out: HeteroData | None
    about: Mapping[str, str]


def protocol_data(
    data: HeteroData,
    *,
    targets: Literal["time", "val", "test"] | None = None,
    links: Literal["all", "train"] = "all",
    split: SplitRule | None = None,
    val_from_train: float | None = None,
) -> ProtocolData:
    """Chooses the links that the protocols use.

    The targets of zero-shot are each user's latest link (``targets="time"``) or the links of a part
    of the split (default: ``"time"`` where times are known, else ``"val"``). The protocols use all
    links, as in the paper, or those of training.

    Raises:
        SettingsError: If the data lack what is asked for.
    """
    timed = "time" in data[INTERACTS]
    targets = targets or ("time" if timed else "val")
    if targets == "time" and not timed:
        raise SettingsError(["--targets time: the data has no times (val and test need none)"])
    train, held_out, about = data, None, "the latest link in time of each user"
    if links == "train" or targets != "time":
        rule: SplitRule = split or ("labels" if "split" in data[INTERACTS] else "random")
        with errors_about("--split"):
            train, val, test = SplitInteractions(rule, val_from_train=val_from_train)(data)
        if targets != "time":
            held_out = val if targets == "val" else test
            about = f"the {targets} links of the split '{rule}', with the train links as history"
    if targets == "time":
        about += f" (of {links} links)"
    return ProtocolData(
        links=data if links == "all" else train,
        held_out=held_out,
        about={"to find in zero-shot": about, "links of item-CF": f"{links} links"},
    )


@dataclass(frozen=True, kw_only=True)
class Protocols:
    """The three protocols, with an argument for everything that the paper leaves open.

    The fields are the options of ``alignrec features``, whose ``--help`` describes them.
    """

    ks: tuple[int, ...] = (10, 20, 50)
    similarity: Similarity = "cosine"
    exclude_history: bool = False
    ties: Ties = "last"
    feature_scale: Scale = "rows"
    normalize_items: bool = False
    score: Score = "cosine"
    min_common: int = 1
    mask_ratio: float = 0.5
    seed: int = 0

    def evaluate(
        self,
        data: ProtocolData,
        sets: Mapping[str, Sequence[str]],
        replacements: Mapping[tuple[str, str], str],
        device: torch.device | str,
    ) -> Blocks:
        """Recall by protocol and set; a set that cannot be masked has no entry for it.

        ``replacements`` names the table that replaces a set of one, by set and modality masked.

        Raises:
            SettingsError: If a protocol cannot run on the data.
        """
        links = on_device(data.links, device)
        users = links if data.held_out is None else on_device(data.held_out, device)
        find_users_items = partial(
            zero_shot,
            ks=self.ks,
            targets="time" if data.held_out is None else "labels",
            similarity=self.similarity,
            exclude_history=self.exclude_history,
            ties=self.ties,
            normalize_items=self.normalize_items,
            normalize_parts=self.feature_scale == "rows",
            seed=self.seed,
        )
        find_items_items = partial(
            item_cf,
            ks=self.ks,
            score=self.score,
            min_common=self.min_common,
            similarity=self.similarity,
            normalize_parts=self.feature_scale == "rows",
        )
        blocks: dict[str, dict[str, FeatureRecall]] = {}

        def run(block: str, name: str, protocol: Callable[..., FeatureRecall], *args: Any) -> None:
            start = perf_counter()
            with errors_about(f"{block} on {name}"):
                found = protocol(*args)
            seconds = perf_counter() - start
            k, recall = list(found.recall.items())[-1]
            log(f"{block} on {name}: recall@{k} {recall:.4f} ({seconds:.1f} s)")
            blocks.setdefault(block, {})[name] = found
            if isinstance(found, ItemCFRecall):
                blocks.setdefault(ANY_TIED, {})[name] = found.any_tied

        for name, parts in sets.items():
            run(ZERO_SHOT, name, find_users_items, users, parts)
        for name, parts in sets.items():
            masked: dict[str, tuple[str, str | None]] = {}
            if len(parts) > 1:
                masked = {part: (part, None) for part in parts}
            masked |= {m: (parts[0], t) for (of, m), t in replacements.items() if of == name}
            for modality, (table, replacement) in masked.items():
                protocol = partial(
                    mask_modality,
                    ratio=self.mask_ratio,
                    seed=self.seed,
                    replacement=replacement,
                    protocol=find_users_items,
                )
                block = f"{MASK} {100 * self.mask_ratio:g} % {modality}"
                run(block, name, protocol, users, parts, table)
        for name, parts in sets.items():
            run(ITEM_CF, name, find_items_items, links, parts)
        return blocks

    def __str__(self) -> str:
        told = {
            "similarity": self.similarity,
            "history": "no candidates" if self.exclude_history else "candidates",
            "equal times": self.ties,
            "rows of tables": "at length 1" if self.feature_scale == "rows" else "as stored",
            "rows of a history": "at length 1" if self.normalize_items else "as they are",
            "item-CF score": self.score,
            "common users": f"{self.min_common} or more",
            "masked": f"{100 * self.mask_ratio:g} %",
            "seed": self.seed,
        }
        return ", ".join(f"{name} {value}" for name, value in told.items())


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """One or more tables side by side."""

    tables: Sequence[str]
    normalize_parts: bool
    width: int
    cosine: CosineStatistics
    content_hash: str

    @classmethod
    def of(cls, data: HeteroData, tables: Sequence[str], *, normalize_parts: bool) -> FeatureSet:
        """Describes tables of ``data``."""
        rows = [feature_table(data, name) for name in tables]
        return cls(
            tables=tables,
            normalize_parts=normalize_parts,
            width=sum(table.size(1) for table in rows),
            cosine=cosine_statistics(data, tables, normalize_parts=normalize_parts),
            content_hash=content_hash(*rows),
        )


def reference_lines(found: Mapping[str, FeatureRecall]) -> dict[str, dict[int, float]]:
    """The lines that every feature set of a protocol is compared with."""
    recall = next(iter(found.values()))
    return {"(popularity)": recall.popularity, "(random)": recall.random}


def feature_sets(
    asked: Sequence[str],
    names: Sequence[str],
    replacements: Mapping[tuple[str, str], str],
    problems: list[str],
) -> dict[str, list[str]]:
    """Tables by name of the set, from entries ``"a+b"`` (default: each table, then all together).

    Tables of ``replacements`` are no sets by default. Mistakes are appended to ``problems``.
    """
    whole = [name for name in names if name not in replacements.values()]
    texts = asked or ([*whole, "+".join(whole)] if len(whole) > 1 else whole)
    if not texts:
        problems.append(
            "--data: it has no feature table (<name>.npy); alignrec encode makes some, and "
            "--tables NAME=FILE.npy names others"
        )
    sets = {text: text.split("+") for text in texts}
    for text, parts in sets.items():
        problems += unknown_names("feature", parts, names)
        if len(set(parts)) < len(parts):
            problems.append(f"--sets {text}: names a table twice")
    for name, modality in replacements:
        if name not in sets:
            problems.append(
                f"--replace {name}:{modality}: {name} is not among the sets to evaluate"
            )
    return sets


def replacement_tables(
    entries: Sequence[str], names: Sequence[str], problems: list[str]
) -> dict[tuple[str, str], str]:
    """Tables by set and modality that is masked, from entries ``SET:MODALITY=TABLE``."""
    found: dict[tuple[str, str], str] = {}
    for entry in entries:
        place, equals, table = entry.partition("=")
        of, colon, modality = place.partition(":")
        if not (equals and colon and of and modality and table):
            problems.append(f"--replace {entry}: needs the form SET:MODALITY=TABLE")
        elif "+" in of:
            problems.append(f"--replace {entry}: needs a set of one table")
        else:
            problems += unknown_names("feature", [of, table], names)
            found[of, modality] = table
    return found
