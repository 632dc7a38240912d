"""Computation of feature tables from texts and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform
from tqdm import tqdm

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.encoders.base import MODALITIES, ItemEncoder, needs_fit
from alignrec_pyg.encoders.images import quiet_pillow
from alignrec_pyg.encoders.texts import clean_text
from alignrec_pyg.graph import INTERACTS, ITEM, feature_key, mask_key
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.transforms.content_reader import ContentReader
from alignrec_pyg.transforms.encoding_report import EncodingReport
from alignrec_pyg.transforms.encoding_run import EncodingRun
from alignrec_pyg.transforms.ray_actors import EncodingJob, RayActors, batches_from_actors


class EncodeItems(BaseTransform):
    """Computes a feature table by applying an encoder to all items.

    Reads the modalities of the encoder from ``data["item"].text``, ``.image`` (or ``.image_path``)
    and ``.id``, and adds ``data["item"].x_<name>`` and ``data["item"].mask_<name>``, which is true
    for items without features; their rows are zero. An encoder that needs fitting is fitted on the
    items that have content.

    Texts are cleaned (:func:`~alignrec_pyg.encoders.clean_text`). Images may be paths, bytes,
    Pillow images, arrays, tensors or functions that return bytes
    (:func:`~alignrec_pyg.encoders.read_image`). An item whose image cannot be read is treated as an
    item without an image; ``report`` contains the reason.

    With ``cache_dir``, each batch is written when it is finished. A killed or interrupted run is
    resumed at the next batch; a finished one is only read, without fitting its encoder. The cache
    is by item: if an item is added to the catalogue, only this one is encoded. The key of a row
    depends on everything that determines it: the content of the item (the bytes of files, neither
    their names nor times), and the weights, preprocessing and arguments of the encoder; of one that
    is fitted, the content of all items. :func:`unused_rows` finds what is no longer needed.

    Args:
        encoder: The encoder.
        name: Name of the feature table.
        batch_size: Largest number of items per call of the encoder; only the images of one call are
            in memory, which are fewer if their files and pixels take more than 512 MiB.
        cache_dir: Folder of the cache; no cache by default. With a cache, Ctrl-C and SIGTERM stop
            the run after the current batch.
        num_workers: Number of threads that read and decode images; 0 uses the calling thread. The
            result does not depend on it.
        max_failures: Maximum share of unreadable images.
        actors: Runs the encoder on actors of a Ray cluster instead of in this process, with the
            same result and the same cache; ``num_workers`` is then the number of threads of each.
            Image files and ``cache_dir`` need to be accessible under the same paths on all
            machines.
        fit: Whether to fit an encoder that needs fitting; ``False`` uses it as it is, for new items
            after those it was fitted on.

    Attributes:
        report: The :class:`~alignrec_pyg.transforms.EncodingReport` of the last run.

    Raises:
        ImportError: When applied, if there are ``actors`` and Ray is not installed.
        ValueError: If an argument is out of range, or the encoder needs fitting and there are
            ``actors``; when applied, if the data lacks a modality, no item has content (unless
            ``fit=False``), too many images cannot be read, or the encoder does not return finite
            rows of its width.
        KeyboardInterrupt, SystemExit: When interrupted.

    Example:
        >>> from torch_geometric.data import HeteroData
        >>> from alignrec_pyg.encoders import TfidfEncoder
        >>> from alignrec_pyg.transforms import EncodeItems
        >>> data = HeteroData()
        >>> data["item"].num_nodes = 4
        >>> data["item"].text = ["red cup", "blue cup", "red tea", None]
        >>> encode = EncodeItems(TfidfEncoder(2), name="text")
        >>> data = encode(data)
        >>> data["item"].x_text.shape, data["item"].mask_text
        (torch.Size([4, 2]), tensor([False, False, False,  True]))
    """

    def __init__(
        self,
        encoder: ItemEncoder,
        name: str,
        *,
        batch_size: int = 256,
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
        max_failures: float = 0.05,
        actors: RayActors | None = None,
        fit: bool = True,
    ) -> None:
        unknown = sorted(set(encoder.modalities) - set(MODALITIES))
        if unknown or not encoder.modalities:
            raise ValueError(
                f"'encoder' needs modalities among {MODALITIES} (got {encoder.modalities})"
            )
        if not name:
            raise ValueError("'name' needs at least one character (got '')")
        check_number("max_failures", max_failures, least=0, most=1)
        if actors is not None and fit and needs_fit(encoder):
            raise ValueError(
                f"'actors' needs a fitted encoder, but {encoder!r} has to be fitted on all items: "
                "leave 'actors' out, or pass fit=False for an encoder that was fitted before"
            )
        self.encoder = encoder
        self.name = name
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.num_workers = check_integer("num_workers", num_workers, 0)
        self.max_failures = max_failures
        self.actors = actors
        self.fit = fit
        self.report: EncodingReport | None = None

    def forward(self, data: HeteroData) -> HeteroData:
        """Returns a copy of ``data`` with the table; the input is unchanged."""
        parts = self._parts(data)
        repairs: Counter[str] = Counter()
        if "text" in parts:
            parts["text"], repairs = _cleaned(parts["text"])
        num_items = int(data[ITEM].num_nodes)
        table: Tensor | None = None  # as wide as the first rows: fitting may lower 'out_dim'
        with (
            quiet_pillow(),
            ContentReader(**parts, num_workers=self.num_workers) as reader,
            StopRequest(active=self.cache_dir is not None) as stop,
        ):
            run = EncodingRun(
                self.encoder,
                reader,
                batch_size=self.batch_size,
                cache_dir=self.cache_dir,
                max_failures=self.max_failures,
                stop=stop,
                fit=self.fit,
            )
            # disable=None: no bar where the output is not a terminal
            with tqdm(
                total=len(run.rows), desc=f"encoding {self.name}", unit="item", disable=None
            ) as progress:
                for items, rows in self._batches(run, parts):
                    if table is None:
                        table = torch.zeros(num_items, rows.size(1))
                    table[items] = rows
                    progress.update(len(items))
        if table is None:
            table = torch.zeros(num_items, self.encoder.out_dim)
        encoded = table.any(dim=1)
        self.report = EncodingReport(
            name=self.name,
            items=len(table),
            encoded=int(encoded.sum()),
            cached=int(encoded[run.cached_rows].sum()),
            present={modality: len(items) for modality, items in run.present.items()},
            failures=run.failed(),
            repairs=dict(sorted(repairs.items())),
            zero_rows=int((~encoded[run.with_content()]).sum()),
            notes=tuple(getattr(self.encoder, "notes", ())),
            shards=frozenset(run.shards),
        )
        if self.report.encoded == 0 and self.fit:  # new items may all be without content
            raise ValueError(
                f"{self.encoder!r} needs items with {' or '.join(self.encoder.modalities)} (got "
                f"features for none of them)\n{self.report}"
            )
        edges = data[INTERACTS].get("edge_index") if INTERACTS in data.edge_types else None
        device = table.device if edges is None else edges.device
        data[ITEM][feature_key(self.name)] = table.to(device)
        data[ITEM][mask_key(self.name)] = ~encoded.to(device)
        return data

    def _batches(
        self, run: EncodingRun, parts: dict[str, Any]
    ) -> Iterator[tuple[list[int], Tensor]]:
        if self.actors is None:
            return run.batches()
        job = EncodingJob(
            encoder=self.encoder if self.actors.build is None else None,
            name=repr(self.encoder),
            cache_key=self.encoder.cache_key,
            content={**parts, "num_workers": self.num_workers},
            batch_size=self.batch_size,
            cache_dir=None if self.cache_dir is None else self.cache_dir.resolve(),
        )
        return batches_from_actors(run, job, self.actors)

    def _parts(self, data: HeteroData) -> dict[str, Any]:
        """The content of the items, for each modality of the encoder."""
        num_items = data[ITEM].num_nodes
        parts: dict[str, Any] = {}
        for modality in self.encoder.modalities:
            key = modality
            if modality == "id" and "id" not in data[ITEM]:
                parts["id"] = range(num_items)
                continue
            if modality == "image" and "image" not in data[ITEM] and "image_path" in data[ITEM]:
                key = "image_path"
            if key not in data[ITEM]:
                raise ValueError(
                    f"'{key}' needs to be in data[\"item\"]: {self.encoder!r} reads it"
                )
            parts[modality] = data[ITEM][key]
            if len(parts[modality]) != num_items:
                raise ValueError(
                    f"'{key}' needs one entry for each of the {num_items} items "
                    f"(got {len(parts[modality])})"
                )
        return parts

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.encoder!r}, name='{self.name}')"


def _cleaned(texts: Iterable[object]) -> tuple[list[str | None], Counter[str]]:
    """The clean texts, and the number of texts that needed each repair."""
    cleaned: list[str | None] = []
    repairs: Counter[str] = Counter()
    for item, text in enumerate(texts):
        try:
            clean = clean_text(text)
        except ValueError as error:
            raise ValueError(f"'text' of item {item}: {error}") from error
        cleaned.append(clean.text)
        repairs.update(clean.repairs)
    return cleaned, repairs
