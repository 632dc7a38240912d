"""The MovieLens datasets with plots and posters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from alignrec_pyg.archives import ArchiveError, open_archive, read_member
from alignrec_pyg.datasets.columns import checked_ids, checked_numbers, checked_times
from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.folders import IMAGE_SUFFIXES, existing_folder, single_path
from alignrec_pyg.datasets.interactions import InteractionDataset, KnownPairs, interaction_graph
from alignrec_pyg.graph import ITEM
from alignrec_pyg.report import describe

MAX_POSTER_BYTES = 32 * 2**20
"""Most bytes of a poster in a zip file."""

MAX_POSTERS_BYTES = 2**30
"""Most bytes of all posters in a zip file, which are held in memory."""


@dataclass(frozen=True)
class Poster:
    """A poster file in memory, as a function that returns its bytes.

    PyG's ``data.to(device)`` would convert plain bytes to a list of numbers.
    """

    content: bytes

    def __call__(self) -> bytes:
        """Returns the bytes of the file."""
        return self.content

    def __repr__(self) -> str:
        """The hash of the bytes, since stage 1 identifies functions by their representation."""
        return f"Poster({hashlib.sha256(self.content).hexdigest()[:16]})"


class MovieLens(InteractionDataset):
    """A folder with a MovieLens dataset and, optionally, the plots and posters of its movies.

    - ``ratings.csv``: ``userId, movieId, rating, timestamp``;
    - ``movies.csv``: ``movieId, title, genres``;
    - ``overviews.csv``, optional: ``movieId, overview``; other columns are ignored;
    - ``posters*.zip`` or a folder ``posters*``, optional: ``<movieId>.jpg`` (or ``.png``,
      ``.webp``); archives are not unpacked.

    Items are the movies with ratings, in the order of their ids. ``data["item"].text`` contains the
    given fields, joined by a space (``None`` if all are empty), and ``data["item"].image`` the
    poster: its path or, in an archive, a function that returns its bytes (``None`` without a
    poster). Times are in seconds since 1970.

    The ratings and tags of `GroupLens <https://grouplens.org/datasets/movielens/>`_ (Harper and
    Konstan, ACM TiiS 2015) are for research; ``ml-latest-small`` has 100,836 ratings of 9,724
    movies by 610 users. It does not include plots and posters: they are from TMDB by the ids in
    ``links.csv``, and posters are the studios' artwork, which must not be published.

    Args:
        path: The folder.
        min_rating: Lowest rating of an interaction (4 to treat ratings as likes); lower ones of the
            same users and movies are known pairs (:mod:`alignrec_pyg.graph`). Of a movie that a
            user has rated several times, the first row counts.
        text: Fields of a movie's text, among ``"title"``, ``"genres"`` and ``"overview"``.
        require: Movies without one of these are removed with their ratings.

    Raises:
        ValueError: If a file is missing or does not have the expected format; the message contains
            line and column.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        min_rating: float | None = None,
        text: Sequence[Literal["title", "genres", "overview"]] = ("title", "overview"),
        require: Sequence[Literal["text", "image"]] = (),
    ) -> None:
        folder = existing_folder(path)
        _check_names("text", text, ("title", "genres", "overview"))
        _check_names("require", require, ("text", "image"))
        notes: list[str] = []
        ratings = DelimitedFile(
            folder / "ratings.csv",
            ["userId", "movieId", "rating", "timestamp"],
            notes,
            optional=(),
        )
        frame = pd.DataFrame(
            {
                "user": checked_ids(ratings.column("userId"), notes).values,
                "movie": checked_ids(ratings.column("movieId"), notes).values,
                "rating": _numbers(ratings, "rating", notes),
                "time": checked_times(ratings.column("timestamp"), notes),
            }
        )
        repeated = frame.duplicated(["user", "movie"])
        frame, lower = frame[~repeated], frame[:0]
        if min_rating is not None:
            low = frame["rating"] < min_rating
            lower = frame[low]
            frame = _kept(frame, ~low, f"below {min_rating}", "are no interactions", notes)
        texts = _texts(folder, text, notes)
        source, posters = _posters(folder, notes)
        for what, there in (("text", texts), ("image", posters)):
            if what in require:
                present = frame["movie"].isin(there.keys())
                frame = _kept(frame, present, f"of movies without {what}", "left out", notes)

        user_index, user_id = pd.factorize(frame["user"].to_numpy(), sort=True)
        item_index, item_id = pd.factorize(frame["movie"].to_numpy(), sort=True)
        ends = (
            pd.Index(ids).get_indexer(lower[name].to_numpy())
            for name, ids in (("user", user_id), ("movie", item_id))
        )
        lower = lower.assign(**dict(zip(("user", "movie"), ends, strict=True)))
        lower = lower[(lower["user"] >= 0) & (lower["movie"] >= 0)]
        data, _ = interaction_graph(
            user_index.astype(np.int64),
            item_index.astype(np.int64),
            user_id,
            item_id,
            notes,
            rating=frame["rating"].to_numpy(),
            time=frame["time"].to_numpy(),
            known=KnownPairs(*(lower[name].to_numpy() for name in lower.columns)),
        )
        data[ITEM].text = [texts.get(movie) for movie in item_id.tolist()]
        images = _read_posters(source, [posters.get(movie) for movie in item_id.tolist()], notes)
        data[ITEM].image = images
        for what, column in (("text", data[ITEM].text), ("poster", images)):
            missing = sum(entry is None for entry in column)
            if missing:
                notes.append(f"{missing:,} of {len(item_id):,} movies have no {what}")
        super().__init__(data, describe(data, duplicates=int(repeated.sum()), notes=notes))


def _check_names(argument: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if isinstance(names, str) or unknown:
        raise ValueError(f"'{argument}' needs to be a list of {list(known)} (got {names!r})")


def _numbers(table: DelimitedFile, name: str, notes: list[str]) -> np.ndarray:
    column = table.column(name)
    values = checked_numbers(column, notes)
    if values is None:
        column.refuse(0, "a number is needed in every row")
    return values


def _kept(
    frame: pd.DataFrame, keep: pd.Series, what: str, become: str, notes: list[str]
) -> pd.DataFrame:
    left_out = int((~keep).sum())
    if left_out == len(frame):
        raise ValueError(f"at least one rating is needed (all {len(frame):,} are {what})")
    if left_out:
        notes.append(f"{left_out:,} of {len(frame):,} ratings {what} {become}")
    return frame[keep]


def _texts(folder: Path, fields: Sequence[str], notes: list[str]) -> dict[int, str]:
    """The texts of movies, for those with a text."""
    parts: dict[int, dict[str, str]] = {}
    for name, columns in (("movies.csv", ("title", "genres")), ("overviews.csv", ("overview",))):
        wanted = [column for column in columns if column in fields]
        if not wanted:
            continue
        if name == "overviews.csv" and not (folder / name).is_file():
            notes.append(f"no {name}: texts hold no overview")
            continue
        table = DelimitedFile(folder / name, ["movieId", *wanted], notes, optional=(), text=wanted)
        movies = table.column("movieId")
        ids = checked_ids(movies, notes).values
        twice = pd.Series(ids).duplicated().to_numpy()
        if twice.any():
            movies.refuse(twice, "each movie needs to be listed once")
        for column in wanted:
            values = table.column(column).values
            for movie, value in zip(ids.tolist(), values, strict=True):
                written = "" if pd.isna(value) else str(value).strip()
                if column == "genres":
                    written = "" if written == "(no genres listed)" else written.replace("|", " ")
                if written:
                    parts.setdefault(movie, {})[column] = written
    return {
        movie: " ".join(found[field] for field in fields if field in found)
        for movie, found in parts.items()
    }


def _posters(folder: Path, notes: list[str]) -> tuple[Path, dict[int, str]]:
    """The folder or archive of the posters, and the file in it of each movie with a poster."""
    sources = (p for p in folder.glob("posters*") if p.is_dir() or p.suffix == ".zip")
    source = single_path(sources, folder, "sets of posters")
    if source is None:
        notes.append("no posters*.zip and no folder posters*: no movie has a poster")
        return folder, {}
    if source.is_dir():
        names = sorted(path.name for path in source.iterdir())
    else:
        with open_archive(source) as archive:
            members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > MAX_POSTERS_BYTES:
            raise ValueError(
                f"{source}: posters in a zip file need to be below {MAX_POSTERS_BYTES:,} bytes in "
                f"all (got {total:,}): unpack it into a folder {source.with_suffix('').name}, "
                "whose files are read one at a time"
            )
        names = [m.filename for m in members if not m.is_dir()]
    found: dict[int, str] = {}
    strange = 0
    for name in names:
        stem, ending = Path(name).stem, Path(name).suffix.lower()
        if stem.isascii() and stem.isdigit() and ending in IMAGE_SUFFIXES:
            found[int(stem)] = name
        else:
            strange += 1
    if strange:
        notes.append(f"{source.name}: {strange:,} files not named <movieId>.jpg not read")
    return source, found


def _read_posters(
    source: Path, names: list[str | None], notes: list[str]
) -> list[Path | Poster | None]:
    """The posters; those that cannot be read are missing, with a note."""
    if source.is_dir():
        return [None if name is None else source / name for name in names]
    images: list[Path | Poster | None] = []
    failures: list[str] = []
    with open_archive(source) as archive:
        for name in names:
            images.append(None)
            if name is not None:
                try:
                    images[-1] = Poster(read_member(archive, name, MAX_POSTER_BYTES))
                except ArchiveError as error:
                    failures.append(f"{name}: {error}")
    if failures:
        notes.append(
            f"ATTENTION: {source.name}: {len(failures):,} posters cannot be read (first: "
            f"{failures[0]})"
        )
    return images
