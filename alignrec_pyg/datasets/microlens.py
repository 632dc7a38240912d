"""The MicroLens dataset as published by its authors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alignrec_pyg.datasets.assemble import LinkColumns, assemble
from alignrec_pyg.datasets.delimited import DelimitedFile, lines_of
from alignrec_pyg.datasets.folders import IMAGE_SUFFIXES, single_path
from alignrec_pyg.datasets.interactions import InteractionDataset
from alignrec_pyg.graph import ITEM
from alignrec_pyg.report import describe
from alignrec_pyg.tables import note_on_shared_ids, repr_short


class MicroLens(InteractionDataset):
    """A folder with the `MicroLens <https://arxiv.org/abs/2309.15379>`_ dataset of short videos.

    - ``*_pairs.csv``: ``user,item,timestamp`` (milliseconds);
    - ``*_title*.csv``, optional: ``item,title`` per line, with or without this header; the text
      after the first comma is the title, which becomes ``data["item"].text``;
    - a folder ``*covers*``, optional: ``<item>.jpg`` (or ``.png``, ``.webp``), whose paths become
      ``data["item"].image_path``.

    The copy in the format of MMRec (``microlens.inter``, ``image_feat.npy``, ``text_feat.npy``) is
    read by :class:`~alignrec_pyg.datasets.MMRecFolder`.

    The published MicroLens-100k has 100,000 users, 19,738 items and 719,405 interactions. It is for
    research with citation (Ni et al., arXiv 2309.15379).

    Args:
        path: The folder.

    Raises:
        ValueError: If a file is missing, there are several of a kind, or one does not have the
            expected format; the message contains line and column.
    """

    def __init__(self, path: str | Path) -> None:
        folder = Path(path)
        pairs = single_path(folder.glob("*_pairs.csv"), folder, "*_pairs.csv")
        if pairs is None:
            raise ValueError(f"'path' needs to be a folder with *_pairs.csv (got {str(path)!r})")
        notes: list[str] = []
        names = ["user", "item", "timestamp"]
        table = DelimitedFile(pairs, names, notes, optional=(), text=["user", "item"])
        data, duplicates = assemble(
            LinkColumns(table.ids("user"), table.ids("item"), time=table.column("timestamp")), notes
        )
        item_id: np.ndarray = data[ITEM].id
        titles = single_path(folder.glob("*_title*.csv"), folder, "*_title*.csv")
        if titles is not None:
            data[ITEM].text = _of_items(item_id, _titles(titles), titles, notes)
            _note(data[ITEM].text, f"no title in {titles.name}", notes)
        covers = single_path(folder.glob("*covers*/"), folder, "*covers*/")
        if covers is not None:
            there = {
                p.stem: p for p in sorted(covers.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES
            }
            data[ITEM].image_path = _of_items(item_id, there, covers, notes)
            _note(data[ITEM].image_path, f"no cover in {covers.name}", notes)
        super().__init__(data, describe(data, duplicates=duplicates, notes=notes))


def _of_items(
    item_id: np.ndarray, by_id: Mapping[str, Any], source: Path, notes: list[str]
) -> list[Any]:
    """What ``source`` has for each item."""
    ids = [str(item) for item in item_id.tolist()]
    shared = sum(item in by_id for item in ids)
    few = note_on_shared_ids(str(source), shared, list(by_id), ids)
    if few:
        notes.append(few)
    return [by_id.get(item) for item in ids]


def _titles(path: Path) -> dict[str, str]:
    titles: dict[str, str] = {}
    with path.open("rb") as file:
        for number, line in lines_of(file, path):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: the file needs to be UTF-8 ({error})"
                ) from error
            if not text or (number == 1 and text.split(",")[0].strip() == "item"):
                continue
            item, comma, title = text.partition(",")
            if not comma:
                raise ValueError(
                    f"{path}, line {number}: an item, a comma and a title are needed "
                    f"(got {repr_short(text)})"
                )
            title = title.strip()
            if len(title) > 1 and title[0] == title[-1] == '"':
                title = title[1:-1].replace('""', '"').strip()
            if title:
                titles.setdefault(item.strip(), title)
    return titles


def _note(entries: list[object], what: str, notes: list[str]) -> None:
    missing = sum(entry is None for entry in entries)
    if missing:
        notes.append(f"{missing:,} of {len(entries):,} items have {what}")
