"""Feature tables of a whole catalogue, by the encoder that was trained on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders import BEiT3Encoder
from alignrec_pyg.graph import ITEM, feature_key
from alignrec_pyg.pretraining.catalogue import Catalogue
from alignrec_pyg.storage import write_array, write_manifest
from alignrec_pyg.transforms import EncodeItems

TABLES = {
    "features": ("image", "text"),
    "features_of_text": ("text",),
    "features_of_image": ("image",),
}
"""Tables by the name of their file, and what each is encoded from. Those of one modality are what
mask modality, the third of the training-free evaluations, puts in the place of masked items."""

_BATCH = 64


def write_features(
    folder: Path,
    encoder: BEiT3Encoder,
    catalogue: Catalogue,
    *,
    device: torch.device | str,
    num_workers: int,
    max_failures: float,
    tell: Callable[[str], None],
) -> None:
    """Writes each of :data:`TABLES` as ``.npy``, row by row as in the catalogue, and a ``.json``.

    Batches are kept in ``encoded``: what was interrupted goes on. A table is there when it is
    whole.

    Args:
        folder: Where to write.
        encoder: The trained encoder.
        catalogue: The items; one without image and text has a row of zeros.
        device: Where to encode.
        num_workers: Threads that read images.
        max_failures: Share of the images that may be unreadable.
        tell: Called with lines for people.

    Raises:
        ValueError: If too many images cannot be read.
    """
    data = HeteroData()
    data[ITEM].num_nodes = len(catalogue)
    data[ITEM].text, data[ITEM].image = catalogue.text, catalogue.image
    for name, modalities in TABLES.items():
        part = BEiT3Encoder(
            encoder.model,
            encoder.tokenizer,
            modalities=modalities,
            max_tokens=encoder.max_tokens,
            device=device,
        )
        encode = EncodeItems(
            part,
            name,
            batch_size=_BATCH,
            cache_dir=folder / "encoded",
            num_workers=num_workers,
            max_failures=max_failures,
        )
        write_array(folder / f"{name}.npy", encode(data)[ITEM][feature_key(name)].numpy())
        told = str(encode.report)
        write_manifest(
            folder / f"{name}.json",
            {"encoder": part.cache_key, "id": catalogue.id, "report": told.splitlines()},
        )
        tell(told)
