"""The command line of the demo page: ``python -m alignrec_pyg.demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from alignrec_pyg.checks import require_package
from alignrec_pyg.demo.model import load_or_train
from alignrec_pyg.demo.page import page
from alignrec_pyg.storage import CheckpointError

UNUSABLE = 2
"""Exit code for unusable data, run folders, ports or installations."""


def parser() -> argparse.ArgumentParser:
    """Creates the argument parser."""
    made = argparse.ArgumentParser(
        prog="python -m alignrec_pyg.demo",
        description="Displays recommendations with posters and explanations in a browser, and adds "
        "new items by image and text. The first start trains AlignRec (a minute or two), later "
        "ones load it. Without --data it uses synthetic data.",
    )
    add = made.add_argument
    add("--data", type=Path, metavar="FOLDER", help="a MovieLens folder, with or without posters")
    add(
        "--run",
        type=Path,
        metavar="FOLDER",
        help="folder of the model (default: results/demo/NAME of the data)",
    )
    add("--port", type=int, metavar="N", help="port (default: the first free one from 7860)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves the page until Ctrl-C; 2 if data, ``--run``, port or installation are unusable."""
    given = parser().parse_args(arguments)
    name = "synthetic" if given.data is None else given.data.resolve().name
    run: Path = given.run or Path("results", "demo", name)
    try:
        # Before anything is trained.
        require_package("gradio", "the demo page", "gradio", extra="demo")
        made = load_or_train(given.data, run, log=_log)
        page(
            made.model,
            made.data,
            val=made.val,
            titles=made.titles,
            user_names=made.user_names,
            encode=made.encode,
            item_graphs=made.item_graphs,
            id_vectors="neighbors",  # with "none", new items are recommended to hardly any user
            title=f"AlignRec on {name}",
        ).launch(given.port)
    except (CheckpointError, ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    return 0


def _log(line: str) -> None:
    tqdm.write(line, file=sys.stderr)  # above the progress bar, if there is one


if __name__ == "__main__":
    sys.exit(main())
