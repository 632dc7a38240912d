"""From tables of interactions and items, and images, to a graph with feature tables."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from alignrec_pyg.cli.entry_points import in_options
from alignrec_pyg.cli.options import (
    ENCODING,
    FILES,
    ItemsId,
    OptionError,
    errors_about,
    fraction,
    log,
    number,
    option,
    positive_int,
)

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from alignrec_pyg.cli.encoder_specs import EncoderSpec
    from alignrec_pyg.datasets.recognition import Recognized
    from alignrec_pyg.report import DataReport
    from alignrec_pyg.transforms import EncodingReport


def _column(role: str) -> Any:
    return option(FILES, f"The {role} column, if its name is no usual one.", "COLUMN")


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options of every command that reads tables of interactions and items."""

    items: Annotated[Path | None, option(FILES, "A table of items.", "FILE")] = None
    items_id: ItemsId = None
    text: Annotated[
        tuple[str, ...],
        option(FILES, "Text columns of --items, joined in this order.", "COLUMN ..."),
    ] = ()
    image: Annotated[str | None, option(FILES, "Image path column of --items.", "COLUMN")] = None
    images: Annotated[
        Path | None,
        option(FILES, "Folder or zip file of images named by item id: 1.jpg, 7.png.", "PATH"),
    ] = None
    user: Annotated[str | None, _column("user")] = None
    item: Annotated[str | None, _column("item")] = None
    rating: Annotated[str | None, _column("rating")] = None
    time: Annotated[str | None, _column("time")] = None
    quoted: Annotated[
        bool,
        option(
            FILES,
            "Whether fields of csv and tsv files may stand in double quotes, which are otherwise "
            "ordinary characters.",
            name="--quoted/--unquoted",
        ),
    ] = True
    known: Annotated[
        Path | None,
        option(
            FILES,
            "A table of further pairs that users have had, such as views: known, never "
            "recommended, no interactions. It has the same user and item columns.",
            "FILE",
        ),
    ] = None

    def reading(self, **more: str | None) -> dict[str, Any]:
        """Arguments of :func:`~alignrec_pyg.datasets.from_path`; ``more`` names other columns."""
        columns = {
            **{"user": self.user, "item": self.item, "rating": self.rating, "time": self.time},
            **more,
        }
        return {
            "items": self.items,
            "columns": {role: name for role, name in columns.items() if name is not None},
            "text": self.text,
            "image": self.image,
            "known": self.known,
            "items_id": self.items_id,
            "quoted": self.quoted,
        }


@dataclass(frozen=True, kw_only=True)
class RawDataOptions(TableOptions):
    """Options of every command that encodes raw data."""

    min_rating: Annotated[
        float | None,
        option(
            FILES,
            "Lowest rating of an interaction; lower ones are known pairs, which are never "
            "recommended.",
            "X",
            parser=number,
        ),
    ] = None
    k_core: Annotated[
        int,
        option(
            FILES, "Keep users and items with K interactions or more.", "K", parser=positive_int
        ),
    ] = 1
    encoder: Annotated[
        tuple[str, ...],
        option(
            ENCODING,
            "Encoders: tfidf (texts), tfidf_char (texts without blanks), patch_pca (images), "
            "NAME=FOLDER (of stage 1 or of a sentence transformer), NAME=hub:MODEL (a sentence "
            "transformer, downloaded), NAME=clip:MODEL:WEIGHTS (open_clip; a file or tag), "
            "NAME=timm:MODEL:WEIGHTS, NAME=torchvision:MODEL:WEIGHTS (images; a file), "
            "NAME=module:Class (your own).",
            "SPEC ...",
            show_default="tfidf and patch_pca, as far as there is content",
        ),
    ] = ()
    width: Annotated[
        int | None,
        option(
            ENCODING,
            "Width of tfidf, tfidf_char and patch_pca.",
            "N",
            parser=positive_int,
            show_default="64, or less for few items",
        ),
    ] = None
    max_failures: Annotated[
        float, option(ENCODING, "Share of images that may be unreadable.", "X", parser=fraction)
    ] = 0.05

    def specs(self) -> list[EncoderSpec]:
        """The encoders asked for, checked before anything is read.

        Raises:
            OptionError: If options do not fit each other, or an encoder is unknown.
        """
        if self.images is not None and self.image is not None:
            raise OptionError("--image, --images", "give one of them (got both)")
        if self.items is not None and not self.text and self.image is None:
            raise OptionError(
                "--items", "name its text columns with --text, or its image column with --image"
            )
        return _specs(self.encoder)

    def recognized(self, path: Path) -> Recognized:
        """The data of a path, with the detected format; no table is read yet."""
        from alignrec_pyg.datasets.recognition import recognize

        with errors_about("PATH"):
            return recognize(path, **self.reading())

    def read(
        self, path: Path, specs: Sequence[EncoderSpec], cache: Path, device: str
    ) -> tuple[HeteroData, DataReport, list[EncodingReport]]:
        """Reads, checks, filters and encodes data, and prints a report.

        Args:
            path: A table of interactions, or a folder of a known kind.
            specs: The encoders (empty: those that can be fitted to the content there is).
            cache: Folder that caches encoded items.
            device: Where encoders compute.

        Returns:
            The data with their feature tables, the report on what was read, and one on each table.
        """
        from alignrec_pyg.experiments.settings import models_of_links
        from alignrec_pyg.graph import feature_names

        found = self.recognized(path)
        dataset = found.read()
        print(f"read as: {found.kind}\n{in_options(str(dataset.report))}")
        data = _filtered(dataset.data, self.min_rating, self.k_core)
        if self.images is not None:
            _add_images(data, self.images)
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
        if not specs:
            learned = (("text", "tfidf"), ("image", "patch_pca"))
            specs = _specs([name for modality, name in learned if modality in there])
        for spec in specs:
            if spec.name in feature_names(data):
                raise OptionError(
                    "--encoder", f"the data have a table '{spec.name}' already: name another"
                )
        data, reports = self._encoded(data, specs, there, cache, device)
        return data, dataset.report, reports

    def _encoded(
        self,
        data: HeteroData,
        specs: Sequence[EncoderSpec],
        modalities: Sequence[str],
        cache: Path,
        device: str,
    ) -> tuple[HeteroData, list[EncodingReport]]:
        from alignrec_pyg.encoders.base import DEFAULT_DIM
        from alignrec_pyg.graph import feature_table
        from alignrec_pyg.transforms import EncodeItems

        reports = []
        for spec in specs:
            words = f"--encoder {spec.name}={spec.source}"
            if not spec.source:
                words = f"--encoder {spec.name}" + (f" --width {self.width}" if self.width else "")
            with errors_about(words):
                try:
                    encoder = spec.build(width=self.width, modalities=modalities, device=device)
                except RuntimeError as error:  # weights that cannot be fetched, a damaged encoder
                    raise ValueError(str(error)) from error
            encode_items = EncodeItems(
                encoder, spec.name, cache_dir=cache, max_failures=self.max_failures
            )
            try:
                with warnings.catch_warnings():  # the report has them
                    warnings.filterwarnings("ignore", "ATTENTION: ", UserWarning)
                    data = encode_items(data)
            except ValueError as error:
                raise ValueError(f"{words}: {error}") from error
            if encode_items.report is not None:
                reports.append(encode_items.report)
            print(encode_items.report)
            made = feature_table(data, spec.name).size(1)
            if not spec.source and self.width is None and made < DEFAULT_DIM:
                log(
                    f"note: '{spec.name}' is {made} wide instead of {DEFAULT_DIM}: the items are "
                    "few"
                )
        return data, reports


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


def _specs(texts: Sequence[str]) -> list[EncoderSpec]:
    from alignrec_pyg.cli.encoder_specs import encoder_spec

    specs: list[EncoderSpec] = []
    for text in texts:
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
