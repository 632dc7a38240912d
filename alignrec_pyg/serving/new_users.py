"""Recommendations for users that are not in the training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.evaluation.metrics import allowed_items
from alignrec_pyg.evaluation.ranking import embeddings, top_items
from alignrec_pyg.ids import item_ids, item_indices
from alignrec_pyg.models import Recommender
from alignrec_pyg.models.base import inner_products

_BLOCK_NUMBERS = 1 << 24  # entries of the systems solved at a time: 64 MiB


@torch.no_grad()
def fold_in_users(item_x: Tensor, history: Tensor, num_users: int, *, ridge: float = 0.1) -> Tensor:
    r"""Computes vectors of new users from their history, with fixed item vectors.

    The vector of a user with the history :math:`H` is fitted by least squares to the scores 1 on
    :math:`H` and 0 on the catalogue, averaged over each:

    .. math::
        x_u = \arg\min_x \frac{1}{|H|} \sum_{i \in H} (1 - x^\top h_i)^2
        + \frac{1}{|I|} \sum_i (x^\top h_i)^2 + \lambda \sigma^2 \lVert x \rVert^2
        = \Big( \tfrac{1}{|H|} \sum_{i \in H} h_i h_i^\top + G + \lambda \sigma^2 \Big)^{-1}
        \frac{1}{|H|} \sum_{i \in H} h_i

    with :math:`G = \frac{1}{|I|} \sum_i h_i h_i^\top` and :math:`\sigma^2 = \operatorname{tr}(G) /
    d`. This is the user step of implicit ALS (`Hu et al. <https://doi.org/10.1109/ICDM.2008.22>`_,
    ICDM 2008). It applies to every model whose scores are inner products, and does not depend on
    the scale of the vectors; for a large :math:`\lambda` the result has the direction of the mean
    of the history.

    Args:
        item_x: Vectors of all items.
        history: Links from new users, indexed from 0, to items; repeated links count repeatedly.
        num_users: Number of new users; users without links get zeros.
        ridge: :math:`\lambda`.

    Shapes:
        - **input:** item_x :math:`(|I|, d)`, history int64 :math:`(2, E)`
        - **output:** :math:`(n, d)`

    Raises:
        ValueError: If ``ridge`` is not positive.
    """
    check_number("ridge", ridge, above=0)
    # double precision: the systems may be nearly singular
    x = item_x.double()
    dim = x.size(1)
    gram = x.T @ x / x.size(0)
    gram.diagonal().add_(ridge * gram.trace() / dim)
    history = history[:, history[0].argsort(stable=True)]
    user, item = history
    count = torch.bincount(user, minlength=num_users)
    start = count.cumsum(0) - count
    folded = x.new_zeros(num_users, dim)
    step = max(1, _BLOCK_NUMBERS // (dim * dim))
    for block in torch.arange(num_users, device=x.device).split(step):
        block = block[count[block] > 0]
        systems = gram.repeat(block.numel(), 1, 1)
        mean = x.new_empty(block.numel(), dim)
        for row, number in enumerate(block.tolist()):
            own = x[item[start[number] : start[number] + count[number]]]
            systems[row].addmm_(own.T, own, alpha=1 / own.size(0))
            mean[row] = own.mean(dim=0)
        folded[block] = torch.linalg.solve(systems, mean)
    return folded.to(item_x.dtype)


def recommend_new_users(
    model: Recommender,
    data: HeteroData,
    histories: Sequence[ArrayLike],
    k: int = 20,
    *,
    known: Sequence[ArrayLike] | None = None,
    candidates: ArrayLike | None = None,
    exclude: ArrayLike = (),
    exclude_known: bool = True,
    ridge: float = 0.1,
) -> list[np.ndarray]:
    """Recommends the top ``k`` items to users that are not in the data, given their histories.

    Neither the model nor the graph is changed: :func:`fold_in_users` computes the vectors of the
    users.

    Args:
        model: Any recommender; it is in evaluation mode meanwhile.
        data: The graph to serve.
        histories: Ids of the items in the history of each user, at least one each.
        k: Length of the lists.
        known: Ids of further items that each user has had without liking them, such as low ratings:
            they are no part of the history, and not recommended to the user.
        candidates: Ids of the items that may be recommended (default: all).
        exclude: Ids of items that may not be recommended.
        exclude_known: Whether to exclude the items of each user's history and of ``known``.
        ridge: See :func:`fold_in_users`.

    Returns:
        One array of item ids per history, best first.

    Raises:
        UnknownItemError: If an item id is not in the data.
        ValueError: If a history is empty, ``known`` is not one list for each of them, ``k``
            is not a positive integer or ``data`` does not fit the model.
        FloatingPointError: If a score is NaN.
    """
    k = check_integer("k", k, 1)
    model.check_fits(data, "data")
    items = [_items(data, history, number) for number, history in enumerate(histories)]
    others = [[]] * len(items) if known is None else known
    if len(others) != len(items):
        raise ValueError(
            f"'known' needs a list of items for each of the {len(items)} histories (got "
            f"{len(others)})"
        )
    if not items:
        return []
    links = _links(items)
    more = [item_indices(data, ids, f"known[{number}]") for number, ids in enumerate(others)]
    had = torch.cat([links, _links(more)], dim=1)
    users = torch.arange(len(items), device=links.device)
    _, item_x = embeddings(model, data)
    user_x = fold_in_users(item_x, links, len(items), ridge=ridge)
    allowed = allowed_items(data, candidates, exclude)
    blocks = top_items(
        inner_products(user_x, item_x, allowed),
        users,
        had if exclude_known else had[:, :0],
        min(k, model.num_items),
        num_items=model.num_items,
        items=allowed,
        of=type(model).__name__,
    )
    ids = item_ids(data)
    rows = torch.cat([block.item for block in blocks]).cpu().numpy()
    return [ids[row[row < ids.shape[0]]] for row in rows]


def _links(items: Sequence[Tensor]) -> Tensor:
    """Links from users 0, 1, ... to their items, int64 ``[2, E]``."""
    sizes = torch.tensor([numbers.numel() for numbers in items], device=items[0].device)
    users = torch.arange(len(items), device=items[0].device)
    return torch.stack([users.repeat_interleave(sizes), torch.cat(list(items))])


def _items(data: HeteroData, history: Any, number: int) -> Tensor:
    items = item_indices(data, history, f"histories[{number}]").unique()
    if items.numel() == 0:
        raise ValueError(
            f"'histories[{number}]' needs at least one item: for a user without a history, "
            "recommend popular items"
        )
    return items
