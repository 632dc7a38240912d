"""k-nearest-neighbour item graphs of one or several feature tables."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.checks import check_choice, check_integer, check_number
from alignrec_pyg.graph import (
    ITEM,
    content_hash,
    feature_key,
    feature_mask,
    feature_names,
    feature_table,
    knn_edge_type,
)
from alignrec_pyg.nn.faiss_search import approximate_neighbors
from alignrec_pyg.nn.features import check_feature_table
from alignrec_pyg.nn.knn_search import cosine_neighbors
from alignrec_pyg.storage import load_tensors, store_tensors
from alignrec_pyg.transforms.item_graph import (
    checked_name,
    checked_weights,
    normalized_weight,
    weighted_sum,
)

Weighting = Literal["cosine", "binary"]
Missing = Literal["self_loop", "mean"]
Backend = Literal["auto", "torch_cluster", "matmul", "faiss"]

# Part of every cache key: increase it with each change of the resulting edges or weights.
_VERSION = "knn_item_graph 1"


class KNNItemGraph(BaseTransform):
    r"""Connects every item with its ``k`` most similar items, including itself.

    Adds ``data["item", "knn_<name>", "item"]`` with ``edge_index`` (row 0 is the neighbour, row 1
    the item that receives its messages; sorted by item and neighbour) and ``edge_weight``. With the
    similarity :math:`w_{ij}` of item :math:`i` and its neighbour :math:`j` (:math:`w_{ii} = 1`),

    .. math::
        s_{ij} = \frac{w_{ij}}{\sqrt{d_i d_j}}, \qquad d_i = \sum_j w_{ij}.

    - ``weighting="cosine"``: :math:`w_{ij}` is the cosine (LATTICE, MGCN, AlignRec);
    - ``weighting="binary"``: :math:`w_{ij} = 1`, hence :math:`s_{ij} = 1 / k` (FREEDOM).

    The graph is directed, as in these papers: :math:`j` may be a neighbour of :math:`i` but not the
    reverse. Several feature tables give the weighted sum of their graphs.

    The search is exact, unless ``backend="faiss"``, and its result depends on neither the backend
    nor the block size: cosines are compared at a resolution of 1e-9, ties are broken by the lower
    item index, and an item is its own neighbour even if ``k`` others have identical features. If
    negative cosines make the row sum :math:`d_i` zero or negative, where the formula is undefined,
    only the positive cosines are summed.

    Items without the feature (masked or zero rows) are neighbours of no other item and have a
    self-loop of weight 1.

    Args:
        features: Name of the feature table; several names, with equal weights; or a mapping from
            names to weights, for example ``{"image": 0.1, "text": 0.9}``.
        k: Number of neighbours of an item, including itself. The name is that of
            :class:`torch_geometric.transforms.KNNGraph` (with ``loop=True``).
        weighting: Weight of a neighbour before normalisation.
        symmetric: Whether to add the reverse of every edge before normalisation, so that
            :math:`s_{ij} = s_{ji}`; items may then have more than ``k`` neighbours.
        backend: ``"matmul"``, ``"torch_cluster"``, or ``"auto"``, which uses torch_cluster, if
            installed, for small inputs on the CPU. ``"faiss"`` is approximate, for hundreds of
            thousands of items and more: k-means divides the items into lists (an inverted file of
            `FAISS <https://arxiv.org/abs/2401.08281>`_), and an item is compared with those of the
            lists nearest to it. The graph then has the attribute ``recall``, a float: the share of
            the other neighbours that are as near as the exact ones, measured on 1,000 items; the
            smallest one of several feature tables.
        min_recall: Smallest recall of ``backend="faiss"``, which compares with as many lists as are
            needed, but at most an eighth of them.
        name: Name of the graph; by default the names of the features joined by ``"_"``.
        block_size: Number of items per block of the search; memory is
            ``block_size * num_items * 8`` bytes.
        missing: ``"self_loop"`` as above, or ``"mean"``: an item without the feature is assigned
            the mean of all other rows and takes part in the search.
        cache_dir: Folder of a cache, whose keys depend on the content of the features and the
            arguments above; no cache by default. Where it cannot be written, a warning says so.

    Raises:
        ValueError: If an argument is out of range; when applied, if ``data`` lacks a feature table,
            a table is not a finite matrix with one row per item, or fewer than ``k`` items have the
            feature, or ``backend="faiss"`` does not reach ``min_recall``.
        ImportError: When applied, if the package of ``backend`` is not installed.

    Example:
        >>> import torch
        >>> from torch_geometric.data import HeteroData
        >>> from alignrec_pyg.transforms import KNNItemGraph
        >>> data = HeteroData()
        >>> data["item"].num_nodes = 3
        >>> data["item"].x_mm = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> KNNItemGraph("mm", k=2)(data)["item", "knn_mm", "item"].edge_index
        tensor([[0, 1, 0, 1, 1, 2],
                [0, 0, 1, 1, 2, 2]])
    """

    def __init__(
        self,
        features: str | Sequence[str] | Mapping[str, float],
        k: int = 10,
        *,
        weighting: Weighting = "cosine",
        symmetric: bool = False,
        backend: Backend = "auto",
        min_recall: float = 0.95,
        name: str | None = None,
        block_size: int = 512,
        missing: Missing = "self_loop",
        cache_dir: str | Path | None = None,
    ) -> None:
        check_choice("weighting", weighting, get_args(Weighting))
        check_choice("backend", backend, get_args(Backend))
        check_choice("missing", missing, get_args(Missing))
        self.weights = _weights(features)
        self.k = check_integer("k", k, 1)
        self.weighting = weighting
        self.symmetric = symmetric
        self.backend = backend
        self.min_recall = check_number("min_recall", min_recall, above=0, most=1)
        self.name = checked_name(name, self.weights)
        self.block_size = check_integer("block_size", block_size, 1)
        self.missing = missing
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    def forward(self, data: HeteroData) -> HeteroData:
        """Returns a copy of ``data`` with the graph; the input is unchanged."""
        num_items = data[ITEM].num_nodes
        _refuse_prefix(data, self.weights)
        tables = {
            feature: (feature_table(data, feature), feature_mask(data, feature))
            for feature in self.weights
        }
        for feature, (table, mask) in tables.items():
            check_feature_table(feature, table, mask, num_items)

        if self.cache_dir is None:
            edge_index, edge_weight, recall = self._build(tables)
        else:
            edge_index, edge_weight, recall = self._cached(self.cache_dir, tables)
        device = next(iter(tables.values()))[0].device
        store = data[knn_edge_type(self.name)]
        store.edge_index, store.edge_weight = edge_index.to(device), edge_weight.to(device)
        if recall is not None:
            store.recall = recall
        return data

    def _cached(
        self, folder: Path, tables: dict[str, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, float | None]:
        key = f"knn_{self._key(tables)}"
        kept = load_tensors(folder, key, "the item graph")
        if kept is not None:
            return kept[0]["edge_index"], kept[0]["edge_weight"], kept[1].get("recall")
        edge_index, edge_weight, recall = self._build(tables)
        graph = {"edge_index": edge_index, "edge_weight": edge_weight}
        try:
            store_tensors(folder, key, graph, {} if recall is None else {"recall": recall})
        except OSError as error:  # such as a run in a folder that may only be read
            warnings.warn(f"the item graph is not kept for the next time: {error}", stacklevel=2)
        return edge_index, edge_weight, recall

    def _key(self, tables: dict[str, tuple[Tensor, Tensor]]) -> str:
        """Hash of what determines the graph: not the name, block size or an exact backend."""
        parts: list[Tensor | str | float] = [_VERSION, self.weighting, self.missing]
        parts += [self.k, self.symmetric]
        if self.backend == "faiss":
            parts += [self.backend, self.min_recall]
        for feature, (table, mask) in tables.items():
            parts += [self.weights[feature], table, mask]
        return content_hash(*parts)

    def _build(
        self, tables: dict[str, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor, float | None]:
        graphs, recalls = [], []
        for feature, (table, mask) in tables.items():
            edge_index, edge_weight, recall = self._single(feature, table, mask)
            graphs.append((self.weights[feature], edge_index, edge_weight))
            recalls.append(recall)
        smallest = min(recalls) if self.backend == "faiss" else None
        return *weighted_sum(graphs, len(next(iter(tables.values()))[0])), smallest

    def _single(self, feature: str, table: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, float]:
        """Normalised graph of one feature table, with weights in double precision; its recall."""
        num_items = table.size(0)
        absent = mask | ~table.any(dim=1)
        if self.missing == "mean" and bool(absent.any()) and not bool(absent.all()):
            mean = table[~absent].double().mean(dim=0)
            if not bool(mean.any()):
                raise ValueError(
                    f"missing='mean' needs features with a non-zero mean (feature '{feature}' is "
                    "centred): use missing='self_loop'"
                )
            table = torch.where(absent.unsqueeze(1), mean, table.double())
            absent = torch.zeros_like(absent)
        present = (~absent).nonzero()[:, 0]
        if present.numel() < self.k:
            raise ValueError(
                f"'k' needs to be in [1, {present.numel()}] (got {self.k}): of {num_items} items "
                f"{present.numel()} have feature '{feature}'; choose a smaller k or another feature"
            )
        rows = table[present] if bool(absent.any()) else table  # the table may be memory-mapped
        recall = 1.0
        if self.backend == "faiss":
            neighbor, cosine, recall = approximate_neighbors(
                rows, self.k, min_recall=self.min_recall, block_size=self.block_size
            )
        else:
            neighbor, cosine = cosine_neighbors(
                rows, self.k, backend=self.backend, block_size=self.block_size
            )
        alone = absent.nonzero()[:, 0]
        source = torch.cat([present[neighbor.reshape(-1)], alone])
        target = torch.cat([present.repeat_interleave(self.k), alone])
        similarity = torch.cat([cosine.reshape(-1), cosine.new_ones(alone.numel())])
        if self.weighting == "binary":
            similarity = torch.ones_like(similarity)
        if self.symmetric:
            source, target, similarity = _with_reverse(source, target, similarity, num_items)
        weight = normalized_weight(source, target, similarity, num_items)
        return torch.stack([source, target]), weight, recall

    def __repr__(self) -> str:
        approximate = ""
        if self.backend == "faiss":
            approximate = f"backend='faiss', min_recall={self.min_recall}, "
        return (
            f"{self.__class__.__name__}({self.weights}, k={self.k}, weighting='{self.weighting}', "
            f"{approximate}name='{self.name}')"
        )


def _weights(features: str | Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    if isinstance(features, str):
        features = [features]
    if isinstance(features, Mapping):
        weights = dict(features)
    else:
        weights = {feature: 1 / len(features) for feature in features}
    if len(weights) != len(features):
        raise ValueError(f"'features' needs distinct names (got {list(features)})")
    return checked_weights("features", weights)


def _refuse_prefix(data: HeteroData, features: Iterable[str]) -> None:
    prefix = feature_key("")
    for feature in features:
        if feature_key(feature) not in data[ITEM] and feature.startswith(prefix):
            raise ValueError(
                f"'features' needs names without the prefix '{prefix}', of {feature_names(data)} "
                f"(got {feature!r}): give {feature.removeprefix(prefix)!r}"
            )


def _with_reverse(
    source: Tensor, target: Tensor, similarity: Tensor, num_items: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Every edge in both directions, each once, with the same similarity."""
    key = torch.cat([target * num_items + source, source * num_items + target])
    key, position = key.unique(return_inverse=True)
    merged = similarity.new_empty(key.numel())
    merged[position] = torch.cat([similarity, similarity])
    return key % num_items, key // num_items, merged
