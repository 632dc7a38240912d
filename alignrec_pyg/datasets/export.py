"""Export to the file formats of MMRec and RecBole."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from torch_geometric.data import HeteroData
from torch_geometric.data.storage import EdgeStorage

from alignrec_pyg.atomic import atomic_folder
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    KNOWS,
    USER,
    add_known_pairs,
    all_links,
    feature_mask,
    feature_names,
    feature_table,
    links_to_predict,
    require_graph,
)
from alignrec_pyg.ids import item_ids, user_ids
from alignrec_pyg.tables import repr_short

Split = tuple[HeteroData, HeteroData, HeteroData]
"""Training, validation and test graph of ``SplitInteractions``."""

_PARTS = ("train", "valid", "test")
_SPACE = str.maketrans({"\t": " ", "\n": " ", "\r": " "})


def to_mmrec(data: HeteroData, folder: str | Path, *, split: Split | None = None) -> list[str]:
    """Writes a folder that MMRec and :class:`~alignrec_pyg.datasets.MMRecFolder` can read.

    ``<folder name>.inter`` with ``userID itemID [rating] [timestamp] x_label``,
    ``u_id_mapping.csv`` and ``i_id_mapping.csv`` with the original ids, and ``<name>.npy`` for each
    feature table ``x_<name>`` (items without it have rows of zeros). Known pairs are in a file of
    their own, ``<folder name>.known`` with ``userID itemID [rating] [timestamp]``. MMRec looks for
    ``image_feat.npy`` and ``text_feat.npy``, or what its configuration names. The folder appears
    when it is complete.

    Args:
        data: Graph with all links, as in a dataset.
        folder: A new or empty folder, whose name becomes the name of the dataset.
        split: Parts of ``data``; by default, the ``split`` labels of ``data`` are written.

    Returns:
        Notes on data that could not be written.

    Raises:
        ValueError: If there are no split labels, which MMRec needs, or the folder is not empty.
    """
    notes: list[str] = []
    labels = _labels(data, split, notes)
    if labels is None:
        raise ValueError(
            "'split' is needed, or split labels in 'data': MMRec reads the split from its file"
        )
    rows = np.flatnonzero(labels >= 0)
    user, item = data[INTERACTS].edge_index.cpu().numpy()[:, rows]
    columns = {
        "userID": user,
        "itemID": item,
        **_values(data[INTERACTS], rows, "rating", "timestamp"),
    }
    columns["x_label"] = labels[rows]
    with atomic_folder(Path(folder).resolve()) as made:
        _write_quoted(made / f"{made.name}.inter", columns)
        if (known := _known(data)) is not None:
            user, item = known.edge_index.cpu().numpy()
            columns = {"userID": user, "itemID": item, **_values(known, ..., "rating", "timestamp")}
            _write_quoted(made / f"{made.name}.known", columns)
        for ids, mapping, index, name in (
            (user_ids(data), "u_id_mapping.csv", "userID", "user_id"),
            (item_ids(data), "i_id_mapping.csv", "itemID", "item_id"),
        ):
            _write_quoted(made / mapping, {name: ids, index: np.arange(len(ids))})
        for name in feature_names(data):
            np.save(made / f"{name}.npy", feature_table(data, name).cpu().numpy())
    if "text" in data[ITEM]:
        notes.append("texts left out: MMRec's format has no place for them")
    return notes


def to_recbole(data: HeteroData, folder: str | Path, *, split: Split | None = None) -> list[str]:
    """Writes a folder that RecBole and :class:`~alignrec_pyg.datasets.RecBoleFolder` can read.

    ``<folder name>.inter``, or with a split ``.train.inter``, ``.valid.inter`` and ``.test.inter``
    (RecBole's ``benchmark_filename``), with original ids; ``<folder name>.item`` with
    ``text:token_seq`` and each feature table as ``<name>:float_seq``, empty for items without it.
    Known pairs are in a file of their own, ``<folder name>.known``. Double quotes are ordinary
    characters. The folder appears when it is complete.

    Args:
        data: Graph with all links, as in a dataset.
        folder: A new or empty folder, whose name becomes the name of the dataset.
        split: Parts of ``data``; by default, the ``split`` labels of ``data`` are used, or all
            links are written to one file if there are none.

    Returns:
        Notes on data that could not be written or were changed.

    Raises:
        ValueError: If an id contains a tab or a line break, or the folder is not empty.
    """
    notes: list[str] = []
    labels = _labels(data, split, notes)
    user_id, item_id = _tokens(user_ids(data), USER), _tokens(item_ids(data), ITEM)
    user, item = data[INTERACTS].edge_index.cpu().numpy()
    parts = {"": np.arange(len(user))}
    if labels is not None:
        parts = {f".{part}": np.flatnonzero(labels == label) for label, part in enumerate(_PARTS)}
    content: dict[str, np.ndarray] = {"item_id:token": item_id}
    if "text" in data[ITEM]:
        texts = ["" if text is None else text.translate(_SPACE) for text in data[ITEM].text]
        changed = sum(a != b for a, b in zip(texts, data[ITEM].text, strict=True) if b is not None)
        if changed:
            notes.append(f"{changed:,} texts with tabs or line breaks: they became blanks")
        content["text:token_seq"] = np.array(texts, dtype=object)
    for name in feature_names(data):
        table = feature_table(data, name).cpu().numpy()
        missing = feature_mask(data, name).cpu().numpy()
        rows_text = [
            "" if lacks else " ".join(row.astype(str))
            for row, lacks in zip(table, missing, strict=True)
        ]
        content[f"{name}:float_seq"] = np.array(rows_text, dtype=object)
    with atomic_folder(Path(folder).resolve()) as made:
        for part, rows in parts.items():
            columns = {"user_id:token": user_id[user[rows]], "item_id:token": item_id[item[rows]]}
            columns |= _values(data[INTERACTS], rows, "rating:float", "timestamp:float")
            _write_plain(made / f"{made.name}{part}.inter", columns)
        if (known := _known(data)) is not None:
            user, item = known.edge_index.cpu().numpy()
            columns = {"user_id:token": user_id[user], "item_id:token": item_id[item]}
            columns |= _values(known, ..., "rating:float", "timestamp:float")
            _write_plain(made / f"{made.name}.known", columns)
        _write_plain(made / f"{made.name}.item", content)
    return notes


def _labels(data: HeteroData, split: Split | None, notes: list[str]) -> np.ndarray | None:
    """The label of each link, -1 if it is in no part; int8 ``[E]``."""
    links = require_graph(data, "data")[INTERACTS]
    if split is None:
        return links.split.cpu().numpy() if "split" in links else None
    num_items = int(data[ITEM].num_nodes)

    def keys(edge_index: np.ndarray) -> np.ndarray:
        return np.asarray(edge_index[0] * num_items + edge_index[1])

    own = keys(links.edge_index.cpu().numpy())
    labels = np.full(len(own), -1, dtype=np.int8)
    for label, part in enumerate(split):
        require_graph(part, "split")
        edges = all_links(part) if label == 0 else links_to_predict(part, "split")
        there = np.isin(own, keys(edges.cpu().numpy()))
        if (labels[there] >= 0).any() or int(there.sum()) != edges.size(1):
            raise ValueError(
                f"'split' needs parts that hold every link of 'data' once at most ({_PARTS[label]} "
                "does not)"
            )
        labels[there] = label
    left_out = int((labels < 0).sum())
    if left_out:
        notes.append(f"{left_out:,} interactions in no part of the split left out")
    return labels


def _known(data: HeteroData) -> EdgeStorage | None:
    """The known pairs with their values; ``None`` without any."""
    if KNOWS not in data.edge_types:
        return None
    clean = copy.copy(data)
    store = clean[KNOWS]
    del clean[KNOWS]
    add_known_pairs(clean, store.edge_index, store)
    return clean[KNOWS] if KNOWS in clean.edge_types else None


def _values(
    links: EdgeStorage, rows: np.ndarray | EllipsisType, rating: str, time: str
) -> dict[str, np.ndarray]:
    return {
        name: links[key].cpu().numpy()[rows]
        for key, name in (("rating", rating), ("time", time))
        if key in links
    }


def _tokens(ids: np.ndarray, node: str) -> np.ndarray:
    tokens = np.array([str(value) for value in ids.tolist()], dtype=object)
    for row, token in enumerate(tokens):
        if token.translate(_SPACE) != token:
            raise ValueError(
                f"data['{node}'].id row {row}: RecBole's ids hold no tab or line break "
                f"(got {repr_short(token)})"
            )
    return tokens


def _write_quoted(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes a tab-separated table whose fields are quoted where they need to be."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with path.open("wb") as file:
        file.write(("\t".join(columns) + "\n").encode())
        options = pa_csv.WriteOptions(include_header=False, delimiter="\t")
        pa_csv.write_csv(table, file, options)


def _write_plain(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes a tab-separated table in which quotes are ordinary characters (Arrow refuses them)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("\t".join(columns) + "\n")
        texts = (v if v.dtype == object else v.astype(str) for v in columns.values())
        rows = zip(*texts, strict=True)
        file.writelines("\t".join(row) + "\n" for row in rows)
