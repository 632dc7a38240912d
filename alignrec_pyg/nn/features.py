"""Item feature tables inside a model: trainable or frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FeatureTable(nn.Module):
    """Pre-extracted item features as a layer.

    A trainable table is a copy, so the data keeps the features as they were extracted. A frozen one
    is not part of the ``state_dict``; made of a single table, it shares its memory.

    Args:
        *tables: Features, float32 ``[num_items, dim]``; several are concatenated.
        trainable: Whether the table is a parameter.
    """

    weight: Tensor

    def __init__(self, *tables: Tensor, trainable: bool) -> None:
        super().__init__()
        self.trainable = trainable
        self.dim = sum(table.size(1) for table in tables)
        self._initial = tables
        table = tables[0] if len(tables) == 1 else torch.cat(tables, dim=1)
        if trainable:
            self.weight = nn.Parameter(table.clone() if len(tables) == 1 else table)
        else:
            self.register_buffer("weight", table, persistent=False)

    def reset_parameters(self) -> None:
        """Puts the features back as they were extracted."""
        if self.trainable:
            with torch.no_grad():
                parts = self.weight.split([table.size(1) for table in self._initial], dim=1)
                for part, table in zip(parts, self._initial, strict=True):
                    part.copy_(table)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Rows ``items`` of the table, by default all of them."""
        return self.weight if items is None else nn.functional.embedding(items, self.weight)

    def extra_repr(self) -> str:
        """Size and kind, for ``print(model)``."""
        return f"{self.weight.size(0)}, {self.dim}, trainable={self.trainable}"
