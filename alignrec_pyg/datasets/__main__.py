"""Data from the command line: ``python -m alignrec_pyg.datasets check PATH``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from alignrec_pyg.datasets.validation import GUESSES, check

UNUSABLE = 1
"""Exit code: the data cannot be used as they are."""

USAGE = 2
"""Exit code: nothing there that could be checked."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m alignrec_pyg.datasets")
    commands = made.add_subparsers(dest="command", required=True)
    add = commands.add_parser(
        "check",
        help="say what data hold and what is wrong with them",
        description="Reads a folder (MMRec, RecBole, LightGCN, MovieLens, MicroLens) or a table of "
        "interactions (csv, tsv, jsonl, each also .gz; parquet) and prints a report. Writes "
        "nothing. Exit code 0: usable, the notes say what was met; 1: not usable, each problem has "
        "its file, line and column; 2: nothing there to check.",
    ).add_argument
    add("path", type=Path, metavar="PATH", help="the folder or file")
    add("--items", type=Path, metavar="FILE", help="a table of items, with the same item column")
    for role in GUESSES:
        add(f"--{role}", metavar="COLUMN", help=f"the {role} column, if its name is no usual one")
    add("--text", nargs="+", default=[], metavar="COLUMN", help="text columns of --items")
    add("--image", metavar="COLUMN", help="image path column of --items")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parsed = parser().parse_args(arguments)
    columns = {role: getattr(parsed, role) for role in GUESSES if getattr(parsed, role)}
    try:
        result = check(
            parsed.path, items=parsed.items, columns=columns, text=parsed.text, image=parsed.image
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        return USAGE
    print(result)
    return UNUSABLE if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
