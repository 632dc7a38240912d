"""Fingerprints of feature tables and item graphs, which distinguish rounding from other content.

Another number of threads, processor or version of a library gives features that differ in their
last digits, and neighbour lists that differ where two items are equally near. Their hashes then
differ. A fingerprint has a few numbers for each row, so that differences can be measured without
the table.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import ITEM, feature_key, feature_table, knn_edge_type
from alignrec_pyg.storage import CheckpointError

_WIDTH = 8
_SEED = 0
_BLOCK_ELEMENTS = 1 << 22

ROUNDING = 1e-3
"""Largest difference, as a share of a row's length, that is taken for rounding."""

SWAPPED = 0.05
"""Largest share of items whose neighbours may differ in a graph that is made again."""

_EQUAL = 1e-6  # as a share of a row's length: the rounding of the fingerprint itself


class Difference(NamedTuple):
    r"""How two fingerprints differ.

    Args:
        largest: The largest difference of a row, as a share of its length, among those that are
            taken for rounding.
        rows: Numbers of the rows that differ by more, or by their existence.

    Shapes:
        - **rows:** int64 :math:`(n)`
    """

    largest: float
    rows: Tensor

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return self.largest > _EQUAL or self.rows.numel() > 0


def table_fingerprint(table: Tensor) -> Tensor:
    r"""Random projections of a table's rows: :math:`X R / \sqrt{8}` with Gaussian :math:`R`.

    The length of a row's projection, and of the difference of two, is in expectation that of the
    row and of the difference.

    Shapes:
        - **input:** :math:`(N, D)`
        - **output:** float32 :math:`(N, 8)`, on the CPU; zeros for a table without values, on the
          device ``"meta"``
    """
    if table.is_meta:
        return torch.zeros(table.size(0), _WIDTH, device="cpu")
    directions = _directions(table.size(1)).double().to(table.device)
    rows = max(1, _BLOCK_ELEMENTS // max(1, table.size(1)))
    blocks = [(block.detach().double() @ directions).float() for block in table.split(rows)]
    return torch.cat(blocks).cpu() if blocks else torch.empty(0, _WIDTH, device="cpu")


def graph_fingerprint(edge_index: Tensor, edge_weight: Tensor, num_nodes: int) -> Tensor:
    r"""The fingerprint of the table that has, for each node, the weights of its incoming edges.

    Shapes:
        - **input:** edge_index int64 :math:`(2, E)`, edge_weight :math:`(E)`
        - **output:** float32 :math:`(N, 8)`, on the CPU
    """
    directions, size = _directions(num_nodes), _BLOCK_ELEMENTS // _WIDTH
    found = torch.zeros(num_nodes, _WIDTH, device="cpu")
    if edge_index.is_meta:
        return found
    weights = edge_weight.detach().float()
    for edges, weight in zip(edge_index.split(size, dim=1), weights.split(size), strict=True):
        source, target = edges.cpu()
        found.index_add_(0, target, directions[source] * weight.cpu().unsqueeze(1))
    return found


def compare(stored: Tensor, found: Tensor) -> Difference:
    """How a fingerprint differs from one that was stored, float32 ``[N, 8]`` each."""
    if stored.shape != found.shape:
        return Difference(0.0, torch.arange(max(stored.size(0), found.size(0))))
    length = torch.maximum(stored.norm(dim=1), found.norm(dim=1))
    difference = (stored - found).norm(dim=1) / length.clamp(min=torch.finfo(length.dtype).tiny)
    rounding = difference <= ROUNDING  # not so for NaN
    largest = float(difference[rounding].max()) if bool(rounding.any()) else 0.0
    return Difference(largest, (~rounding).nonzero()[:, 0])


def _directions(dim: int) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(_SEED)
    return torch.randn(dim, _WIDTH, generator=generator, device="cpu") / _WIDTH**0.5


def data_fingerprints(
    data: HeteroData, features: Iterable[str], item_graphs: Iterable[str]
) -> dict[str, Tensor]:
    """The fingerprints of feature tables and item graphs, by the names they have in ``data``."""
    num_items = int(data[ITEM].num_nodes)
    found = {feature_key(name): table_fingerprint(feature_table(data, name)) for name in features}
    for name in item_graphs:
        kind = knn_edge_type(name)
        edges = data[kind]
        found[kind[1]] = graph_fingerprint(edges.edge_index, edges.edge_weight, num_items)
    return found


def check_fingerprints(
    owner: Path | str,
    stored: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    *,
    strict: bool = False,
) -> None:
    """Checks that tables and graphs are those that ``owner`` was trained with.

    Rounding differences are accepted with a ``UserWarning``; a graph may also have other neighbours
    for one item in twenty, since rounding changes the order of items that are equally near.

    Raises:
        CheckpointError: If a table or graph has other content or, with ``strict``, differs at all.
    """
    rounded = []
    # Features first, since graphs are made of them.
    for key in sorted(stored.keys() | found.keys(), key=lambda key: (key.startswith("knn_"), key)):
        what = f"features {key.removeprefix('x_')!r}"
        if key.startswith("knn_"):
            what = f"item graph {key.removeprefix('knn_')!r}"
        if key not in stored or key not in found:
            raise CheckpointError(
                f"{owner} was {'not ' if key in found else ''}trained with {what}, which 'data' "
                f"{'has' if key in found else 'lacks'}: pass the data it was trained on"
            )
        difference = compare(stored[key], found[key])
        share = difference.rows.numel() / max(1, found[key].size(0))
        if share > (SWAPPED if key.startswith("knn_") else 0):
            rows = ", ".join(map(str, difference.rows[:5].tolist()))
            raise CheckpointError(
                f"{owner} was trained with other {what} than those of 'data' "
                f"({difference.rows.numel():,} of {found[key].size(0):,} items differ, the first: "
                f"{rows}): pass the data it was trained on"
            )
        if difference:
            rounded.append(f"{what} by {difference.largest:.1g} of an item's values")
            if share:
                rounded[-1] += f" and the neighbours of {difference.rows.numel():,} items"
    if rounded and strict:
        raise CheckpointError(
            f"{owner} was trained with data that differ by rounding ({'; '.join(rounded)}): pass "
            "the very same data, or strict=False"
        )
    if rounded:
        warnings.warn(
            f"{owner} was trained with data that differ by rounding, as another number of threads "
            f"or another processor gives them ({'; '.join(rounded)}): results may differ as much",
            stacklevel=3,
        )
