"""Feature tables from raw texts and images."""

from __future__ import annotations

import torch
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform
from tqdm import tqdm

from alignrec_pyg.encoders.base import MODALITIES, FittedItemEncoder, ItemContent, ItemEncoder
from alignrec_pyg.graph import ITEM, feature_key, mask_key


class EncodeItems(BaseTransform):
    """Runs an encoder over all items.

    Reads ``data["item"].text`` and ``data["item"].image`` (entries as in
    :class:`~alignrec_pyg.encoders.ItemContent`), as far as the encoder asks for them, and adds
    ``data["item"].x_<name>`` and ``data["item"].mask_<name>``, true for items that lack everything
    the encoder reads; their rows are zero. An encoder that has to be fitted is fitted here, on the
    items that have content.

    Args:
        encoder: Turns content into rows.
        name: Name of the feature table.
        batch_size: Items per call of the encoder.

    Raises:
        ValueError: If an argument is out of range; when applied, if the data lacks the content,
            no item has any, or the encoder returns anything but finite rows of its width.
    """

    def __init__(self, encoder: ItemEncoder, name: str, batch_size: int = 256) -> None:
        unknown = sorted(set(encoder.modalities) - set(MODALITIES))
        if unknown or not encoder.modalities:
            raise ValueError(
                f"'encoder' needs modalities among {MODALITIES} (got {encoder.modalities})"
            )
        if not name:
            raise ValueError("'name' needs at least one character (got '')")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f"'batch_size' needs to be an integer of at least 1 (got {batch_size!r})"
            )
        self.encoder = encoder
        self.name = name
        self.batch_size = batch_size

    def forward(self, data: HeteroData) -> HeteroData:
        """Adds the table; the input is left as it was."""
        content = self._content(data)
        has_any = torch.stack([content.has(part) for part in self.encoder.modalities]).any(dim=0)
        rows = has_any.nonzero()[:, 0].tolist()
        if not rows:
            raise ValueError(
                f"no item has {' or '.join(self.encoder.modalities)}: {self.encoder!r} needs some"
            )
        if isinstance(self.encoder, FittedItemEncoder):
            self.encoder.fit(content.select(rows))

        table = torch.zeros(len(content), self.encoder.out_dim)
        starts = range(0, len(rows), self.batch_size)
        # disable=None: no bar where the output is not a terminal
        for start in tqdm(starts, desc=f"encoding {self.name}", unit="batch", disable=None):
            batch = rows[start : start + self.batch_size]
            table[batch] = self._encode(content.select(batch), batch)
        data[ITEM][feature_key(self.name)] = table
        data[ITEM][mask_key(self.name)] = ~has_any
        return data

    def _content(self, data: HeteroData) -> ItemContent:
        parts = {}
        for modality in self.encoder.modalities:
            if modality not in data[ITEM]:
                raise ValueError(
                    f"'{modality}' needs to be in data[\"item\"]: {self.encoder!r} reads it"
                )
            parts[modality] = data[ITEM][modality]
            if len(parts[modality]) != data[ITEM].num_nodes:
                raise ValueError(
                    f"'{modality}' needs one entry for each of the {data[ITEM].num_nodes} items "
                    f"(got {len(parts[modality])})"
                )
        return ItemContent(**parts)

    def _encode(self, items: ItemContent, rows: list[int]) -> torch.Tensor:
        encoded = self.encoder(items)
        if encoded.shape != (len(items), self.encoder.out_dim):
            raise ValueError(
                f"{self.encoder!r} needs to return rows of shape "
                f"{(len(items), self.encoder.out_dim)} (got {tuple(encoded.shape)})"
            )
        broken = (~encoded.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
        if broken:
            raise ValueError(
                f"{self.encoder!r} needs to return finite rows (got NaN or infinity for items "
                f"{[rows[row] for row in broken[:5]]})"
            )
        return encoded.detach().float().cpu()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.encoder!r}, name='{self.name}')"
