"""The command line that all experiments share, and what its words mean."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from alignrec_pyg.cli.experiment_options import named_files as named_files
from alignrec_pyg.cli.experiment_options import problems_of_folder as problems_of_folder
from alignrec_pyg.experiments.prepare import NUM_NEIGHBORS, SYNTHETIC, Scale, data_name
from alignrec_pyg.experiments.settings import TABLE_2
from alignrec_pyg.models import model_names
from alignrec_pyg.transforms.split_interactions import SplitRule

ALL = "all"
"""What ``--models`` takes for all models."""


def make_parser(
    doc: str | None,
    models: Sequence[str] = tuple(model.__name__ for model in TABLE_2),
    *,
    choosable: bool = True,
    seeds: int = 3,
) -> argparse.ArgumentParser:
    """A parser with the arguments that all experiments know.

    Args:
        doc: What the script does.
        models: Models to run where ``--models`` is not given.
        choosable: Whether ``--models`` may name others.
        seeds: Number of seeds where ``--seeds`` is not given.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(default_models=list(models), models=None)
    add = parser.add_argument
    add("--data", default=SYNTHETIC, metavar="PATH", help="folder in MMRec format, or 'synthetic'")
    if choosable:
        add(
            "--models",
            nargs="+",
            metavar="NAME",
            help=f"of {', '.join(model_names())}, module:Class of your own, or 'all' "
            f"(default: {', '.join(models)})",
        )
    add("--features", nargs="+", metavar="NAME", help="feature tables to use (all)")
    add(
        "--tables",
        nargs="+",
        default=[],
        metavar="NAME=FILE.npy",
        help="further feature tables; row r belongs to item r",
    )
    add(
        "--neighbors",
        nargs="+",
        default=[],
        metavar="NAME=FILE.npz",
        help="ready item graphs: arrays 'neighbor' [items, k] and 'cosine' (FREEDOM needs none)",
    )
    add(
        "--item-neighbors",
        type=positive_int,
        default=NUM_NEIGHBORS,
        metavar="K",
        help=f"neighbours of an item in graphs made of feature tables ({NUM_NEIGHBORS})",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="MODEL.argument=value",
        help="other settings, e.g. LightGCN.num_layers=2 or AlignRec.lr=1e-3; may be repeated",
    )
    add(
        "--feature-scale",
        choices=get_args(Scale),
        default="rows",
        help="feature rows at length 1, or as they are stored (rows)",
    )
    add("--seeds", type=positive_int, default=seeds, metavar="N", help=f"seeds 0 to N-1 ({seeds})")
    add("--epochs", type=positive_int, metavar="N", help="most epochs to train")
    add("--patience", type=int, metavar="N", help="evaluations without improvement to bear")
    add("--lr", type=float, metavar="X", help="learning rate of all models")
    add("--batch-size", type=positive_int, metavar="N", help="links per batch")
    add("--split", choices=get_args(SplitRule), help="rule (the file's labels, else random)")
    add("--device", choices=("cpu", "cuda", "auto"), default="auto", help="where to train (auto)")
    add(
        "--threads",
        type=positive_int,
        metavar="N",
        help="CPU threads of each job (1)",
    )
    add(
        "--jobs",
        type=positive_int,
        metavar="N",
        help="runs at a time, each in a process of its own (cores / threads; on a GPU 1)",
    )
    add(
        "--settings",
        choices=("default", "published", "small"),
        help="of the models: the library's, the papers', or for small data (published; of the "
        "synthetic data small)",
    )
    add("--out", type=Path, metavar="DIR", help="where to write (results/<data name>)")
    return parser


def positive_int(text: str) -> int:
    """An integer of 1 or more, for ``argparse``."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs to be an integer (got {text!r})") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"needs to be 1 or more (got {value})")
    return value


def weight(text: str) -> float:
    """A finite number of 0 or more, for ``argparse``."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs to be a number (got {text!r})") from None
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"needs to be finite and 0 or more (got {value})")
    return value


def results_folder(options: argparse.Namespace, problems: list[str]) -> Path:
    """The folder to write to, made and tried unless there are problems already."""
    out: Path = options.out or Path("results") / data_name(options.data)
    problems += problems_of_folder(out, made=not problems)
    return out


def device_named(name: str, problems: list[str]) -> torch.device:
    """The device of ``--device``; a missing GPU joins ``problems``."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        problems.append("--device cuda: torch finds no GPU (--device cpu runs anywhere)")
    return torch.device(name)
