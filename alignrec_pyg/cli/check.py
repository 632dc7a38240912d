"""``alignrec check``: what data hold and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from alignrec_pyg.cli.entry_points import in_options
from alignrec_pyg.cli.options import FILES, errors_about, option
from alignrec_pyg.cli.raw_data import TableOptions


@dataclass(frozen=True, kw_only=True)
class CheckOptions(TableOptions):
    """The options of a check."""

    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder or file.")] = field()
    split: Annotated[
        str | None, option(FILES, "The split column, if its name is no usual one.", "COLUMN")
    ] = None


def check(options: CheckOptions) -> int:
    """Say what data hold and what is wrong with them.

    Reads a folder (MMRec, RecBole, LightGCN, MovieLens, MicroLens) or a table of interactions (csv,
    tsv, jsonl, each also .gz; parquet) and prints a report. Writes nothing. Exit code 0: usable,
    the notes say what was met; 1: not usable, each problem has its file, line and column; 2:
    nothing there to check.
    """
    from alignrec_pyg import datasets

    with errors_about("PATH"):
        result = datasets.check(options.path, **options.reading(split=options.split))
    print(in_options(str(result)))
    return 1 if result.problems else 0
