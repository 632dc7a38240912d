"""Looking at data before using it: what it is, what is in it, what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alignrec_pyg.datasets.base import InteractionDataset
from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.files import from_files
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
"""Names by which :func:`check` knows the columns of a table that nobody named."""


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Args:
        kind: What the data were read as, such as ``"MMRec folder"``.
        report: Sizes and notes; ``None`` if the data cannot be used as they are.
        problems: What has to be mended, each with its place.
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


def check(
    path: str | Path,
    *,
    items: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    text: Sequence[str] = (),
    image: str | None = None,
) -> CheckResult:
    """Read data as an importer would, and say what it met. Nothing is written.

    A folder is told by its files (RecBole, MMRec, LightGCN, MovieLens, MicroLens), a file is a
    table of interactions. Every column of interactions is checked, so one problem does not hide
    another column's.

    Args:
        path: The folder or file.
        items: A table of items, where ``path`` is a file.
        columns: Where ``path`` is a file: columns by their role, of ``"user"``, ``"item"``,
            ``"rating"``, ``"time"``, ``"split"``; roles not given are told by the usual names
            (``user_id``, ``parent_asin``, ``timestamp``, ...), and the notes say so.
        text: Columns of ``items`` with text.
        image: Column of ``items`` with paths of images.

    Raises:
        ValueError: If there is nothing at ``path``, or it is no data that any importer knows.
    """
    path = Path(path)
    unknown = set(columns or {}) - set(GUESSES)
    if unknown:
        raise ValueError(f"'columns' needs to be of {list(GUESSES)} (got {sorted(unknown)})")
    if path.is_dir():
        if items is not None or columns or text or image:
            raise ValueError(
                f"'items', 'columns', 'text' and 'image' are for a file ({path} is a folder)"
            )
        kind, read = _folder(path)
        return _result(kind, read, [])
    if not path.is_file():
        raise ValueError(f"'path' needs to be a folder or a file (there is none at '{path}')")
    guessed: list[str] = []
    try:
        roles = _roles(path, dict(columns or {}), guessed)
    except ValueError as error:
        return CheckResult("table of interactions", None, tuple(str(error).split("\n")))
    return _result(
        "table of interactions",
        lambda: from_files(
            path,
            items,
            user=roles["user"],
            item=roles["item"],
            rating=roles.get("rating"),
            time=roles.get("time"),
            split=roles.get("split"),
            text=list(text) or None,
            image=image,
        ),
        guessed,
    )


def _result(kind: str, read: Callable[[], InteractionDataset], guessed: list[str]) -> CheckResult:
    try:
        report = read().report
    except ValueError as error:
        return CheckResult(kind, None, tuple(str(error).split("\n")))
    if guessed:
        report = replace(report, notes=(*guessed, *report.notes))
    return CheckResult(kind, report, ())


def _folder(path: Path) -> tuple[str, Callable[[], InteractionDataset]]:
    names = {entry.name for entry in path.iterdir()}
    inter = sorted(name for name in names if name.endswith((".inter", ".inter.gz")))
    if inter:
        header = DelimitedFile(path / inter[0], [], [], optional=(), quoted=False).columns
        if any(":" in name for name in header):
            return "RecBole folder", lambda: RecBoleFolder(path)
        return "MMRec folder", lambda: MMRecFolder(path)
    if "train.txt" in names:
        return "LightGCN folder", lambda: LightGCNFolder(path)
    if {"ratings.csv", "movies.csv"} <= names:
        return "MovieLens folder", lambda: MovieLens(path)
    if any(name.endswith("_pairs.csv") for name in names):
        return "MicroLens folder", lambda: MicroLens(path)
    raise ValueError(
        f"'path' needs to be a folder with <name>.inter, train.txt, ratings.csv and movies.csv, or "
        f"*_pairs.csv, or a single table ({path} holds {sorted(names)[:8]})"
    )


def _roles(path: Path, columns: dict[str, str], guessed: list[str]) -> dict[str, str]:
    there = open_table(path, [], [], optional=()).columns
    for role, names in GUESSES.items():
        if role in columns:
            continue
        found = [name for name in names if name in there]
        if found:
            columns[role] = found[0]
            guessed.append(f"column '{found[0]}' taken as the {role}, by its name")
        elif role in ("user", "item"):
            raise ValueError(
                f"{path}, line 1: a column of {role}s is needed, under a usual name "
                f"({', '.join(names)}) or one that you name (got {there})"
            )
    return columns
