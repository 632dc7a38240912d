"""Item features inside a model: tables, trainable or frozen, and their projection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

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
        self._initial = tables if trainable else ()
        table = tables[0] if len(tables) == 1 else torch.cat(tables, dim=1)
        if trainable:
            self.weight = nn.Parameter(table.clone() if len(tables) == 1 else table)
        else:
            self.register_buffer("weight", table, persistent=False)

    def __getstate__(self) -> dict[str, Any]:
        """With the features as extracted on the CPU: ``to(device)`` does not move them."""
        return {**self.__dict__, "_initial": tuple(table.cpu() for table in self._initial)}

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


class FeatureProjection(nn.Module):
    """A feature table and its linear map to the width of the model.

    Args:
        table: Features, float32 ``[num_items, dim]``.
        embedding_dim: Width of the output.
        trainable: Whether the table is a parameter.
    """

    def __init__(self, table: Tensor, embedding_dim: int, *, trainable: bool) -> None:
        super().__init__()
        self.table = FeatureTable(table, trainable=trainable)
        self.linear = nn.Linear(self.table.dim, embedding_dim)

    def reset_parameters(self) -> None:
        """Draws the linear map anew and puts the features back as they were extracted."""
        self.table.reset_parameters()
        self.linear.reset_parameters()

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Projected rows ``items``, by default all; only these are computed."""
        projected: Tensor = self.linear(self.table(items))
        return projected


class FeatureProjections(nn.ModuleList):
    """Several feature tables, each with a linear map of its own to the width of the model.

    Args:
        tables: Features, each float32 ``[num_items, dim]`` with a ``dim`` of its own.
        embedding_dim: Width of the outputs.
        trainable: Whether the tables are parameters.
    """

    def __init__(self, tables: Iterable[Tensor], embedding_dim: int, *, trainable: bool) -> None:
        super().__init__(
            FeatureProjection(table, embedding_dim, trainable=trainable) for table in tables
        )

    def __iter__(self) -> Iterator[FeatureProjection]:
        """The projections, in the order of the tables."""
        for projection in super().__iter__():
            assert isinstance(projection, FeatureProjection)
            yield projection

    def reset_parameters(self) -> None:
        """Draws the linear maps anew and puts the features back as they were extracted."""
        for projection in self:
            projection.reset_parameters()
