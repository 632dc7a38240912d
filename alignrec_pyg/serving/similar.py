"""Similar items, and explanations of recommendations by items of the user's history."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData

from alignrec_pyg import ids
from alignrec_pyg.checks import check_integer
from alignrec_pyg.evaluation.metrics import allowed_items
from alignrec_pyg.evaluation.ranking import embeddings
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import Recommender
from alignrec_pyg.nn.knn_search import nearest_rows


class SimilarItems(NamedTuple):
    """Items and their similarities, most similar first.

    Shapes:
        - **item:** original ids, :math:`(n)`
        - **similarity:** cosine, float64 :math:`(n)`
    """

    item: np.ndarray
    similarity: np.ndarray


def similar_items(
    model: Recommender,
    data: HeteroData,
    item_ids: ArrayLike,
    k: int = 10,
    *,
    candidates: ArrayLike | None = None,
    exclude: ArrayLike = (),
) -> list[SimilarItems]:
    """Returns the ``k`` other items whose vectors have the highest cosine to that of each item.

    Cosines are compared at a resolution of 1e-9, and ties are broken by the lower item index. An
    item with a zero vector, such as a new one without features, has no similar items.

    Args:
        model: Any recommender; it is in evaluation mode meanwhile.
        data: The graph to serve.
        item_ids: Ids of items, in any order; repeated ids are allowed.
        k: Length of the lists; they are shorter if there are fewer candidates.
        candidates: Ids of the items that may be returned (default: all).
        exclude: Ids of items that may not be returned.

    Raises:
        UnknownItemError: If an id is not in the data.
        ValueError: If ``k`` is not a positive integer or ``data`` does not fit the model.

    Example:
        >>> import pandas as pd
        >>> from alignrec_pyg import BPR
        >>> from alignrec_pyg.datasets import from_frames
        >>> from alignrec_pyg.serving import similar_items
        >>> links = pd.DataFrame({"user": ["ann", "ann", "bob"], "item": ["cup", "tea", "cup"]})
        >>> data = from_frames(links).data
        >>> (similar,) = similar_items(BPR(data), data, ["cup"], k=1)
        >>> similar.item
        array(['tea'], dtype=object)
    """
    k = check_integer("k", k, 1)
    model.check_fits(data, "data")
    asked = ids.item_indices(data, item_ids, "item_ids")
    allowed = allowed_items(data, candidates, exclude)
    if allowed is None:
        allowed = torch.arange(model.num_items, device=asked.device)
    _, item_x = embeddings(model, data)
    has_direction = item_x.any(dim=1)
    allowed = allowed[has_direction[allowed]]
    usable = has_direction[asked]
    fetched = min(k + 1, allowed.numel())
    neighbor, cosine = nearest_rows(item_x[allowed], item_x[asked[usable]], fetched)
    lists = zip(allowed[neighbor], cosine, strict=True)
    names = ids.item_ids(data)
    result = []
    for number, is_usable in zip(asked.tolist(), usable.tolist(), strict=True):
        items, similarity = next(lists) if is_usable else (allowed[:0], cosine.new_empty(0))
        others = (items != number).nonzero()[:k, 0]
        result.append(
            SimilarItems(names[items[others].cpu().numpy()], similarity[others].cpu().numpy())
        )
    return result


def explain(
    model: Recommender,
    data: HeteroData,
    user_id: object,
    item_ids: ArrayLike,
    k: int = 3,
    *,
    item_x: Tensor | None = None,
) -> list[SimilarItems]:
    """Explains recommendations by the ``k`` most similar items of the user's history.

    The similarity is the cosine of the item vectors of the model. It shows which part of the
    history the model considers similar to the item ("because you liked ..."), not what caused the
    score.

    Args:
        model: Any recommender; it is in evaluation mode meanwhile.
        data: The graph to serve; the history is its ``edge_index``.
        user_id: Id of the user.
        item_ids: Ids of items, such as those recommended to the user.
        k: Maximum number of items in an explanation; an item does not explain itself.
        item_x: Vectors of all items, the second part of ``model(data)``, ``[num_items, d]``. Pass
            them to compute the propagation once for several calls; otherwise every call computes
            it.

    Raises:
        UnknownUserError: If the user is not in the data.
        UnknownItemError: If an item id is not in the data.
        ValueError: If ``k`` is not a positive integer, ``data`` does not fit the model or
            ``item_x`` has another number of rows.
    """
    k = check_integer("k", k, 1)
    model.check_fits(data, "data")
    if item_x is not None and item_x.size(0) != model.num_items:
        raise ValueError(
            f"'item_x' needs a row for each of the {model.num_items} items (got "
            f"{list(item_x.shape)})"
        )
    (user,) = ids.user_indices(data, [user_id], "user_id").tolist()
    asked = ids.item_indices(data, item_ids, "item_ids")
    links = data[INTERACTS].edge_index
    history = links[1, links[0] == user].unique()
    if item_x is None:
        _, item_x = embeddings(model, data)
    history = history[item_x[history].any(dim=1)]
    wanted, own = (normalize(item_x[rows].double()) for rows in (asked, history))
    cosine = wanted @ own.T
    names = ids.item_ids(data)
    result = []
    for item, row in zip(asked.tolist(), cosine, strict=True):
        order = row.argsort(descending=True, stable=True)
        order = order[history[order] != item][:k]
        result.append(SimilarItems(names[history[order].cpu().numpy()], row[order].cpu().numpy()))
    return result
