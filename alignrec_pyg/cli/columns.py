"""Options that name a table of items and the columns of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _column(role: str) -> typer.models.OptionInfo:
    return typer.Option(metavar="COLUMN", help=f"The {role} column, if its name is no usual one.")


User = Annotated[str | None, _column("user")]
Item = Annotated[str | None, _column("item")]
Rating = Annotated[str | None, _column("rating")]
Time = Annotated[str | None, _column("time")]
Items = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A table of items, with the same item column."),
]
Text = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN ...", help="Text columns of --items, joined in this order."),
]


def named_columns(**given: str | None) -> dict[str, str]:
    """The columns that were named, by role."""
    return {role: column for role, column in given.items() if column is not None}
