"""All-ranking evaluation and recommendation for any model.

The graph is propagated once; users are then scored in blocks, known links masked, and the top k
kept. Nothing of size users x items is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import (
    LinkPredMAP,
    LinkPredMetricCollection,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)

from alignrec_pyg.graph import INTERACTS, ITEM, USER, links_to_predict
from alignrec_pyg.models import Recommender

_METRICS = {
    "recall": LinkPredRecall,
    "ndcg": LinkPredNDCG,
    "precision": LinkPredPrecision,
    "map": LinkPredMAP,
    "mrr": LinkPredMRR,
}
# Scores per block: large enough for fast matrix products, small enough for the processor's cache;
# a GPU wants larger ones.
_BLOCK_SCORES = 1 << 22
_BLOCK_SCORES_CUDA = 1 << 26


class UserMetrics(NamedTuple):
    """Metrics of every scored user, for paired tests and group means.

    Shapes:
        - **user:** int64 :math:`(n)`, ascending
        - **recall, ndcg:** float32 :math:`(n)`
    """

    user: Tensor
    recall: Tensor
    ndcg: Tensor


class UnknownUserError(ValueError):
    """A user id that the data does not hold."""


def evaluate(
    model: Recommender, data: HeteroData, ks: int | Sequence[int] = (10, 20)
) -> dict[str, float]:
    r"""Ranks all items for every user with links to predict and averages over those users.

    Candidates are all items but those in ``edge_index`` of the user. With :math:`T_u` the links to
    predict, recall@k is :math:`|\text{top-}k \cap T_u| / |T_u|` and the ideal of ndcg@k has
    :math:`\min(k, |T_u|)` hits. Values are not rounded.

    Args:
        model: Any recommender; put in evaluation mode meanwhile.
        data: Known links in ``edge_index``, links to predict in ``edge_label_index``.
        ks: Cut-off or cut-offs :math:`k`.

    Returns:
        ``recall@k``, ``ndcg@k``, ``precision@k``, ``map@k``, ``mrr@k`` for every k, and
        ``num_users``, the number of users scored.

    Raises:
        ValueError: If a cut-off is no positive integer, there is nothing to predict, or ``data``
            is not that of the model.
        FloatingPointError: If a score is NaN (it would rank first).
    """
    ks = checked_cut_offs(ks)
    model.check_fits(data, "data")
    label = links_to_predict(data)
    metrics = LinkPredMetricCollection(
        {f"{name}@{k}": metric(k) for k in ks for name, metric in _METRICS.items()}
    ).to(label.device)
    num_users = 0
    for block in _rank_labelled(model, data, max(ks)):
        metrics.update(block.ranked, block.label_index)
        num_users += block.user.numel()
    result = {name: float(value) for name, value in metrics.compute().items()}
    return {**result, "num_users": float(num_users)}


def evaluate_users(model: Recommender, data: HeteroData, k: int = 20) -> UserMetrics:
    """Recall@k and ndcg@k of every user with links to predict (see :func:`evaluate`).

    Raises:
        ValueError: As :func:`evaluate`.
        FloatingPointError: If a score is NaN.
    """
    (k,) = checked_cut_offs(k)
    model.check_fits(data, "data")
    discount = 1 / torch.arange(2, k + 2, device=links_to_predict(data).device).log2()
    parts = []
    for block in _rank_labelled(model, data, k):
        row, item = block.label_index
        size = int(data[ITEM].num_nodes) + 1  # one past the items stands for "nothing"
        row_of_ranked = torch.arange(block.user.numel(), device=row.device).unsqueeze(1)
        hit = torch.isin(block.ranked + size * row_of_ranked, item + size * row).float()
        count = torch.bincount(row, minlength=block.user.numel())
        ideal = discount.cumsum(0)[count.clamp(max=k) - 1]
        parts.append(UserMetrics(block.user, hit.sum(1) / count, (hit * discount).sum(1) / ideal))
    return UserMetrics(*(torch.cat(column) for column in zip(*parts, strict=True)))


def recommend(
    model: Recommender, data: HeteroData, user_ids: ArrayLike, k: int = 20
) -> list[np.ndarray]:
    """The k best new items of each user, in the ids of the outside world.

    Items in ``edge_index`` of the user are never returned, so a list is shorter than ``k`` where
    fewer new items are left.

    Args:
        model: Any recommender; put in evaluation mode meanwhile.
        data: Graph with the known links and, where there are any, ``data["user"].id`` and
            ``data["item"].id`` (else users and items go by their number).
        user_ids: Outside ids of users, in any order, repeats allowed.
        k: Length of the lists.

    Returns:
        One array of item ids per user, best first.

    Raises:
        UnknownUserError: If an id is not in the data.
        ValueError: If ``k`` is no positive integer or ``data`` is not that of the model.
        FloatingPointError: If a score is NaN.
    """
    (k,) = checked_cut_offs(k)
    model.check_fits(data, "data")
    user = _user_index(data, user_ids)
    if user.numel() == 0:
        return []
    item_id = np.asarray(data[ITEM].get("id", np.arange(int(data[ITEM].num_nodes))))
    unique, inverse = user.unique(return_inverse=True)
    ranked = torch.cat(
        [ranked for _, ranked in _rank(model, data, unique, min(k, model.num_items))]
    )
    rows = ranked[inverse].cpu().numpy()
    return [item_id[row[row < item_id.shape[0]]] for row in rows]


def checked_cut_offs(ks: Any) -> tuple[int, ...]:
    """One cut-off or several as a tuple of plain integers.

    Raises:
        ValueError: If they are no positive integers.
    """
    listed = [ks] if np.ndim(ks) == 0 else list(ks)
    if not listed or not all(isinstance(k, Integral) and int(k) > 0 for k in listed):
        raise ValueError(f"'ks' needs to hold positive integers (got {ks!r})")
    return tuple(int(k) for k in listed)


class _LabelledBlock(NamedTuple):
    user: Tensor
    ranked: Tensor
    label_index: Tensor


def _rank_labelled(model: Recommender, data: HeteroData, k: int) -> Iterator[_LabelledBlock]:
    label = links_to_predict(data)
    label = label[:, label[0].argsort(stable=True)]
    users = label[0].unique()
    for block, ranked in _rank(model, data, users, k):
        inside = _row_slice(label[0], block)
        row = torch.searchsorted(block, label[0, inside])
        yield _LabelledBlock(block, ranked, torch.stack([row, label[1, inside]]))


@torch.no_grad()
def _rank(
    model: Recommender, data: HeteroData, users: Tensor, k: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of ascending ``users`` with their top items; num_items stands for "nothing left"."""
    was_training = model.training
    model.eval()
    try:
        user_x, item_x = model(data)
    finally:
        model.train(was_training)
    num_items = item_x.size(0)
    known = data[INTERACTS].edge_index
    known = known[:, known[0].argsort(stable=True)]
    item_xt = item_x.t().contiguous()
    block_scores = _BLOCK_SCORES_CUDA if item_x.is_cuda else _BLOCK_SCORES
    for block in users.split(max(1, block_scores // num_items)):
        scores = user_x[block] @ item_xt
        inside = _row_slice(known[0], block)
        from_block = torch.isin(known[0, inside], block)
        row = torch.searchsorted(block, known[0, inside][from_block])
        scores[row, known[1, inside][from_block]] = -math.inf
        value, item = scores.topk(min(k, num_items), dim=1)
        if bool(value.isnan().any()):
            raise FloatingPointError(
                f"{type(model).__name__} gives NaN scores: its parameters or features are not "
                "finite, so there is no ranking"
            )
        item = item.masked_fill(value == -math.inf, num_items)
        if k > num_items:
            item = torch.nn.functional.pad(item, (0, k - num_items), value=num_items)
        yield block, item


def _row_slice(sorted_rows: Tensor, block: Tensor) -> slice:
    """Where the rows from the first to the last of an ascending block stand."""
    first = int(torch.searchsorted(sorted_rows, block[0]))
    return slice(first, int(torch.searchsorted(sorted_rows, block[-1], right=True)))


def _user_index(data: HeteroData, user_ids: Any) -> Tensor:
    device = data[INTERACTS].edge_index.device
    if isinstance(user_ids, str) or np.ndim(user_ids) == 0:
        user_ids = [user_ids]
    # one by one: NumPy would turn [1, "a"] into two strings
    asked = user_ids.tolist() if hasattr(user_ids, "tolist") else list(user_ids)
    if any(isinstance(user, list) for user in asked):
        raise ValueError(f"'user_ids' needs to be one list of ids (got shape {np.shape(user_ids)})")
    known = np.asarray(data[USER].get("id", np.arange(int(data[USER].num_nodes)))).tolist()
    position = {user: index for index, user in enumerate(known)}
    unknown = [user for user in asked if user not in position]
    if unknown:
        raise UnknownUserError(
            f"'user_ids' needs to hold ids of the data's {len(known)} users, which are like "
            f"{known[0]!r} (unknown: {', '.join(map(repr, unknown[:5]))}"
            f"{', ...' if len(unknown) > 5 else ''})"
        )
    index = [position[user] for user in asked]
    return torch.tensor(index, dtype=torch.int64, device=device)
