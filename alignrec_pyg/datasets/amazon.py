"""The Amazon reviews datasets, from the published raw files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch

from alignrec_pyg.checks import check_choice, check_integer
from alignrec_pyg.datasets.amazon_items import (
    FIELDS,
    Field,
    Version,
    read_image_features,
    read_metadata,
)
from alignrec_pyg.datasets.assemble import LinkColumns, assemble
from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.features import add_feature_by_id
from alignrec_pyg.datasets.interactions import InteractionDataset, Keep
from alignrec_pyg.datasets.json_lines import JsonLines
from alignrec_pyg.datasets.transfer import download
from alignrec_pyg.graph import INTERACTS, ITEM, USER, core_links
from alignrec_pyg.report import DataReport, describe

_2014 = "https://snap.stanford.edu/data/amazon/productGraph"
_2023 = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"
_SITES = {
    "2014": "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
    "2023": "https://amazon-reviews-2023.github.io",
}


@dataclass(frozen=True)
class Statistics:
    """Published sizes of a dataset."""

    users: int
    items: int
    interactions: int


PAPER_STATISTICS: Mapping[str, Statistics] = {
    "Baby": Statistics(19_445, 7_050, 160_792),
    "Sports_and_Outdoors": Statistics(35_598, 18_357, 296_337),
    "Electronics": Statistics(192_403, 63_001, 1_689_188),
}
"""The 5-cores of 2014 that are used by the paper of AlignRec (Table 1) and by MMRec."""


class AmazonReviews(InteractionDataset):
    """One category of the `Amazon reviews <https://amazon-reviews-2023.github.io>`_.

    Files that are missing in ``root`` are downloaded (:func:`~alignrec_pyg.datasets.download`):

    - 2014: ``reviews_<category>_5.json.gz``, already a 5-core, or with ``source="ratings"``
      ``ratings_<category>.csv``; ``meta_<category>.json.gz``; with ``image_features=True``
      ``image_features_<category>.b``, which becomes ``data["item"].x_image``
      ([num_items, 4096]; items without an image are masked).
    - 2023: ``<category>.jsonl.gz`` and ``meta_<category>.jsonl.gz``. An item is a parent ASIN, so
      that all variants of a product are one item. Times are in milliseconds.

    Repeated (user, item) pairs are removed, then low ratings, then users and items with fewer than
    ``k`` interactions until none is left. ``data["item"].text`` joins fields of the metadata (None
    if all are empty), and ``data["item"].image_url`` has the URL of an image or None;
    :func:`~alignrec_pyg.datasets.fetch_images` downloads the images.

    For Baby, Sports_and_Outdoors and Electronics of 2014 with ``k=5``, the report states whether
    the sizes agree with those of the paper (Table 1).

    The data have no licence; they are for research with citation (McAuley et al., SIGIR 2015; He
    and McAuley, WWW 2016; Hou et al., arXiv 2403.03952) and must not be redistributed.

    Args:
        root: Folder of the files.
        category: Category as in the file names: ``"Baby"``, ``"Sports_and_Outdoors"``, ...
        version: ``"2014"`` or ``"2023"``.
        source: 2014 only: the published 5-core, or all ratings.
        k: Minimum number of interactions of a user or item; ``None`` keeps all.
        min_rating: Lowest rating of an interaction; of a repeated pair, that of the row that
            ``keep`` keeps. Lower ones of the same users and items are known pairs
            (:mod:`alignrec_pyg.graph`).
        text: Fields of an item's text, in order: ``"title"``, ``"brand"``, ``"categories"``,
            ``"description"``, and in the 2023 data also ``"features"`` and ``"details"``.
        image_features: 2014 only: whether to read the published image features.
        sha256: Hashes by file name, which are checked before a file is read.
        mirror: URL of a folder with the files, instead of the publisher's.
        keep: Whether to keep the first or the last row of a repeated (user, item) pair.

    Raises:
        ValueError: If an argument is out of range, a file does not have the expected format (the
            message contains line and column), or nothing is left.
        RuntimeError: If a file cannot be downloaded; the message explains how to do it manually.
    """

    def __init__(
        self,
        root: str | Path,
        category: str,
        version: Version = "2014",
        *,
        source: Literal["5core", "ratings"] = "5core",
        k: int | None = 5,
        min_rating: float | None = None,
        text: Sequence[Field] = ("title", "brand", "categories", "description"),
        image_features: bool = False,
        sha256: Mapping[str, str] | None = None,
        mirror: str | None = None,
        keep: Keep = "first",
    ) -> None:
        _check(category, version, source, k, text, image_features)
        urls = _urls(category, version, source)
        names = {part: url.rpartition("/")[2] for part, url in urls.items()}
        unknown = sorted(set(sha256 or {}) - set(names.values()))
        if unknown:
            raise ValueError(f"'sha256' needs names of {[*names.values()]} (got {unknown})")

        def fetched(part: str) -> Path:
            name = names[part]
            url = urls[part] if mirror is None else f"{mirror.rstrip('/')}/{name}"
            try:
                return download(url, Path(root) / name, sha256=(sha256 or {}).get(name))
            except RuntimeError as error:
                raise RuntimeError(f"{error}; the publisher's page is {_SITES[version]}") from error

        notes: list[str] = []
        links = _links(fetched("reviews"), version, source, notes)
        links, lower, repeated = _core(links, min_rating, k, keep, notes)
        data, _ = assemble(links, notes, known=lower, keep=keep)
        item_id: np.ndarray = data[ITEM].id
        meta = read_metadata(fetched("meta"), version, item_id, text, notes)
        data[ITEM].text = meta.text
        data[ITEM].image_url = meta.image_url
        dtypes = {}
        if image_features:
            ids, table = read_image_features(fetched("image_features"), item_id, notes)
            dtypes["image"] = add_feature_by_id(data, "image", ids, table, "error", notes)
        if version == "2014" and k == 5 and min_rating is None and category in PAPER_STATISTICS:
            size = Statistics(
                int(data[USER].num_nodes),
                int(data[ITEM].num_nodes),
                int(data[INTERACTS].edge_index.size(1)),
            )
            notes.append(compare_statistics(size, PAPER_STATISTICS[category]))
        report = describe(data, duplicates=repeated, notes=notes, dtypes=dtypes)
        super().__init__(data, report)


def compare_statistics(got: Statistics | DataReport, published: Statistics) -> str:
    """Describes whether a dataset has the published sizes.

    >>> compare_statistics(Statistics(3, 2, 5), Statistics(3, 2, 6))
    'ATTENTION: not the published sizes: interactions 5 (published: 6)'
    """
    other = [
        f"{name} {getattr(got, name):,} (published: {getattr(published, name):,})"
        for name in ("users", "items", "interactions")
        if getattr(got, name) != getattr(published, name)
    ]
    if other:
        return f"ATTENTION: not the published sizes: {', '.join(other)}"
    return (
        f"the published sizes: {got.users:,} users, {got.items:,} items, "
        f"{got.interactions:,} interactions"
    )


def _check(
    category: str,
    version: str,
    source: str,
    k: int | None,
    text: Sequence[str],
    image_features: bool,
) -> None:
    if not category.replace("_", "").isalnum():
        raise ValueError(
            "'category' needs to be a name as in the files, such as 'Sports_and_Outdoors' "
            f"(got {category!r})"
        )
    check_choice("version", version, get_args(Version))
    check_choice("source", source, ("5core", "ratings"))
    if version == "2023" and (source == "ratings" or image_features):
        raise ValueError("source='ratings' and image_features=True are there for version '2014'")
    if k is not None:
        check_integer("k", k, 1)
    if isinstance(text, str) or not set(text) <= set(FIELDS):
        raise ValueError(f"'text' needs to be a list of {list(FIELDS)} (got {text!r})")


def _urls(category: str, version: Version, source: str) -> dict[str, str]:
    if version == "2023":
        return {
            "reviews": f"{_2023}/review_categories/{category}.jsonl.gz",
            "meta": f"{_2023}/meta_categories/meta_{category}.jsonl.gz",
        }
    reviews = f"reviews_{category}_5.json.gz" if source == "5core" else f"ratings_{category}.csv"
    return {
        "reviews": f"{_2014}/categoryFiles/{reviews}",
        "meta": f"{_2014}/categoryFiles/meta_{category}.json.gz",
        "image_features": f"{_2014}/image_features/categoryFiles/image_features_{category}.b",
    }


def _links(path: Path, version: Version, source: str, notes: list[str]) -> LinkColumns:
    if source == "ratings":
        names = ["user", "item", "rating", "timestamp"]
        # text, also where all of the ids look like numbers
        table = DelimitedFile(path, names, notes, names=names, text=["user", "item"])
        return LinkColumns(*(table.column(name) for name in names))
    names = ["user_id", "parent_asin", "rating", "timestamp"]
    if version == "2014":
        names = ["reviewerID", "asin", "overall", "unixReviewTime"]
    lines = JsonLines(path, names, notes, optional=())
    return LinkColumns(*(lines.column(name) for name in names))


def _core(
    links: LinkColumns, min_rating: float | None, k: int | None, keep: Keep, notes: list[str]
) -> tuple[LinkColumns, LinkColumns | None, int]:
    """The links of the k-core, lower ratings of its users and items, and the number of repeats."""
    user, item = (
        pd.factorize(column.keys, use_na_sentinel=False)[0] for column in (links.user, links.item)
    )
    pairs = pd.DataFrame({"user": user, "item": item})
    repeated = pairs.duplicated(keep=keep).to_numpy()
    rows = np.flatnonzero(~repeated)
    lower = rows[:0]
    if min_rating is not None and links.rating is not None:
        rating = pd.to_numeric(pd.Series(links.rating.values), errors="coerce").to_numpy()
        low = rating[rows] < min_rating  # invalid numbers are rejected later
        lower, rows = rows[low], rows[~low]
        if not len(rows):
            raise ValueError(f"'min_rating' leaves no interaction (got {min_rating})")
        if len(lower):
            notes.append(
                f"{len(lower):,} of {len(lower) + len(rows):,} ratings below {min_rating} are no "
                "interactions"
            )
    if k is not None:
        kept = core_links(torch.from_numpy(user[rows]), torch.from_numpy(item[rows]), k).numpy()
        if not len(kept):
            raise ValueError(f"'k' leaves no interaction (got {k}): choose a smaller one")
        if len(kept) < len(rows):
            notes.append(f"{k}-core: {len(kept):,} of {len(rows):,} interactions stay")
        rows = rows[kept]
    there = np.isin(user[lower], user[rows]) & np.isin(item[lower], item[rows])
    known = links.take(lower[there]) if there.any() else None
    return links.take(rows), known, int(repeated.sum())
