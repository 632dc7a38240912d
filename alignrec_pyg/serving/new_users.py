"""Vectors of users that are not in the training data."""

from __future__ import annotations

import torch
from torch import Tensor

from alignrec_pyg.checks import check_number

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
