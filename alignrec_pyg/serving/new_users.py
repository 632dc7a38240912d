"""Users that come after training."""

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

_BLOCK_NUMBERS = 1 << 24  # entries of the systems solved at a time: 64 MiB


@torch.no_grad()
def fold_in_users(item_x: Tensor, history: Tensor, num_users: int, *, ridge: float = 0.1) -> Tensor:
    r"""Vectors of new users from their items, with all item vectors as they are.

    A user with the items :math:`H` gets the vector whose scores come nearest to 1 on :math:`H` and
    to 0 on the catalogue, in the mean over each:

    .. math::
        x_u = \arg\min_x \frac{1}{|H|} \sum_{i \in H} (1 - x^\top h_i)^2
        + \frac{1}{|I|} \sum_i (x^\top h_i)^2 + \lambda \sigma^2 \lVert x \rVert^2
        = \Big( \tfrac{1}{|H|} \sum_{i \in H} h_i h_i^\top + G + \lambda \sigma^2 \Big)^{-1}
        \frac{1}{|H|} \sum_{i \in H} h_i

    with :math:`G = \frac{1}{|I|} \sum_i h_i h_i^\top` and :math:`\sigma^2 = \operatorname{tr}(G) /
    d`. It is the user step of implicit ALS (`Hu et al. <https://doi.org/10.1109/ICDM.2008.22>`_,
    ICDM 2008), which needs of a model only that scores are inner products, so it serves every model
    here. It scales with no model's units; for a large :math:`\lambda` it is the direction of the
    mean of the history.

    Args:
        item_x: Vectors of all items.
        history: Links of new users, numbered from 0, to items; a repeated link counts again.
        num_users: Number of new users; those without links get zeros.
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
    candidates: ArrayLike | None = None,
    exclude: ArrayLike = (),
    exclude_known: bool = True,
    ridge: float = 0.1,
) -> list[np.ndarray]:
    """The k best items for users the model has never seen, from the items they know.

    Nothing is trained and nothing kept: :func:`fold_in_users` gives each of them a vector, and all
    others stay what they are.

    Args:
        model: Any recommender; put in evaluation mode meanwhile.
        data: The graph to serve.
        histories: Ids of the items that each user knows, at least one each.
        k: Length of the lists.
        candidates: Ids of the items that may be recommended (default: all).
        exclude: Ids of items that may not.
        exclude_known: Whether items of the user's history are left out.
        ridge: See :func:`fold_in_users`.

    Returns:
        One array of item ids per history, best first.

    Raises:
        UnknownItemError: If an item id is not in the data.
        ValueError: If a history is empty, ``k`` is no positive integer or ``data`` is not that of
            the model.
        FloatingPointError: If a score is NaN.
    """
    k = check_integer("k", k, 1)
    model.check_fits(data, "data")
    known = [_items(data, history, number) for number, history in enumerate(histories)]
    if not known:
        return []
    item = torch.cat(known)
    sizes = torch.tensor([numbers.numel() for numbers in known], device=item.device)
    users = torch.arange(len(known), device=item.device)
    links = torch.stack([users.repeat_interleave(sizes), item])
    _, item_x = embeddings(model, data)
    user_x = fold_in_users(item_x, links, len(known), ridge=ridge)
    blocks = top_items(
        user_x,
        item_x,
        users,
        links if exclude_known else links[:, :0],
        min(k, model.num_items),
        items=allowed_items(data, candidates, exclude),
        of=type(model).__name__,
    )
    ids = item_ids(data)
    rows = torch.cat([block.item for block in blocks]).cpu().numpy()
    return [ids[row[row < ids.shape[0]]] for row in rows]


def _items(data: HeteroData, history: Any, number: int) -> Tensor:
    items = item_indices(data, history, f"histories[{number}]").unique()
    if items.numel() == 0:
        raise ValueError(
            f"'histories[{number}]' needs at least one item: for a user of whom nothing is known "
            "recommend what is popular"
        )
    return items
