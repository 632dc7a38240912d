"""Reports on data and splits: sizes, cold users and items, features, and notes on the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from textwrap import indent

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    USER,
    all_links,
    content_hash,
    feature_mask,
    feature_names,
    feature_table,
    known_pairs,
    links_to_predict,
)
from alignrec_pyg.text_tables import aligned_table

SPLIT_NAMES = ("train", "val", "test")
"""Names of the labels 0, 1, 2 in ``data["user", "interacts", "item"].split``."""

_PAIRS = 4096
_PAIR_BLOCK = 512


@dataclass(frozen=True)
class FeatureReport:
    """Report on a feature table of items.

    Args:
        name: The table is ``data["item"].x_<name>``.
        shape: Number of items and width.
        dtype: Element type of the source, before the cast to float32.
        missing: Number of items without the feature.
        content_hash: Hash of the float32 table.
        cosine_mean: Mean cosine of two different items with the feature, over a seeded sample of
            pairs (over all pairs if there are few); NaN with fewer than two such items.
        cosine_std: Standard deviation of the same cosines.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    missing: int
    content_hash: str
    cosine_mean: float
    cosine_std: float


@dataclass(frozen=True)
class PartReport:
    """Report on one part of a split.

    Args:
        name: ``"train"``, ``"val"`` or ``"test"``.
        interactions: Number of links.
        users: Number of distinct users.
        items: Number of distinct items.
        cold_users: Number of these users without training links.
        cold_items: Number of these items without training links.
        in_train: Number of links that are also training links (0 for the training part).
    """

    name: str
    interactions: int
    users: int
    items: int
    cold_users: int
    cold_items: int
    in_train: int


@dataclass(frozen=True)
class DataReport:
    """Report on the data in a :class:`~torch_geometric.data.HeteroData`.

    Args:
        users: Number of users.
        items: Number of items.
        interactions: Number of distinct links.
        sparsity: :math:`1 - |E| / (|U| |I|)`.
        duplicates: Number of repeated links that were removed.
        users_without_links: Number of users without links.
        items_without_links: Number of items without links.
        features: One report per feature table.
        parts: One report per split label; empty without labels.
        notes: Notes on data that were accepted with reservations, changed or ignored.
        known_pairs: Number of pairs that users have had but that are no links, such as low ratings.
    """

    users: int
    items: int
    interactions: int
    sparsity: float
    duplicates: int
    users_without_links: int
    items_without_links: int
    features: tuple[FeatureReport, ...]
    parts: tuple[PartReport, ...]
    notes: tuple[str, ...]
    known_pairs: int = 0

    def __str__(self) -> str:
        """The report as aligned text."""
        lines = aligned_table(
            [
                ["users", f"{self.users:,}"],
                ["items", f"{self.items:,}"],
                ["interactions", f"{self.interactions:,}"],
                *([["known pairs", f"{self.known_pairs:,}"]] if self.known_pairs else []),
                ["sparsity", f"{self.sparsity:.4%}"],
                ["duplicates dropped", f"{self.duplicates:,}"],
                ["users without links", f"{self.users_without_links:,}"],
                ["items without links", f"{self.items_without_links:,}"],
            ]
        ).splitlines()
        if self.parts:
            lines += ["split labels:", indent(_part_table(self.parts), "  ")]
        if self.features:
            lines += ["features:", indent(_feature_table(self.features), "  ")]
        if self.notes:
            lines += ["notes:", *(f"  - {note}" for note in self.notes)]
        return "\n".join(lines)


@dataclass(frozen=True)
class SplitReport:
    """Report on a split into training, validation and test links.

    Args:
        parts: Training, validation and test part, in this order.
        val_known_at_test: Whether validation links are among the known links of the test part
            (and therefore excluded from its rankings).
        fingerprint: Hash of the sizes and the three sets of links, independent of their order.
    """

    parts: tuple[PartReport, PartReport, PartReport]
    val_known_at_test: bool
    fingerprint: str

    def __str__(self) -> str:
        """The report as aligned text."""
        known = "train and val" if self.val_known_at_test else "train"
        return "\n".join(
            [
                _part_table(self.parts),
                f"known at test: {known} links",
                f"fingerprint: {self.fingerprint}",
            ]
        )


def describe(
    data: HeteroData,
    *,
    duplicates: int = 0,
    notes: Sequence[str] = (),
    dtypes: Mapping[str, str] | None = None,
    seed: int = 0,
) -> DataReport:
    """Creates a report on ``data``.

    Args:
        data: The graph, as described in :mod:`alignrec_pyg.graph`.
        duplicates: Number of repeated links that were removed.
        notes: Notes on the data.
        dtypes: Element type of the source of each feature table; by default, that of the table.
        seed: Seed of the sample of pairs for the cosines.
    """
    num_users, num_items = _sizes(data)
    edge_index = data[INTERACTS].edge_index.cpu()
    user, item = edge_index.numpy()
    parts: list[PartReport] = []
    if "split" in data[INTERACTS]:
        label = data[INTERACTS].split.cpu().numpy()
        train = edge_index[:, label == 0]
        for code, name in enumerate(SPLIT_NAMES):
            parts.append(_part(name, edge_index[:, label == code], train, num_items))
    return DataReport(
        users=num_users,
        items=num_items,
        interactions=edge_index.size(1),
        sparsity=1.0 - edge_index.size(1) / (num_users * num_items),
        duplicates=duplicates,
        users_without_links=_untouched(user, num_users),
        items_without_links=_untouched(item, num_items),
        features=tuple(
            _feature(data, name, (dtypes or {}).get(name), seed) for name in feature_names(data)
        ),
        parts=tuple(parts),
        notes=tuple(notes),
        known_pairs=known_pairs(data).size(1),
    )


def describe_split(train: HeteroData, val: HeteroData, test: HeteroData) -> SplitReport:
    """Creates a report on a split.

    Args:
        train: Training graph, whose links are :func:`~alignrec_pyg.graph.all_links`.
        val: Validation graph, with the validation links as links to predict.
        test: Test graph, with the test links as links to predict.

    Raises:
        ValueError: If the three differ in their number of users or items, or there are no links to
            predict.
    """
    sizes = [_sizes(data) for data in (train, val, test)]
    if len(set(sizes)) > 1:
        raise ValueError(
            "'train', 'val' and 'test' need to have the same users and items "
            f"(got {sizes} users and items)"
        )
    num_users, num_items = sizes[0]
    links = all_links(train).cpu()
    held_out = [links_to_predict(val, "val").cpu(), links_to_predict(test, "test").cpu()]
    keys = [np.sort(_keys(edges, num_items)) for edges in (links, *held_out)]
    known_at_test = _keys(test[INTERACTS].edge_index.cpu(), num_items)
    only_val = np.setdiff1d(keys[1], keys[0])
    return SplitReport(
        parts=(
            _part("train", links, links, num_items),
            _part("val", held_out[0], links, num_items),
            _part("test", held_out[1], links, num_items),
        ),
        val_known_at_test=bool(np.isin(only_val, known_at_test).any()),
        fingerprint=content_hash(num_users, num_items, *keys),
    )


def _sizes(data: HeteroData) -> tuple[int, int]:
    return int(data[USER].num_nodes), int(data[ITEM].num_nodes)


def _untouched(ends: np.ndarray, count: int) -> int:
    return int((np.bincount(ends, minlength=count) == 0).sum())


def _keys(edges: Tensor, num_items: int) -> np.ndarray:
    """A key for each link, int64 ``[E]``, which is equal for equal links."""
    user, item = edges.numpy()
    return np.asarray(user * num_items + item)


def _part(name: str, edges: Tensor, train: Tensor, num_items: int) -> PartReport:
    present, cold = [], []
    for ends, trained in zip(edges.numpy(), train.numpy(), strict=True):
        there = np.bincount(ends) > 0
        known = np.bincount(trained, minlength=len(there))[: len(there)] > 0
        present.append(int(there.sum()))
        cold.append(int((there & ~known).sum()))
    is_train = name == SPLIT_NAMES[0]
    repeated = () if is_train else np.isin(_keys(edges, num_items), _keys(train, num_items))
    (users, items), (cold_users, cold_items) = present, cold
    return PartReport(
        name, edges.size(1), users, items, cold_users, cold_items, int(np.sum(repeated))
    )


def _feature(data: HeteroData, name: str, dtype: str | None, seed: int) -> FeatureReport:
    table = feature_table(data, name).cpu()
    mask = feature_mask(data, name).cpu()
    mean, std = _cosine_spread(table, torch.nonzero(~mask).flatten().numpy(), seed)
    return FeatureReport(
        name=name,
        shape=(table.size(0), table.size(1)),
        dtype=dtype or str(table.dtype).removeprefix("torch."),
        missing=int(mask.sum()),
        content_hash=content_hash(table),
        cosine_mean=mean,
        cosine_std=std,
    )


def _cosine_spread(table: Tensor, present: np.ndarray, seed: int) -> tuple[float, float]:
    """Mean and standard deviation of the cosine of two different ``present`` rows."""
    count = len(present)
    if count < 2:
        return float("nan"), float("nan")
    if count * (count - 1) // 2 <= _PAIRS:
        first, second = np.triu_indices(count, k=1)
    else:
        generator = np.random.default_rng(seed)
        first = generator.integers(count, size=_PAIRS)
        second = (first + generator.integers(1, count, size=_PAIRS)) % count  # never the same row
    cosines = []
    for start in range(0, len(first), _PAIR_BLOCK):  # blocks: the table may be memory-mapped
        block = slice(start, start + _PAIR_BLOCK)
        left = table[torch.from_numpy(present[first[block]])].double()
        right = table[torch.from_numpy(present[second[block]])].double()
        cosines.append(torch.nn.functional.cosine_similarity(left, right, eps=0.0))
    values = torch.cat(cosines)
    return float(values.mean()), float(values.std(correction=0))


def _feature_table(features: Sequence[FeatureReport]) -> str:
    rows = [["name", "shape", "read as", "missing", "cosine mean", "cosine std", "hash"]]
    for feature in features:
        rows.append(
            [
                feature.name,
                f"{feature.shape[0]:,} x {feature.shape[1]:,}",
                feature.dtype,
                f"{feature.missing:,}",
                f"{feature.cosine_mean:.4f}",
                f"{feature.cosine_std:.4f}",
                feature.content_hash,
            ]
        )
    return aligned_table(rows)


def _part_table(parts: Sequence[PartReport]) -> str:
    rows = [["part", "interactions", "users", "items", "cold users", "cold items", "in train"]]
    for part in parts:
        name, *counts = astuple(part)
        rows.append([name, *(f"{count:,}" for count in counts)])
    return aligned_table(rows)
