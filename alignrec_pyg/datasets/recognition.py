"""Reading and checking of data whose format is detected by file and column names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.files import from_files
from alignrec_pyg.datasets.interactions import InteractionDataset
from alignrec_pyg.datasets.lightgcn import LightGCNFolder
from alignrec_pyg.datasets.microlens import MicroLens
from alignrec_pyg.datasets.mmrec import MMRecFolder
from alignrec_pyg.datasets.movielens import MovieLens
from alignrec_pyg.datasets.recbole import RecBoleFolder
from alignrec_pyg.datasets.tables import open_table
from alignrec_pyg.report import DataReport

GUESSES: Mapping[str, Sequence[str]] = {
    "user": ("user", "user_id", "userId", "userID", "reviewerID", "customer", "customer_id", "uid"),
    "item": ("item", "item_id", "itemId", "itemID", "movieId", "parent_asin", "asin", "product_id"),
    "rating": ("rating", "overall", "stars", "score"),
    "time": ("timestamp", "time", "unixReviewTime", "date", "datetime"),
    "split": ("x_label", "split"),
}
"""Usual names of the columns of interactions, by which columns are detected."""


@dataclass(frozen=True)
class Recognized:
    """Data with a detected format; ``read`` raises ``ValueError`` if they do not have it."""

    kind: str
    read: Callable[[], InteractionDataset]


@dataclass(frozen=True)
class CheckResult:
    """Result of a check.

    Args:
        kind: The detected format, such as ``"MMRec folder"``.
        report: Statistics and notes; ``None`` if the data cannot be used.
        problems: The errors in the data, each with its location.
    """

    kind: str
    report: DataReport | None
    problems: tuple[str, ...]

    def __str__(self) -> str:
        """The result as text."""
        lines = [f"read as: {self.kind}"]
        if self.report is not None:
            lines.append(str(self.report))
        if self.problems:
            lines.append(f"problems ({len(self.problems)}):")
            lines += [f"  - {problem}" for problem in self.problems]
        return "\n".join(lines)


def from_path(
    path: str | Path,
    *,
    items: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    text: Sequence[str] = (),
    image: str | None = None,
    known: str | Path | None = None,
    items_id: str | None = None,
    quoted: bool = True,
) -> InteractionDataset:
    """Reads a folder or a table of interactions in any supported format.

    The format of a folder (RecBole, MMRec, LightGCN, MovieLens, MicroLens) is detected by its
    files; a file is a table of interactions. Feature rows with NaN or infinity count as missing;
    the report says so.

    Args:
        path: The folder or file.
        items: A table of items, if ``path`` is a file.
        columns: If ``path`` is a file, names of the columns ``"user"``, ``"item"``, ``"rating"``,
            ``"time"`` and ``"split"``; others are detected by their usual names (``user_id``,
            ``parent_asin``, ``timestamp``, ...), with a note in the report.
        text: Columns of ``items`` with text.
        image: Column of ``items`` with paths of images.
        known: If ``path`` is a file, a table with pairs that users have had but that are no
            interactions, as :func:`~alignrec_pyg.datasets.from_files` reads it.
        items_id: Column of ``items`` with item ids, if it has neither the name of the item column
            of ``path`` nor a usual one.
        quoted: Whether fields of csv and tsv files may be enclosed in double quotes.

    Raises:
        ValueError: If ``path`` does not exist, its format is unknown, or the data are invalid.
    """
    return recognize(
        path,
        items=items,
        columns=columns,
        text=text,
        image=image,
        known=known,
        items_id=items_id,
        quoted=quoted,
    ).read()


def check(
    path: str | Path,
    *,
    items: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    text: Sequence[str] = (),
    image: str | None = None,
    known: str | Path | None = None,
    items_id: str | None = None,
    quoted: bool = True,
) -> CheckResult:
    """Checks data that :func:`~alignrec_pyg.datasets.from_path` reads, with the same arguments.

    Nothing is written. All columns of the interactions are checked, so that an error in one column
    does not hide those in others.

    Args:
        path: The folder or file.
        items: A table of items, if ``path`` is a file.
        columns: Names of columns, as in :func:`~alignrec_pyg.datasets.from_path`.
        text: Columns of ``items`` with text.
        image: Column of ``items`` with paths of images.
        known: As in :func:`~alignrec_pyg.datasets.from_path`.
        items_id: As in :func:`~alignrec_pyg.datasets.from_path`.
        quoted: As in :func:`~alignrec_pyg.datasets.from_path`.

    Raises:
        ValueError: If ``path`` does not exist or its format is unknown.
    """
    found = recognize(
        path,
        items=items,
        columns=columns,
        text=text,
        image=image,
        known=known,
        items_id=items_id,
        quoted=quoted,
    )
    try:
        return CheckResult(found.kind, found.read().report, ())
    except ValueError as error:
        return CheckResult(found.kind, None, tuple(str(error).split("\n")))


def recognize(
    path: str | Path,
    *,
    items: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    text: Sequence[str] = (),
    image: str | None = None,
    known: str | Path | None = None,
    items_id: str | None = None,
    quoted: bool = True,
) -> Recognized:
    """Detects the format of data, with the arguments of :func:`from_path`; reads no table.

    Raises:
        ValueError: If ``path`` does not exist or its format is unknown.
    """
    path = Path(path)
    unknown = set(columns or {}) - set(GUESSES)
    if unknown:
        raise ValueError(f"'columns' needs to be of {list(GUESSES)} (got {sorted(unknown)})")
    if path.is_dir():
        others = {"items": items, "items_id": items_id, "columns": columns, "text": text}
        others |= {"image": image, "known": known}
        given = [name for name, value in others.items() if value]
        if given or not quoted:
            raise ValueError(
                f"'{[*given, 'quoted'][0]}' is for a table of interactions ({path} is a folder)"
            )
        return _folder(path)
    if not path.is_file():
        raise ValueError(f"'path' needs to be a folder or a file (there is none at '{path}')")
    read = partial(
        _read_table,
        path,
        dict(columns or {}),
        items=items,
        items_id=items_id,
        text=text,
        image=image,
        known=known,
        quoted=quoted,
    )
    return Recognized("table of interactions", read)


def column_of(role: str, there: Sequence[str]) -> str | None:
    """The first usual name (:data:`GUESSES`) of a role that is in ``there``, or ``None``."""
    return next((name for name in GUESSES[role] if name in there), None)


def _read_table(
    path: Path,
    columns: dict[str, str],
    *,
    items: str | Path | None,
    items_id: str | None,
    **others: Any,
) -> InteractionDataset:
    guessed: list[str] = []
    roles = _roles(path, columns, guessed)
    if items is not None and items_id is None:
        there = open_table(items, [], [], optional=()).columns
        items_id = roles["item"] if roles["item"] in there else column_of("item", there)
        if items_id is None:
            raise ValueError(
                f"{items}, line 1: a column of item ids is needed, under the name '{roles['item']}'"
                f" or one that you name with 'items_id' (got {there})"
            )
        if items_id != roles["item"]:
            guessed.append(f"column '{items_id}' of {Path(items).name} taken as the item")
    dataset = from_files(path, items, items_id=items_id, **roles, **others)
    report = replace(dataset.report, notes=(*guessed, *dataset.report.notes))
    return InteractionDataset(dataset.data, report)


def _folder(path: Path) -> Recognized:
    names = {entry.name for entry in path.iterdir()}
    inter = sorted(name for name in names if name.endswith((".inter", ".inter.gz")))
    if inter:
        header = DelimitedFile(path / inter[0], [], [], optional=(), quoted=False).columns
        if any(":" in name for name in header):
            return Recognized("RecBole folder", partial(RecBoleFolder, path, nonfinite="missing"))
        return Recognized("MMRec folder", partial(MMRecFolder, path, nonfinite="missing"))
    if "train.txt" in names:
        return Recognized("LightGCN folder", partial(LightGCNFolder, path))
    if {"ratings.csv", "movies.csv"} <= names:
        return Recognized("MovieLens folder", partial(MovieLens, path))
    if any(name.endswith("_pairs.csv") for name in names):
        return Recognized("MicroLens folder", partial(MicroLens, path))
    raise ValueError(
        f"'path' needs to be a folder with <name>.inter, train.txt, ratings.csv and movies.csv, or "
        f"*_pairs.csv, or a single table ({path} holds {sorted(names)[:8]})"
    )


def _roles(path: Path, columns: dict[str, Any], guessed: list[str]) -> dict[str, Any]:
    there = open_table(path, [], [], optional=()).columns
    for role, names in GUESSES.items():
        if role in columns:
            continue
        found = column_of(role, there)
        if found is not None:
            columns[role] = found
            guessed.append(f"column '{found}' taken as the {role}, by its name")
        elif role in ("user", "item"):
            raise ValueError(
                f"{path}, line 1: a column of {role}s is needed, under a usual name "
                f"({', '.join(names)}) or one that you name (got {there})"
            )
    return columns
