"""``alignrec check``: what data hold and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from alignrec_pyg.cli.entry_points import in_options
from alignrec_pyg.cli.options import FILES, errors_about, option
from alignrec_pyg.cli.raw_data import TableOptions

_NAMED = 50  # pictures that cannot be read


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
    nothing there to check. With --images every picture is opened, and those that cannot be read are
    named, with the reason; encode leaves them out and does not need them.
    """
    from alignrec_pyg import datasets

    with errors_about("PATH"):
        result = datasets.check(options.path, **options.reading(split=options.split))
    print(in_options(str(result)))
    if options.images is not None:
        print("\n".join(_unreadable(options.images)))
    return 1 if result.problems else 0


def _unreadable(images: Path) -> list[str]:
    """How many pictures there are, and which cannot be read, by the id they are named by."""
    from tqdm import tqdm

    from alignrec_pyg.encoders.images import ImageError, images_by_id, quiet_pillow, read_image

    with errors_about("--images"):
        by_id = images_by_id(images)
    failures = []
    with quiet_pillow():
        for name, source in tqdm(by_id.items(), desc="images", disable=None, leave=False):
            try:
                read_image(source)
            except ImageError as error:
                failures.append(f"  {name}: {error.reason}")
    more = [f"  and {len(failures) - _NAMED:,} more"] if len(failures) > _NAMED else []
    return [
        f"images: {len(by_id):,}, of which {len(failures):,} cannot be read",
        *failures[:_NAMED],
        *more,
    ]
