"""Item feature tables inside a model: trainable or frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FeatureTable(nn.Module):
    """Pre-extracted item features as a layer.

    A trainable table is a copy, so the data keeps the features as they were extracted. A frozen one
    shares memory with ``table`` and is not part of the ``state_dict``.

    Args:
        table: Features, float32 ``[num_items, dim]``.
        trainable: Whether the table is a parameter.
    """

    weight: Tensor

    def __init__(self, table: Tensor, *, trainable: bool) -> None:
        super().__init__()
        self.trainable = trainable
        self.dim = table.size(1)
        self._initial = table
        if trainable:
            self.weight = nn.Parameter(table.clone())
        else:
            self.register_buffer("weight", table, persistent=False)

    def reset_parameters(self) -> None:
        """Puts the features back as they were extracted."""
        if self.trainable:
            with torch.no_grad():
                self.weight.copy_(self._initial)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Rows ``items`` of the table, by default all of them."""
        return self.weight if items is None else nn.functional.embedding(items, self.weight)

    def extra_repr(self) -> str:
        """Size and kind, for ``print(model)``."""
        return f"{self.weight.size(0)}, {self.dim}, trainable={self.trainable}"
