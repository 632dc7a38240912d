"""``alignrec recommend``: the best items of users, and similar ones, in the user's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignrec_pyg.cli.evaluate import DataFolder, RunFolder
from alignrec_pyg.cli.options import (
    Device,
    ItemsId,
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
_NUMBERS = ("rank", "score", "cosine")


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
            "--explain", help="Also which of the user's own items are most like each, and how much."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write there: .csv (what is shown, scores in full), or .parquet (ids and scores; "
            "any number of users in bounded memory).",
        ),
    ] = None,
    data: DataFolder = None,
    device: Device = "auto",
) -> None:
    """Recommend items to users, in the ids of the data.

    A user's own items, test and validation items included, are known to the model and not
    recommended, nor are the user's other known pairs, such as what was rated low.
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
    table = None if items is None else read_items(items, items_id, show or [])
    trained = load_run(run, data, device_named(device))
    titles = _NO_TITLES if table is None else shared_titles(trained, str(items), table)
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
        shown = [[f"{c:.4f}" if isinstance(c, float) else c for c in row] for row in rows]
        left = [column for column in range(len(header)) if header[column] not in _NUMBERS]
        print(aligned_table([header, *shown], left=left))
        return
    with atomic_path(out) as partial:
        partial.write_text(csv_table([header, *rows]), encoding="utf-8")
    log(f"written: {out} ({len(rows):,} rows)")


@dataclass(frozen=True)
class Titles:
    """What to show of items: the names of columns, and their texts by id as text."""

    columns: Sequence[str]
    texts: Mapping[str, Sequence[str]]

    def of(self, item: Any) -> list[str]:
        """The texts of an item, empty where nothing is known of it."""
        return list(self.texts.get(str(item), [""] * len(self.columns)))

    def name(self, item: Any) -> str:
        """What to call an item within a text: what is first known of it, or its id."""
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


def shared_titles(run: Run, table: str, titles: Titles) -> Titles:
    """The titles, if some of the run's items are among them."""
    from alignrec_pyg.ids import item_ids
    from alignrec_pyg.tables import note_on_shared_ids

    ids = [str(item) for item in item_ids(run.known).tolist()]
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


def checked_ids(run: Run, kind: str, option: str, texts: Sequence[str]) -> list[Any]:
    """Ids of users or items as the data have them: whole numbers where all are."""
    from alignrec_pyg.ids import (
        ids_from_texts,
        item_ids,
        item_indices,
        user_ids,
        user_indices,
    )

    data = run.known
    known, numbers = (
        (user_ids(data), user_indices) if kind == "user" else (item_ids(data), item_indices)
    )
    ids = ids_from_texts(known, texts)
    with errors_about(option):
        numbers(data, ids, "ids")
    return ids


def _recommended(
    run: Run,
    users: list[Any] | None,
    k: int,
    limits: dict[str, Any],
    titles: Titles,
    *,
    explained: bool,
) -> tuple[list[str], list[list[Any]]]:
    from alignrec_pyg.evaluation.metrics import allowed_items, left_out
    from alignrec_pyg.evaluation.ranking import embeddings, rank_blocks
    from alignrec_pyg.ids import item_ids, user_ids, user_indices
    from alignrec_pyg.serving import explain

    if users is None:
        users = user_ids(run.known).tolist()
    asked = user_indices(run.known, users, "users")
    distinct = asked.unique()
    blocks = rank_blocks(
        run.model,
        run.known,
        distinct,
        min(k, run.model.num_items),
        left_out(run.known, distinct, exclude_known=True),
        items=allowed_items(run.known, limits["candidates"], limits["exclude"]),
    )
    names = item_ids(run.known).tolist()
    found = {
        user: [(names[i], s) for i, s in zip(items, scores, strict=True) if i < len(names)]
        for block in blocks
        for user, items, scores in zip(*(part.tolist() for part in block), strict=True)
    }
    item_x = embeddings(run.model, run.known)[1] if explained else None
    rows: list[list[Any]] = []
    for user, number in zip(users, asked.tolist(), strict=True):
        best = found[number]
        reasons: list[list[str]] = [[] for _ in best]
        if explained and best:
            items = [item for item, _ in best]
            because = explain(run.model, run.known, user, items, _REASONS, item_x=item_x)
            reasons = [
                [
                    "; ".join(
                        f"{titles.name(own)} ({cosine:.2f})"
                        for own, cosine in zip(*(part.tolist() for part in reason), strict=True)
                    )
                ]
                for reason in because
            ]
        for rank, ((item, score), reason) in enumerate(zip(best, reasons, strict=True), start=1):
            rows.append([str(user), str(rank), str(item), *titles.of(item), score, *reason])
    because_of = ["because of"] if explained else []
    return ["user_id", "rank", "item_id", *titles.columns, "score", *because_of], rows


def _similar(
    run: Run, items: list[Any], k: int, limits: dict[str, Any], titles: Titles
) -> tuple[list[str], list[list[Any]]]:
    from alignrec_pyg.serving import similar_items

    lists = similar_items(run.model, run.known, items, k, **limits)
    rows = [
        [titles.name(asked), str(rank), str(item), *titles.of(item), cosine]
        for asked, found in zip(items, lists, strict=True)
        for rank, (item, cosine) in enumerate(
            zip(found.item.tolist(), found.similarity.tolist(), strict=True), start=1
        )
    ]
    return ["similar to", "rank", "item_id", *titles.columns, "cosine"], rows
