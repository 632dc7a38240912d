"""``alignrec encode``: raw data to a folder with feature tables and a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alignrec_pyg.cli.entry_points import in_options
from alignrec_pyg.cli.options import (
    VAL_FROM_TRAIN,
    Device,
    ImageColumn,
    Item,
    Items,
    ItemsId,
    Known,
    OptionError,
    Quoted,
    Rating,
    SplitRule,
    Text,
    Time,
    User,
    device_named,
    errors_about,
    fraction,
    log,
    named_columns,
    natural,
    number,
    positive_int,
    share,
)

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from alignrec_pyg.cli.encoder_specs import EncoderSpec
    from alignrec_pyg.transforms import EncodingReport


def encode(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH", help="A table of interactions, or a folder of a known kind."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to write; new or empty.")],
    items: Items = None,
    items_id: ItemsId = None,
    text: Text = None,
    image: ImageColumn = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Folder or zip file of images named by item id: 1.jpg, 7.png."
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC ...",
            help="Encoders: tfidf (texts), patch_pca (images), NAME=FOLDER (of stage 1 or of a "
            "sentence transformer), NAME=hub:MODEL (a sentence transformer, downloaded), "
            "NAME=clip:MODEL:WEIGHTS (open_clip; a file or tag).",
            show_default="tfidf and patch_pca, as far as there is content",
        ),
    ] = None,
    user: User = None,
    item: Item = None,
    rating: Rating = None,
    time: Time = None,
    quoted: Quoted = True,
    known: Known = None,
    min_rating: Annotated[
        float | None,
        typer.Option(
            parser=number,
            metavar="X",
            help="Ratings below are no likes, but known, and never recommended.",
        ),
    ] = None,
    k_core: Annotated[
        int,
        typer.Option(
            parser=positive_int,
            metavar="K",
            help="Keep users and items with K interactions or more.",
        ),
    ] = 1,
    split: Annotated[
        SplitRule | None,
        typer.Option(help="Rule of the split.", show_default="the data's own labels, else random"),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(parser=natural, metavar="N", help="Seed of what the split draws."),
    ] = 0,
    val_from_train: Annotated[
        float | None, typer.Option(parser=share, metavar="X", help=VAL_FROM_TRAIN)
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            parser=positive_int,
            metavar="N",
            help="Width of tfidf and patch_pca.",
            show_default="64, or less for few items",
        ),
    ] = None,
    max_failures: Annotated[
        float,
        typer.Option(parser=fraction, metavar="X", help="Share of images that may be unreadable."),
    ] = 0.05,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where encoded items are kept: to go on after an interruption, and for the next "
            "time, when only new items are encoded.",
            show_default="beside --out until it is written",
        ),
    ] = None,
    clear_cache: Annotated[
        bool,
        typer.Option("--clear-cache", help="Remove from --cache what this run has not used."),
    ] = False,
    device: Device = "auto",
) -> None:
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
    from alignrec_pyg.datasets.recognition import recognize
    from alignrec_pyg.experiments.settings import models_of_links
    from alignrec_pyg.graph import INTERACTS, feature_names
    from alignrec_pyg.report import describe_split
    from alignrec_pyg.storage import remove_cache
    from alignrec_pyg.transforms import SplitInteractions, remove_rows, unused_rows

    if clear_cache and cache is None:
        raise OptionError("--clear-cache", "needs --cache, whose folder stays")
    if images is not None and image is not None:
        raise OptionError("--image, --images", "give one of them (got both)")
    if items is not None and not text and image is None:
        raise OptionError(
            "--items", "name its text columns with --text, or its image column with --image"
        )
    out = out.resolve()
    rows = cache if cache is not None else out.parent / f".{out.name}.cache"
    remove_partial_files(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if cache is None and rows.exists():  # of a run that was killed when it had written
            remove_cache(rows)
        raise OptionError("--out", f"needs to be new or empty (got {out})")
    place = device_named(device)
    specs = _specs(encoder)
    columns = named_columns(user=user, item=item, rating=rating, time=time)

    with errors_about("PATH"):
        found = recognize(
            path,
            items=items,
            columns=columns,
            text=text or [],
            image=image,
            known=known,
            items_id=items_id,
            quoted=quoted,
        )
    dataset = found.read()
    report = in_options(str(dataset.report), context.command.params)
    print(f"read as: {found.kind}\n{report}")
    data = _filtered(dataset.data, min_rating, k_core)
    if images is not None:
        _add_images(data, images)
    there = _modalities(data)
    if not there and specs:
        raise OptionError(
            "--encoder", "there is nothing to encode: give --items with --text, or --images"
        )
    if not there and not feature_names(data):
        log(
            "note: the items have neither texts nor images (--items with --text, or --images): "
            f"for models that read interactions alone: {', '.join(models_of_links())}"
        )
    if encoder is None:
        learned = (("text", "tfidf"), ("image", "patch_pca"))
        specs = _specs([name for modality, name in learned if modality in there])
    for spec in specs:
        if spec.name in feature_names(data):
            raise OptionError(
                "--encoder", f"the data have a table '{spec.name}' already: name another"
            )
    data, reports = _encoded(data, specs, there, width, max_failures, rows, place)
    rule = split or ("labels" if "split" in data[INTERACTS] else "random")
    with errors_about("--split"):
        split_interactions = SplitInteractions(
            rule, seed=seed, keep_cold_users=True, val_from_train=val_from_train
        )
        parts = split_interactions(data)
    print(f"split: {rule}\n{describe_split(*parts)}")

    to_mmrec(data, out, split=parts)
    if cache is None and rows.exists():
        remove_cache(rows)
    elif (unused := unused_rows(rows, reports)).shards and clear_cache:
        remove_rows(rows, unused)
    elif unused.shards:
        log(
            f"note: {unused.num_bytes / 1e6:.1f} MB in {cache} were not used (other encoders or "
            "former items): --clear-cache removes them"
        )
    log(f"written: {out}")


def _filtered(data: HeteroData, min_rating: float | None, k_core: int) -> HeteroData:
    """Without low ratings and rare users and items; those without any interaction always go."""
    from alignrec_pyg.graph import INTERACTS, ITEM, USER, known_pairs
    from alignrec_pyg.transforms import KCore, MinRating

    if min_rating is not None:
        with errors_about("--min-rating"):
            data = MinRating(min_rating)(data)
    with errors_about("--k-core"):
        data = KCore(k_core)(data)
    print(
        f"kept: {data[USER].num_nodes:,} users, {data[ITEM].num_nodes:,} items, "
        f"{data[INTERACTS].edge_index.size(1):,} interactions"
        + (f", {num_known:,} known pairs" if (num_known := known_pairs(data).size(1)) else "")
    )
    return data


def _add_images(data: HeteroData, images: Path) -> None:
    from alignrec_pyg.encoders.images import IMAGE_ENDINGS, images_by_id
    from alignrec_pyg.graph import ITEM
    from alignrec_pyg.tables import note_on_shared_ids

    with errors_about("--images"):
        by_id = images_by_id(images)
        ids = [str(item) for item in data[ITEM].id.tolist()]
        if not by_id:
            raise ValueError(f"{images} holds no image ({', '.join(IMAGE_ENDINGS)})")
        found = [by_id.get(item) for item in ids]
        num_found = sum(image is not None for image in found)
        few = note_on_shared_ids(f"{images}, by their names,", num_found, list(by_id), ids)
    if few:
        print(few)
    data[ITEM].image = found


def _encoded(
    data: HeteroData,
    specs: Sequence[EncoderSpec],
    modalities: Sequence[str],
    width: int | None,
    max_failures: float,
    cache: Path,
    device: str,
) -> tuple[HeteroData, list[EncodingReport]]:
    from alignrec_pyg.encoders.scikit import DEFAULT_DIM
    from alignrec_pyg.graph import feature_table
    from alignrec_pyg.transforms import EncodeItems

    reports = []
    for spec in specs:
        option = f"--encoder {spec.name}={spec.source}"
        if not spec.source:
            option = f"--encoder {spec.name}" + (f" --width {width}" if width else "")
        with errors_about(option):
            try:
                encoder = spec.build(width=width, modalities=modalities, device=device)
            except RuntimeError as error:  # weights that cannot be fetched, a damaged encoder
                raise ValueError(str(error)) from error
        encode_items = EncodeItems(encoder, spec.name, cache_dir=cache, max_failures=max_failures)
        try:
            data = encode_items(data)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from error
        if encode_items.report is not None:
            reports.append(encode_items.report)
        print(encode_items.report)
        made = feature_table(data, spec.name).size(1)
        if not spec.source and width is None and made < DEFAULT_DIM:
            log(f"note: '{spec.name}' is {made} wide instead of {DEFAULT_DIM}: the items are few")
    return data, reports


def _specs(texts: Sequence[str] | None) -> list[EncoderSpec]:
    """The encoders asked for, before anything is read."""
    from alignrec_pyg.cli.encoder_specs import encoder_spec

    specs: list[EncoderSpec] = []
    for text in texts or ():
        with errors_about("--encoder"):
            specs.append(encoder_spec(text))
        if specs[-1].name in [spec.name for spec in specs[:-1]]:
            raise OptionError("--encoder", f"needs each name once ('{specs[-1].name}' is repeated)")
    return specs


def _modalities(data: HeteroData) -> list[str]:
    """What the items have."""
    from alignrec_pyg.graph import ITEM

    return [
        modality
        for modality, keys in (("image", ("image", "image_path")), ("text", ("text",)))
        if any(entry is not None for key in keys for entry in data[ITEM].get(key) or ())
    ]
