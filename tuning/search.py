"""Searches the settings of a model with Ray Tune, and scores the best ones on the test links.

    python tuning/search.py
    python tuning/search.py --model FREEDOM --data FOLDER --num-samples 30 --time-budget 2h

Every configuration trains with seed 0, and validation recall@20 tells which are worth it (ASHA
stops the others). The best few run with all seeds; the one of the best mean is scored on the test
links beside the untuned settings, and the command that gives its figures by hand is printed.

Without arguments: AlignRec on generated data. ``<out>/search.csv`` has every trial, ``search.md``
the configurations and the importance of each setting, two pictures show them, ``best.*`` is the
table of test metrics. Trials have one thread each unless ``--threads`` says otherwise. A sweep that
was interrupted or killed continues with ``--resume --out DIR``, also after its folder was moved.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import argparse
import re

from alignrec_pyg.cli import command
from alignrec_pyg.cli.arguments import make_parser, positive_int
from alignrec_pyg.experiments.prepare import data_name
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.storage import read_manifest
from alignrec_pyg.tuning.search import DEFINITION, search

_MODEL = "AlignRec"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the sweep (see :func:`alignrec_pyg.cli.command.main`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(given)
    out = options.out or Path("results") / data_name(options.data) / "tuning" / options.models[0]
    if options.resume and (out / DEFINITION).exists():
        given = [*read_manifest(out / DEFINITION, ("arguments",))["arguments"], *given]
    parser.set_defaults(given=given)
    return command.main("search.py", parser, _search, [*given, "--out", str(out.resolve())])


def _search(session: Session) -> int:
    try:
        return search(session)
    except ImportError as error:
        raise SettingsError([str(error)]) from error


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__, models=[_MODEL], choosable=False)
    parser.set_defaults(models=[_MODEL], threads=1)
    add = parser.add_argument
    add("--model", dest="models", nargs=1, metavar="NAME", help=f"model ({_MODEL})")
    add(
        "--search", choices=("optuna", "random", "grid"), default="optuna", help="how (optuna: TPE)"
    )
    add(
        "--space",
        choices=("wide", "paper"),
        help="ranges, or the paper's lists (wide; of a grid: paper)",
    )
    add("--axes", nargs="+", metavar="NAME", help="settings to search (all of the space)")
    add("--num-samples", type=positive_int, metavar="N", help="configurations to try (20)")
    add("--scheduler", choices=("asha", "none"), default="asha", help="what stops trials (asha)")
    add(
        "--finalists",
        type=positive_int,
        default=2,
        metavar="N",
        help="best configurations of seed 0 that run with all --seeds (2)",
    )
    add(
        "--time-budget",
        type=_seconds,
        metavar="TIME",
        help="of the search, e.g. 30m or 2h, from every start; finalists and test come after it",
    )
    add("--max-concurrent", type=positive_int, metavar="N", help="trials at a time (all that fit)")
    add("--cpus-per-trial", type=_share, metavar="F", help="processors (as many as --threads)")
    add("--gpus-per-trial", type=_share, metavar="F", help="share of a GPU (0.25, without GPU 0)")
    add("--address", metavar="A", help="of a Ray cluster, e.g. 'auto' (starts Ray on this machine)")
    add("--resume", action="store_true", help="continue the sweep in --out")
    return parser


def _seconds(text: str) -> float:
    """A time such as ``30m``, in seconds, for ``argparse``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"needs a form like 90s, 30m, 2h or 1d (got {text!r})")
    return float(match[1]) * _SECONDS[match[2]]


def _share(text: str) -> float:
    """A number of 0 or more, whole from 1 on, for ``argparse``."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs to be a number (got {text!r})") from None
    if not 0 <= value < float("inf") or (value > 1 and value % 1):
        raise argparse.ArgumentTypeError(
            f"needs to be a share up to 1 or a whole number (got {text!r})"
        )
    return value


if __name__ == "__main__":
    sys.exit(main())
