"""``alignrec recommend``: the best items of users, and similar ones, in the user's own words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignrec_pyg.cli.evaluate import DataFolder, RunFolder
from alignrec_pyg.cli.options import (
    Device,
    Item,
    OptionError,
    device_named,
    errors_about,
    log,
    positive_int,
)
from alignrec_pyg.text_tables import aligned_table, csv_table

if TYPE_CHECKING:
    from alignrec_pyg.cli.runs import Run

_REASONS = 3


def recommend(
    run: RunFolder,
    users: Annotated[
        list[str] | None, typer.Option(metavar="ID ...", help="Users to recommend for.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Recommend for all users.")] = False,
    similar: Annotated[
        list[str] | None,
        typer.Option(metavar="ID ...", help="List the items most similar to these instead."),
    ] = None,
    k: Annotated[
        int, typer.Option("--k", parser=positive_int, metavar="K", help="Items for each.")
    ] = 10,
    items: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A table of items, for --show.")
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN ...", help="Columns of --items to show: --show title."),
    ] = None,
    item: Item = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="ID ...", help="Items that may not be listed.")
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ids of the only items that may be listed, one a line."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also which of the user's own items are most like each."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write there: .csv (what is shown), or .parquet (ids and scores; any number of "
            "users in bounded memory).",
        ),
    ] = None,
    data: DataFolder = None,
    device: Device = "auto",
) -> None:
    """Recommend items to users, in the ids of the data.

    A user's own items, test and validation items included, are known to the model and not
    recommended.
    """
    from alignrec_pyg.atomic import atomic_path
    from alignrec_pyg.cli.runs import load_run

    if sum([bool(users), all_, bool(similar)]) != 1:
        raise OptionError(
            "--users, --all, --similar",
            "one of them is needed, and no more: whom to recommend for, or the items to list "
            "similar ones of",
        )
    if (items is None) != (not show):
        raise OptionError("--items, --show", "need each other: --items films.csv --show title")
    if similar and explain:
        raise OptionError("--explain", "is for recommendations, not for --similar")
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise OptionError("--out", f"needs a name that ends in .csv or .parquet (got {out})")
    if out is not None and out.suffix == ".parquet" and (show or explain or similar):
        raise OptionError(
            "--out",
            f"{out} would hold ids and scores of recommendations; --show, --explain and --similar "
            "need .csv",
        )
    titles = None if items is None else read_titles(items, item, show or [])
    trained = load_run(run, data, device_named(device))
    limits: dict[str, Any] = {
        "candidates": None
        if candidates is None
        else checked_ids(trained, "item", "--candidates", read_lines(candidates)),
        "exclude": checked_ids(trained, "item", "--exclude", exclude or []),
    }
    asked = None if all_ else checked_ids(trained, "user", "--users", users or [])
    if similar:
        like = checked_ids(trained, "item", "--similar", similar)
        header, rows = _similar(trained, like, k, limits, titles)
    elif out is not None and out.suffix == ".parquet":
        from alignrec_pyg.serving import export_recommendations

        count = export_recommendations(trained.model, trained.known, out, k, users=asked, **limits)
        log(f"written: {out} ({count:,} rows)")
        return
    else:
        header, rows = _recommended(trained, asked, k, limits, titles, explained=explain)
    if out is None:
        print(aligned_table([header, *rows], left=[0, *range(2, len(header))]))
        return
    with atomic_path(out) as partial:
        partial.write_text(csv_table([header, *rows]), encoding="utf-8")
    log(f"written: {out} ({len(rows):,} rows)")


def read_titles(table: Path, item: str | None, show: Sequence[str]) -> dict[str, str]:
    """What to show for each item, by its id as text."""
    from alignrec_pyg.datasets.assemble import joined_text
    from alignrec_pyg.datasets.recognition import GUESSES, column_of
    from alignrec_pyg.datasets.tables import open_table

    with errors_about("--items"):
        there = open_table(table, [], [], optional=()).columns
        ids = item or column_of("item", there)
        if ids is None:
            raise ValueError(
                f"{table} needs a column of items under a usual name ({', '.join(GUESSES['item'])})"
                f", or one named with --item (got {there})"
            )
        wanted = [ids, *show]
        opened = open_table(table, wanted, [], optional=(), text=wanted)
        names = [str(value) for value in opened.column(ids).values]
        titles = joined_text([opened.column(column) for column in show], len(names), [])
    return {name: title or "" for name, title in zip(names, titles, strict=True)}


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


def checked_ids(run: Run, kind: str, option: str, texts: Sequence[str]) -> list[Any]:
    """Ids of users or items as the data have them: whole numbers where all are."""
    from alignrec_pyg.ids import item_ids, item_indices, user_ids, user_indices

    data = run.known
    known, numbers = (
        (user_ids(data), user_indices) if kind == "user" else (item_ids(data), item_indices)
    )
    ids: list[Any] = list(texts)
    if known.dtype.kind == "i":
        ids = [int(text) if text.lstrip("-").isdecimal() else text for text in texts]
    with errors_about(option):
        numbers(data, ids, "ids")
    return ids


def _recommended(
    run: Run,
    users: list[Any] | None,
    k: int,
    limits: dict[str, Any],
    titles: dict[str, str] | None,
    *,
    explained: bool,
) -> tuple[list[str], list[list[str]]]:
    from alignrec_pyg import recommend as recommend_items
    from alignrec_pyg.evaluation.ranking import embeddings
    from alignrec_pyg.ids import user_ids
    from alignrec_pyg.serving import explain

    if users is None:
        users = user_ids(run.known).tolist()
    lists = recommend_items(run.model, run.known, users, k, **limits)
    item_x = embeddings(run.model, run.known)[1] if explained else None
    rows: list[list[str]] = []
    for user, found in zip(users, lists, strict=True):
        reasons: list[list[str]] = [[] for _ in found]
        if explained and len(found):
            because = explain(run.model, run.known, user, found, _REASONS, item_x=item_x)
            reasons = [
                ["; ".join(_named(own, titles) for own in reason.item.tolist())]
                for reason in because
            ]
        for rank, (item, reason) in enumerate(zip(found.tolist(), reasons, strict=True), start=1):
            rows.append([str(user), str(rank), str(item), *_title(item, titles), *reason])
    title = [] if titles is None else ["title"]
    return ["user", "rank", "item", *title, *(["because of"] if explained else [])], rows


def _similar(
    run: Run, items: list[Any], k: int, limits: dict[str, Any], titles: dict[str, str] | None
) -> tuple[list[str], list[list[str]]]:
    from alignrec_pyg.serving import similar_items

    lists = similar_items(run.model, run.known, items, k, **limits)
    rows = [
        [_named(asked, titles), str(rank), str(item), *_title(item, titles), f"{cosine:.4f}"]
        for asked, found in zip(items, lists, strict=True)
        for rank, (item, cosine) in enumerate(
            zip(found.item.tolist(), found.similarity.tolist(), strict=True), start=1
        )
    ]
    title = [] if titles is None else ["title"]
    return ["similar to", "rank", "item", *title, "cosine"], rows


def _title(item: Any, titles: dict[str, str] | None) -> list[str]:
    return [] if titles is None else [titles.get(str(item), "")]


def _named(item: Any, titles: dict[str, str] | None) -> str:
    return str(item) if titles is None else titles.get(str(item)) or str(item)
