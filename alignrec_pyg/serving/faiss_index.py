"""Nearest-neighbour search with FAISS over item vectors, for catalogues of millions of items."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from alignrec_pyg.atomic import folder_lock
from alignrec_pyg.checks import check_choice, check_integer, require_package
from alignrec_pyg.storage import CheckpointError, read_with_files, write_with_files

IndexKind = Literal["flat", "hnsw"]
"""Exact search, or approximate search with an HNSW graph, which is much faster."""

_MANIFEST = "index.json"
_INDEX = "items.faiss"
_LINKS = 32  # links per vector in the HNSW graph
_BUILD_WIDTH = 200


class ItemIndex:
    """A FAISS index of item vectors that finds items by inner product with a user vector.

    Args:
        index: A FAISS index; its vector ``r`` belongs to the item ``item_id[r]``.
        item_id: Original ids of the items.
    """

    def __init__(self, index: Any, item_id: np.ndarray) -> None:
        self.index = index
        self.item_id = item_id

    @classmethod
    def build(
        cls, item_x: Tensor, item_id: np.ndarray, kind: IndexKind = "flat", *, width: int = 128
    ) -> ItemIndex:
        """Indexes the vectors of items (see :meth:`~alignrec_pyg.Server.to_faiss`).

        Args:
            item_x: Vectors of the items, ``[n, d]``.
            item_id: Their ids.
            kind: ``"flat"`` compares all items and is exact; ``"hnsw"`` (`Malkov and Yashunin
                <https://arxiv.org/abs/1603.09320>`_) is approximate.
            width: Number of candidates that a search in ``"hnsw"`` maintains; a larger number
                increases the recall.

        Raises:
            ImportError: If faiss is not installed.
            ValueError: If ``kind`` is unknown or ``width`` is not positive.
        """
        check_choice("kind", kind, get_args(IndexKind))
        width = check_integer("width", width, 1)
        faiss = require_package("faiss", "ItemIndex", "faiss-cpu", extra="serving")
        vectors = _array(item_x)
        if kind == "flat":
            index = faiss.IndexFlatIP(vectors.shape[1])
        else:
            index = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = _BUILD_WIDTH
            index.hnsw.efSearch = width
        index.add(vectors)
        return cls(index, item_id)

    def recommend(
        self, user_x: Tensor, k: int = 20, known: Tensor | None = None
    ) -> list[np.ndarray]:
        """Returns the ``k`` items with the highest inner product that the index finds.

        Args:
            user_x: User vectors, ``[n, d]``: rows of :attr:`~alignrec_pyg.Server.vectors` or of
                :func:`~alignrec_pyg.serving.fold_in_users`.
            k: Length of the lists.
            known: Links to exclude, int64 ``[2, E]``: row of ``user_x`` and index of the item. For
                all users they are :func:`~alignrec_pyg.graph.known_links`.

        Returns:
            One array of item ids per user, best first.

        Raises:
            ValueError: If ``k`` is not a positive integer or the vectors have another width than
                those of the index.
        """
        k = check_integer("k", k, 1)
        if user_x.dim() != 2 or user_x.size(1) != self.index.d:
            raise ValueError(
                f"'user_x' needs the shape [n, {self.index.d}] (got {list(user_x.shape)})"
            )
        left_out: list[set[int]] = [set() for _ in range(user_x.size(0))]
        for user, item in [] if known is None else known.t().tolist():
            left_out[user].add(item)
        # fetch so many more that the best unknown items remain after excluding the known ones
        fetched = min(k + max(map(len, left_out), default=0), self.index.ntotal)
        _, found = self.index.search(_array(user_x), fetched)
        lists = []
        for row, without in zip(found.tolist(), left_out, strict=True):
            new = [item for item in row if item >= 0 and item not in without][:k]
            lists.append(self.item_id[np.array(new, dtype=np.int64)])
        return lists

    def save(self, folder: str | Path) -> None:
        """Writes ``items-<hash>.faiss``, and ``index.json``, which names it and the items' ids.

        Raises:
            CheckpointError: If the folder has an ``index.json`` that is damaged or somebody else's.
            OSError: If the folder cannot be written; a previous index stays complete.
        """
        faiss = require_package("faiss", "ItemIndex", "faiss-cpu", extra="serving")
        path = Path(folder) / _MANIFEST

        def write(file: Path) -> None:
            try:
                faiss.write_index(self.index, str(file))
            except RuntimeError as error:  # faiss has no other
                raise OSError(f"{path.parent} could not be written ({error})") from error

        with folder_lock(path.parent, path.name):
            write_with_files(path, {"item_id": self.item_id.tolist()}, {_INDEX: write})

    @classmethod
    def load(cls, folder: str | Path) -> ItemIndex:
        """Loads an index that :meth:`save` wrote.

        Raises:
            ImportError: If faiss is not installed.
            CheckpointError: If a file is missing, damaged or of another format.
        """
        faiss = require_package("faiss", "ItemIndex", "faiss-cpu", extra="serving")
        path = Path(folder) / _MANIFEST
        manifest, files = read_with_files(path, {"item_id": list}, [_INDEX])
        ids = manifest["item_id"]
        numbers = all(isinstance(entry, int) for entry in ids)
        try:
            index = faiss.read_index(str(files[_INDEX]))
        except RuntimeError as error:
            raise CheckpointError(f"{files[_INDEX]} is no index ({error})") from error
        if index.ntotal != len(ids):
            raise CheckpointError(
                f"{path} holds something else ({len(ids)} ids for {index.ntotal})"
            )
        return cls(index, np.array(ids, dtype=None if numbers else object))


def _array(vectors: Tensor) -> np.ndarray:
    return np.ascontiguousarray(vectors.detach().cpu().numpy(), dtype=np.float32)


def index_recall(found: list[np.ndarray], exact: list[np.ndarray]) -> float:
    """Share of the items in the exact lists that an index found, averaged over non-empty lists."""
    shares = [
        len(set(a.tolist()) & set(b.tolist())) / len(b)
        for a, b in zip(found, exact, strict=True)
        if len(b)
    ]
    return float(torch.tensor(shares, dtype=torch.float64).mean())
