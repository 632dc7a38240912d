"""The command line of ``benchmarks/features.py``, and what its words mean."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from alignrec_pyg.checks import unknown_names
from alignrec_pyg.cli.arguments import positive_int
from alignrec_pyg.cli.encoder_specs import FORMS
from alignrec_pyg.encoders.texts import FIELDS
from alignrec_pyg.experiments.prepare import SYNTHETIC
from alignrec_pyg.feature_eval.item_targets import Score
from alignrec_pyg.feature_eval.ranks import Similarity
from alignrec_pyg.feature_eval.user_targets import Ties
from alignrec_pyg.transforms.split_interactions import SplitRule

IN_TIME = "time"


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """The parser of a script that does what ``doc`` says."""
    parser = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", default=SYNTHETIC, metavar="PATH", help="folder in MMRec format, or 'synthetic'")
    add(
        "--tables",
        nargs="+",
        default=[],
        metavar="NAME=FILE.npy",
        help="further feature tables; row r belongs to item r",
    )
    add(
        "--encoders",
        nargs="+",
        default=[],
        metavar="SPEC",
        help=f"{FORMS} (a folder holds an encoder of stage 1 or a sentence transformer)",
    )
    add("--catalogue", type=Path, metavar="FILE", help="table of items to encode, by their ids")
    add("--fields", nargs="+", default=list(FIELDS), metavar="NAME", help="its columns of text")
    add("--images", type=Path, metavar="PATH", help="folder or zip file of images, named by id")
    add("--sets", nargs="+", metavar="NAME[+NAME]", help="feature sets (each table, then all)")
    add(
        "--replace",
        nargs="+",
        default=[],
        metavar="SET:MODALITY=TABLE",
        help="rows that a set's encoder gives without the modality, e.g. mm:image=mm_of_text",
    )
    add("--targets", choices=(IN_TIME, "val", "test"), help="what zero-shot finds (time, else val)")
    add("--links", choices=("all", "train"), default="all", help="what the protocols see (all)")
    add("--split", choices=get_args(SplitRule), help="rule (the file's labels, else random)")
    add("--similarity", choices=get_args(Similarity), default="cosine", help="(cosine)")
    add("--exclude-history", action="store_true", help="a user's history is no candidate")
    add("--ties", choices=get_args(Ties), default="last", help="of equal times, which is last")
    add("--normalize-parts", action="store_true", help="rows of each table at length 1")
    add("--normalize-items", action="store_true", help="rows of a history at length 1")
    add("--score", choices=get_args(Score), default="cosine", help="item-CF score (cosine)")
    add("--min-common", type=positive_int, default=1, metavar="N", help="common users (1)")
    add("--mask-ratio", type=share, default=0.5, metavar="X", help="share of items (0.5)")
    add("--seed", type=int, default=0, metavar="N", help="of masks and random ties (0)")
    add("--device", choices=("cpu", "cuda", "auto"), default="auto", help="where to run (auto)")
    add("--threads", type=positive_int, metavar="N", help="CPU threads (as torch decides)")
    add("--out", type=Path, metavar="DIR", help="where to write (results/<data name>)")
    return parser


def feature_sets(
    asked: Sequence[str] | None,
    names: Sequence[str],
    replacements: Mapping[tuple[str, str], str],
    problems: list[str],
) -> dict[str, list[str]]:
    """Tables by the name of the set."""
    whole = [name for name in names if name not in replacements.values()]
    texts = asked or ([*whole, "+".join(whole)] if len(whole) > 1 else whole)
    if not texts:
        problems.append("--data: it has no feature table; --tables NAME=FILE.npy gives some")
    sets = {text: text.split("+") for text in texts}
    for text, parts in sets.items():
        problems += unknown_names("feature", parts, names)
        if len(set(parts)) < len(parts):
            problems.append(f"--sets {text}: names a table twice")
    for name, modality in replacements:
        if name not in sets:
            problems.append(
                f"--replace {name}:{modality}: {name} is not among the sets to evaluate"
            )
    return sets


def replacement_tables(
    entries: Sequence[str], names: Sequence[str], problems: list[str]
) -> dict[tuple[str, str], str]:
    """Tables by set and modality that is masked."""
    found: dict[tuple[str, str], str] = {}
    for entry in entries:
        place, equals, table = entry.partition("=")
        of, colon, modality = place.partition(":")
        if not (equals and colon and of and modality and table):
            problems.append(f"--replace {entry}: needs the form SET:MODALITY=TABLE")
        elif "+" in of:
            problems.append(f"--replace {entry}: needs a set of one table")
        else:
            problems += unknown_names("feature", [of, table], names)
            found[of, modality] = table
    return found


def options_text(options: argparse.Namespace) -> str:
    """The protocols' open choices, on one line."""
    told = {
        "similarity": options.similarity,
        "history": "no candidates" if options.exclude_history else "candidates",
        "equal times": options.ties,
        "tables": "at length 1" if options.normalize_parts else "as stored",
        "rows of a history": "at length 1" if options.normalize_items else "as they are",
        "item-CF score": options.score,
        "common users": f"{options.min_common} or more",
        "masked": f"{100 * options.mask_ratio:g} %",
        "seed": options.seed,
    }
    return ", ".join(f"{name} {value}" for name, value in told.items())


def share(text: str) -> float:
    """A number in [0, 1], for ``argparse``."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs to be a number (got {text!r})") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"needs to be in [0, 1] (got {value})")
    return value
