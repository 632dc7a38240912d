"""A trained model on a graph with further items."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.models.base import Recommender
from alignrec_pyg.nn import FeatureTable

ModelT = TypeVar("ModelT", bound=Recommender)


@torch.no_grad()
def with_more_items(
    model: ModelT, data: HeteroData, like: tuple[Tensor, Tensor] | None = None
) -> ModelT:
    r"""The model on ``data``, whose further items come after those it was built on.

    All that was trained is taken over. Tables with a row per item get further rows: in trained
    feature tables the features of ``data``, in all others, such as ID vectors, zeros or

    .. math::
        e_i = \sum_j w_{ij} e_j \Big/ \sum_j w_{ij}

    over the edges of ``like``. What the model makes of them is up to its own equations.

    Args:
        model: A trained model; stays as it is.
        data: The graph it was built on, with further items.
        like: Edges :math:`(j, i)` from items of the model to further ones, int64 ``[2, E]``, and
            their positive weights ``[E]``; ``None`` means zeros.

    Returns:
        A model of its own, in evaluation mode, on the device of ``model``.
    """
    known = model.num_items
    with torch.random.fork_rng(devices=[]):  # building draws weights that are replaced here
        grown = model.clone_for(data)
    tables = {
        f"{name}.weight"
        for name, module in grown.named_modules()
        if isinstance(module, FeatureTable)
    }
    new = torch.arange(known, grown.num_items)
    trained = model.state_dict()
    for name, value in grown.state_dict().items():
        old = trained[name].to(value.device)
        if old.shape == value.shape:
            value.copy_(old)
        elif old.size(0) == known and value.size(0) == grown.num_items:
            value[:known] = old
            if name not in tables:
                value[known:] = 0 if like is None else _means(old, *like, new.to(value.device))
    return grown.to(_tensors(model)[0].device).eval()


def _means(table: Tensor, edge_index: Tensor, weight: Tensor, new: Tensor) -> Tensor:
    """Weighted means of rows of ``table``, one for each of ``new``; zero without any."""
    source, target = edge_index.to(table.device)
    weight = weight.to(table.device, table.dtype).unsqueeze(1)
    row = target - new[0]
    total = table.new_zeros(new.numel(), 1).index_add_(0, row, weight)
    rows = table.new_zeros(new.numel(), table.size(1))
    rows.index_add_(0, row, table[source] * weight)
    return torch.where(total > 0, rows / total.clamp(min=1e-12), 0)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
