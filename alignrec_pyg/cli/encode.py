"""``alignrec encode``: raw data to a folder with feature tables and a split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from alignrec_pyg.cli.options import (
    ENCODING,
    OUTPUT,
    SPLIT,
    VAL_FROM_TRAIN,
    Device,
    OptionError,
    SplitRule,
    device_named,
    errors_about,
    log,
    natural,
    option,
    share,
)
from alignrec_pyg.cli.raw_data import RawDataOptions


@dataclass(frozen=True, kw_only=True)
class EncodeOptions(RawDataOptions):
    """The options of an encoded folder."""

    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A table of interactions, or a folder of a known kind."
        ),
    ] = field()  # no default
    split: Annotated[
        SplitRule | None,
        option(SPLIT, "Rule of the split.", show_default="the data's own labels, else random"),
    ] = None
    seed: Annotated[int, option(SPLIT, "Seed of what the split draws.", "N", parser=natural)] = 0
    val_from_train: Annotated[float | None, option(SPLIT, VAL_FROM_TRAIN, "X", parser=share)] = None
    cache: Annotated[
        Path | None,
        option(
            ENCODING,
            "Cache of encoded items: an interrupted run continues from it, and the next run "
            "encodes only new items.",
            "FOLDER",
            show_default="beside --out until it is written",
        ),
    ] = None
    clear_cache: Annotated[
        bool,
        option(ENCODING, "Remove from --cache what this run has not used.", name="--clear-cache"),
    ] = False
    device: Device = "auto"
    out: Annotated[Path, option(OUTPUT, "Where to write; new or empty.", "FOLDER")] = field()


def encode(options: EncodeOptions) -> None:
    """Turn raw data into a folder of feature tables with a split.

    Reads interactions (csv, tsv, jsonl, each also .gz; parquet; or a folder of MovieLens,
    MicroLens, RecBole, LightGCN or MMRec), runs an encoder over the items' texts and images, splits
    the interactions into train, validation and test, and writes a folder in MMRec's format, which
    train, compare, tune, evaluate, recommend and features read. Without texts and images it holds
    the interactions alone, for models that read nothing else.

    An interrupted run goes on when it is started again; the folder appears when it is complete.
    """
    from alignrec_pyg.atomic import remove_partial_files
    from alignrec_pyg.datasets import to_mmrec
    from alignrec_pyg.graph import INTERACTS
    from alignrec_pyg.report import describe_split
    from alignrec_pyg.storage import remove_cache
    from alignrec_pyg.transforms import SplitInteractions, remove_rows, unused_rows

    out, cache = options.out.resolve(), options.cache
    if options.clear_cache and cache is None:
        raise OptionError("--clear-cache", "needs --cache, whose folder stays")
    specs = options.specs()
    rows = cache if cache is not None else out.parent / f".{out.name}.cache"
    remove_partial_files(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if cache is None and rows.exists():  # of a run that was killed when it had written
            remove_cache(rows)
        raise OptionError("--out", f"needs to be new or empty (got {out})")
    place = device_named(options.device)
    data, _, reports = options.read(options.path, specs, rows, place)
    rule = options.split or ("labels" if "split" in data[INTERACTS] else "random")
    with errors_about("--split"):
        split_interactions = SplitInteractions(
            rule,
            seed=options.seed,
            keep_cold_users=True,
            val_from_train=options.val_from_train,
        )
        parts = split_interactions(data)
    print(f"split: {rule}\n{describe_split(*parts)}")

    to_mmrec(data, out, split=parts)
    if cache is None and rows.exists():
        remove_cache(rows)
    elif (unused := unused_rows(rows, reports)).shards and options.clear_cache:
        remove_rows(rows, unused)
    elif unused.shards:
        log(
            f"note: {unused.num_bytes / 1e6:.1f} MB in {cache} were not used (other encoders or "
            "former items): --clear-cache removes them"
        )
    log(f"written: {out}")
