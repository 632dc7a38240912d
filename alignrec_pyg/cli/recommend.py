"""``alignrec recommend``: the best items of users, and similar items, in the ids of the data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from alignrec_pyg.cli.options import (
    DataFolder,
    Device,
    ItemsId,
    OptionError,
    OwnModel,
    ServedFolder,
    device_named,
    errors_about,
    log,
    positive_int,
)
from alignrec_pyg.text_tables import aligned_table

if TYPE_CHECKING:
    import pandas as pd

    from alignrec_pyg import Server
    from alignrec_pyg.ids import IdMap

_REASONS = 3
_NUMBERS = ("rank", "score", "cosine")
_BECAUSE = "because_of"
_OURS = ("user_id", "similar_to", "rank", "item_id", "score", "cosine", _BECAUSE)


def recommend(
    folder: ServedFolder,
    users: Annotated[
        list[str] | None, typer.Option(metavar="ID ...", help="Users to recommend for.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Recommend for all users.")] = False,
    similar: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID ...",
            help="List the items most similar to these instead (for EASE and "
            "neighbours: those to whose scores they add most).",
        ),
    ] = None,
    k: Annotated[
        int, typer.Option("--k", parser=positive_int, metavar="K", help="Items for each.")
    ] = 10,
    items: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A table of items, for --show.")
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN ...", help="Columns of --items to show: --show title year."),
    ] = None,
    items_id: ItemsId = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="ID ...", help="Items that may not be listed.")
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ids of the only items that may be listed, one a line."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Also list which items of the user's history are most similar to each, with "
            "their cosines (for EASE and neighbours: which add most to its score, and how much).",
        ),
    ] = False,
    unknown: Annotated[
        Literal["error", "popular"],
        typer.Option(
            help="What users get who are not in the data or have no links: an error, or the most "
            "popular items, whose score is the number of their links."
        ),
    ] = "error",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write, .csv or .parquet: what is shown, with unrounded scores and ids of "
            "their own type, for any number of users in bounded memory.",
        ),
    ] = None,
    data: DataFolder = None,
    model: OwnModel = None,
    device: Device = "auto",
) -> None:
    """Recommend items to users, in the ids of the data.

    A user's own items, validation and test items included, are not recommended, nor are the user's
    other known pairs, such as low ratings.
    """
    from alignrec_pyg import Server, UnknownUserError
    from alignrec_pyg.cli.runs import load_served
    from alignrec_pyg.ids import ids_from_texts

    if sum([bool(users), all_, bool(similar)]) != 1:
        raise OptionError(
            "--users, --all, --similar",
            "one of them is needed, and no more: whom to recommend for, or the items to list "
            "similar ones of",
        )
    if (items is None) != (not show):
        raise OptionError("--items, --show", "need each other: --items films.csv --show title")
    taken = [name for n, name in enumerate(show or []) if name in (*_OURS, *(show or [])[:n])]
    if taken:
        raise OptionError("--show", f"{taken[0]} is a column of the result already")
    if similar and (explain or unknown != "error"):
        option = "--explain" if explain else "--unknown"
        raise OptionError(option, "is for recommendations, not for --similar")
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise OptionError("--out", f"needs a name that ends in .csv or .parquet (got {out})")
    table = None if items is None else read_items(items, items_id, show or [])
    server = Server(*load_served(folder, data, model, device_named(device)), keep_model=False)
    titles = _NO_TITLES if table is None else shared_titles(server, str(items), table)
    limits: dict[str, Any] = {
        "candidates": None
        if candidates is None
        else checked_ids(server.items, "--candidates", read_lines(candidates)),
        "exclude": checked_ids(server.items, "--exclude", exclude or []),
    }
    if similar:
        like = checked_ids(server.items, "--similar", similar)
        with errors_about("--similar"):
            frames = iter([server.similar(like, k, as_frame=True, **limits)])
    else:
        asked = None if all_ else ids_from_texts(server.users.ids, users or [])
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                frames = server.frames(asked, k, unknown=unknown, **limits)
        except UnknownUserError as error:
            raise OptionError("--users", _in_options(error)) from error
        for warning in told:
            log(_in_options(warning.message))
    shown = (with_titles(frame, server, titles, explained=explain) for frame in frames)
    if out is None:
        print_frames(shown)
        return
    count = write_csv(out, shown) if out.suffix == ".csv" else write_table(out, shown, server)
    log(f"written: {out} ({count:,} rows)")


def _in_options(message: object) -> str:
    return (
        str(message).removeprefix("'user_ids' ").replace("unknown='popular'", "--unknown popular")
    )


@dataclass(frozen=True)
class Titles:
    """What to show of items: the names of columns, and their texts by id as text."""

    columns: Sequence[str]
    texts: Mapping[str, Sequence[str]]

    def of(self, item: Any) -> list[str]:
        """The texts of an item; empty strings for an item that the table lacks."""
        return list(self.texts.get(str(item), [""] * len(self.columns)))

    def name(self, item: Any) -> str:
        """What to call an item within a text: its first text that is not empty, or its id."""
        return next(filter(None, self.of(item)), str(item))


_NO_TITLES = Titles((), {})


def read_items(table: Path, items_id: str | None, show: Sequence[str]) -> Titles:
    """What to show for each item."""
    from alignrec_pyg.datasets.assemble import joined_text
    from alignrec_pyg.datasets.columns import as_strings
    from alignrec_pyg.datasets.recognition import GUESSES, column_of
    from alignrec_pyg.datasets.tables import open_table

    with errors_about("--items"):
        there = open_table(table, [], [], optional=()).columns
        ids = items_id or column_of("item", there)
        if ids is None:
            raise ValueError(
                f"{table} needs a column of items under a usual name ({', '.join(GUESSES['item'])})"
                f", or one named with --items-id (got {there})"
            )
        others = [name for name in show if name != ids]
        opened = open_table(table, [ids, *others], [], optional=(), text=others, ids=[ids])
        names = as_strings(opened.ids(ids))
        columns = [names if name == ids else opened.column(name) for name in show]
        texts = [[text or "" for text in joined_text([column])] for column in columns]
    rows = zip(names.values, zip(*texts, strict=True), strict=True)
    return Titles(show, {str(name): row for name, row in rows})


def with_titles(
    frame: pd.DataFrame, server: Server, titles: Titles, *, explained: bool
) -> pd.DataFrame:
    """A frame of recommendations or similar items with what is shown of them, and the reasons."""
    texts = [titles.of(item) for item in frame["item_id"].tolist()]
    for place, column in enumerate(titles.columns):
        frame.insert(3 + place, column, [row[place] for row in texts])
    if explained:
        reasons: list[str] = []
        for _, rows in frame.groupby((frame["rank"] == 1).cumsum()):  # each a list
            user = rows["user_id"].iloc[0]
            if int(server.users.find([user], "user_id")) < 0:  # of popular items
                reasons += [""] * len(rows)
                continue
            for why in server.explain(user, rows["item_id"], _REASONS):
                pairs = zip(why.item.tolist(), why.score.tolist(), strict=True)
                reasons.append("; ".join(f"{titles.name(own)} ({c:.2f})" for own, c in pairs))
        frame[_BECAUSE] = reasons
    return frame


def print_frames(frames: Iterator[pd.DataFrame]) -> None:
    """Prints a table of all rows, scores with four digits."""
    rows: list[list[str]] = []
    header: list[str] = []
    for frame in frames:
        header = list(frame.columns)
        rows += [
            [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row]
            for row in frame.itertuples(index=False, name=None)
        ]
    left = [column for column in range(len(header)) if header[column] not in _NUMBERS]
    print(aligned_table([header, *rows], left=left))


def write_csv(path: Path, frames: Iterator[pd.DataFrame]) -> int:
    """Writes frames to a csv file and counts the rows; a file that was there stays if it fails."""
    from alignrec_pyg.atomic import atomic_path

    count = 0
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        for number, frame in enumerate(frames):
            frame.to_csv(file, index=False, header=number == 0, lineterminator="\n")
            count += len(frame)
    return count


def write_table(path: Path, frames: Iterator[pd.DataFrame], server: Server) -> int:
    """Writes frames to a parquet file and counts the rows."""
    from alignrec_pyg.serving.export_parquet import write_parquet

    items = server.items.ids
    ids = {"user_id": server.users.ids, "item_id": items, "similar_to": items}
    return write_parquet(path, frames, ids)


def shared_titles(server: Server, table: str, titles: Titles) -> Titles:
    """The titles, if some of the items are among them."""
    from alignrec_pyg.tables import note_on_shared_ids

    ids = [str(item) for item in server.items.ids.tolist()]
    shared = sum(item in titles.texts for item in ids)
    with errors_about("--items"):
        few = note_on_shared_ids(table, shared, list(titles.texts), ids)
    if few:
        log(few)
    return titles


def read_lines(path: Path) -> list[str]:
    """The lines of ``--candidates`` that hold something."""
    with errors_about("--candidates"):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise ValueError(f"needs to be a text file of ids, one a line ({error})") from error
        found = [line.strip() for line in lines if line.strip()]
        if not found:
            raise ValueError(f"needs at least one id (got none in {path})")
    return found


def checked_ids(known: IdMap, option: str, texts: Sequence[str]) -> list[Any]:
    """Ids as the data have them: whole numbers where all are."""
    from alignrec_pyg.ids import ids_from_texts

    ids = ids_from_texts(known.ids, texts)
    try:
        known.numbers(ids, "ids")
    except ValueError as error:
        raise OptionError(option, str(error).removeprefix("'ids' ")) from error
    return ids
