"""``alignrec check``: what data hold and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignrec_pyg.cli.entry_points import in_options
from alignrec_pyg.cli.options import (
    ImageColumn,
    Item,
    Items,
    ItemsId,
    Known,
    Quoted,
    Rating,
    Text,
    Time,
    User,
    errors_about,
    named_columns,
)


def check(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder or file.")],
    items: Items = None,
    user: User = None,
    item: Item = None,
    rating: Rating = None,
    time: Time = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The split column, if its name is no usual one."),
    ] = None,
    items_id: ItemsId = None,
    text: Text = None,
    image: ImageColumn = None,
    quoted: Quoted = True,
    known: Known = None,
) -> int:
    """Say what data hold and what is wrong with them.

    Reads a folder (MMRec, RecBole, LightGCN, MovieLens, MicroLens) or a table of interactions (csv,
    tsv, jsonl, each also .gz; parquet) and prints a report. Writes nothing. Exit code 0: usable,
    the notes say what was met; 1: not usable, each problem has its file, line and column; 2:
    nothing there to check.
    """
    from alignrec_pyg import datasets

    columns = named_columns(user=user, item=item, rating=rating, time=time, split=split)
    with errors_about("PATH"):
        result = datasets.check(
            path,
            items=items,
            columns=columns,
            text=text or (),
            image=image,
            known=known,
            items_id=items_id,
            quoted=quoted,
        )
    print(in_options(str(result), context.command.params))
    return 1 if result.problems else 0
