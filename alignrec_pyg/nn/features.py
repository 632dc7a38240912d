"""Feature tables of items as layers, trainable or frozen, and their projections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.graph import feature_mask, feature_table

_CHECKED_ROWS = 4096  # rows that are checked at a time, since isfinite copies them
_UNEVEN = 10  # times as long: beside such rows, others change a cosine by 0.01


class FeatureTable(nn.Module):
    """A table of pre-extracted item features as a layer.

    A trainable table is a copy, so that the features in the data are not modified. A frozen table
    is not part of the ``state_dict`` and, if it consists of a single table, shares its memory
    (unless that was made in ``torch.inference_mode``).

    Args:
        *tables: Features, float32 ``[num_items, dim]``; several tables are concatenated.
        trainable: Whether the table is a parameter.
    """

    weight: Tensor

    def __init__(self, *tables: Tensor, trainable: bool) -> None:
        super().__init__()
        self.trainable = trainable
        self.sparse = False
        self.dim = sum(table.size(1) for table in tables)
        self._initial = tables if trainable else ()
        table = tables[0] if len(tables) == 1 else torch.cat(tables, dim=1)
        if table.is_inference():  # made in inference mode: no gradient goes through it
            table = table.clone()
        if trainable:
            self.weight = nn.Parameter(table.clone() if len(tables) == 1 else table)
        else:
            self.register_buffer("weight", table, persistent=False)

    def __getstate__(self) -> dict[str, Any]:
        """The state with the extracted features on the CPU, as ``to(device)`` ignores them."""
        return {**self.__dict__, "_initial": tuple(table.cpu() for table in self._initial)}

    def reset_parameters(self) -> None:
        """Resets the table to the extracted features."""
        if self.trainable:
            with torch.no_grad():
                parts = self.weight.split([table.size(1) for table in self._initial], dim=1)
                for part, table in zip(parts, self._initial, strict=True):
                    part.copy_(table)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Returns the rows ``items`` of the table, by default all rows."""
        return (
            self.weight
            if items is None
            else nn.functional.embedding(items, self.weight, sparse=self.sparse)
        )

    def extra_repr(self) -> str:
        """The size and kind, for the representation of the module."""
        return f"{self.weight.size(0)}, {self.dim}, trainable={self.trainable}"


@contextmanager
def sparse_gradients(model: nn.Module) -> Iterator[None]:
    """A context in which the rows read from ID and feature tables give them a sparse gradient."""
    tables = [part for part in model.modules() if isinstance(part, nn.Embedding | FeatureTable)]
    for table in tables:
        table.sparse = True
    try:
        yield
    finally:
        for table in tables:
            table.sparse = False


class FeatureProjection(nn.Module):
    """A feature table with a linear projection to the width of the model.

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
        """Resets the projection, and the table to the extracted features."""
        self.table.reset_parameters()
        self.linear.reset_parameters()

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Returns the projections of the rows ``items``, by default of all rows."""
        projected: Tensor = self.linear(self.table(items))
        return projected


class FeatureProjections(nn.ModuleList):
    """Several feature tables, each with its own linear projection to the width of the model.

    Args:
        tables: Features, each float32 ``[num_items, dim]``; the widths may differ.
        embedding_dim: Width of the outputs.
        trainable: Whether the tables are parameters.
    """

    def __init__(self, tables: Iterable[Tensor], embedding_dim: int, *, trainable: bool) -> None:
        super().__init__(
            FeatureProjection(table, embedding_dim, trainable=trainable) for table in tables
        )

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[FeatureProjection]: ...

    def reset_parameters(self) -> None:
        """Resets the projections, and the tables to the extracted features."""
        for projection in self:
            projection.reset_parameters()


@torch.no_grad()
def uneven_rows(data: HeteroData, names: Sequence[str]) -> str | None:
    """Detects feature tables whose rows are ten times as long as those of another.

    Their mean lengths are compared, over the items that are not missing in the table.

    Returns:
        A clause that names the longest and the shortest; ``None`` if there is no such difference.
    """
    means: dict[str, float] = {}
    for name in names:
        lengths = torch.linalg.vector_norm(feature_table(data, name), dim=1)
        present = lengths[~feature_mask(data, name) & (lengths > 0)]
        if present.numel():
            means[name] = float(present.double().mean())
    if not means:
        return None
    longest, shortest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    times = means[longest] / means[shortest]
    if times < _UNEVEN:
        return None
    return f"rows of '{longest}' are {times:,.0f} times as long as those of '{shortest}'"


def check_feature_table(name: str, table: Tensor, mask: Tensor, num_items: int) -> None:
    """Checks that a table has one row per item, which is finite unless it is masked.

    Raises:
        ValueError: If the shape, the mask or a value is invalid.
    """
    if table.dim() != 2 or table.size(0) != num_items or table.size(1) == 0:
        raise ValueError(
            f"feature '{name}' needs the shape [{num_items}, dim], one row per item "
            f"(got {list(table.shape)})"
        )
    if mask.shape != (num_items,) or mask.dtype != torch.bool:
        raise ValueError(
            f"the mask of feature '{name}' needs to be boolean, of shape ({num_items},) "
            f"(got {mask.dtype}, {tuple(mask.shape)})"
        )
    finite = torch.cat([part.isfinite().all(dim=1) for part in table.split(_CHECKED_ROWS)])
    broken = (~finite & ~mask).nonzero()[:, 0].tolist()
    if broken:
        raise ValueError(
            f"feature '{name}' needs finite values (got NaN or infinity in {len(broken)} rows, "
            f"the first: {broken[:5]}): repair these rows, or mask the items in "
            f'data["item"].mask_{name}'
        )
