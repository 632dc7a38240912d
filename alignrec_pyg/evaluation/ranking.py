"""Rankings: every user's best new items, from which all metrics are computed without the model.

The graph is propagated once; users are then scored in blocks, known links masked, and the top k
kept. No matrix of users x items is held in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_indices, check_integer
from alignrec_pyg.graph import INTERACTS, known_pairs, links_to_predict
from alignrec_pyg.models import Recommender

ResultT = TypeVar("ResultT")

# Scores per block: large enough for fast matrix products, small enough for the processor's cache;
# many items and a GPU want larger ones.
_BLOCK_SCORES = 1 << 22
_BLOCK_SCORES_LARGE = 1 << 24
_BLOCK_SCORES_CUDA = 1 << 26
# Lists may be so long with fewer items, too: small data give the same cut-offs as others.
_PADDED = 1000
# More items than these are a large catalogue, whose best are found by groups of so many.
_LARGE = 50_000
_GROUP = 8


class Ranking(NamedTuple):
    """The best new items of some users, best first.

    A user who is linked to nearly all items has fewer than k new ones; the rest of the list is then
    filled with the number of items, which is no item's index.

    Shapes:
        - **user:** int64 :math:`(n)`, ascending
        - **item:** int32 :math:`(n, k)`
    """

    user: Tensor
    item: Tensor

    def check_k(self, k: Any) -> int:
        """Checks that ``k`` is a cut-off within the lists.

        Raises:
            ValueError: If it is no positive integer, or longer than the lists.
        """
        return check_integer("k", k, 1, self.item.size(1), hint=": for more, rank with a larger k")


class RankedBlock(NamedTuple):
    """The best items of a block of users, best first, and their scores.

    Where nothing is left, the item is the number of items and the score minus infinity.

    Shapes:
        - **user:** int64 :math:`(b)`, ascending
        - **item:** int64 :math:`(b, k)`
        - **score:** float32 :math:`(b, k)`
    """

    user: Tensor
    item: Tensor
    score: Tensor


def rank(
    model: Recommender,
    data: HeteroData,
    k: int = 50,
    users: Tensor | None = None,
    *,
    items: Tensor | None = None,
    exclude_known: bool = True,
    exclude_known_pairs: bool = False,
) -> Ranking:
    """Ranks all items but those in ``edge_index`` of the user, and keeps the best ``k``.

    Args:
        model: Any recommender; put in evaluation mode meanwhile.
        data: Known links in ``edge_index``; known pairs and links to predict where there are any.
        k: Length of the lists; lowered to 1,000 or the number of items, whichever is more.
        users: Numbers of the users to rank for, in any order, repeats ignored; ``None`` means those
            with links to predict.
        items: Numbers of the items that may be ranked, in any order, repeats ignored; ``None``
            means all.
        exclude_known: Whether items in ``edge_index`` of the user are left out.
        exclude_known_pairs: Whether the items of the user's
            :func:`~alignrec_pyg.graph.known_pairs` are left out too. In published figures they are
            ranked.

    Raises:
        ValueError: If ``k`` is no positive integer, ``users`` or ``items`` hold anything but
            numbers of users or items, or ``users`` is ``None`` with nothing to predict, or ``data``
            is not that of the model.
        FloatingPointError: If a score is NaN (it would rank first).
    """
    k = check_integer("k", k, 1)
    model.check_fits(data, "data")
    device = data[INTERACTS].edge_index.device
    users = (
        links_to_predict(data)[0]
        if users is None
        else check_indices("users", users, model.num_users)
    )
    users = users.to(device, torch.int64).unique()
    k = min(k, max(model.num_items, _PADDED))
    if items is not None:
        items = check_indices("items", items, model.num_items).to(device, torch.int64).unique()
    if users.numel() == 0:
        return Ranking(users, users.new_empty(0, k, dtype=torch.int32))
    links = data[INTERACTS].edge_index
    parts = [links if exclude_known else links[:, :0]]
    if exclude_known_pairs:
        parts.append(known_pairs(data))
    blocks = rank_blocks(model, data, users, k, torch.cat(parts, dim=1), items=items)
    return Ranking(users, torch.cat([block.item.int() for block in blocks]))


def rank_blocks(
    model: Recommender,
    data: HeteroData,
    users: Tensor,
    k: int,
    left_out: Tensor,
    *,
    items: Tensor | None = None,
) -> Iterator[RankedBlock]:
    """Like :func:`rank`, block by block, so that not all lists are in memory at once.

    The caller makes sure that ``data`` fits the model, that ``users`` (at least one) and ``items``
    ascend, and that both are valid. ``left_out`` are links, int64 ``[2, E]``, whose items are not
    ranked for their user.

    Raises:
        FloatingPointError: If a score is NaN.
    """
    yield from top_items(
        scorer_of(model, data, items),
        users,
        left_out,
        k,
        num_items=model.num_items,
        items=items,
        of=type(model).__name__,
    )


def scorer_of(
    model: Recommender, data: HeteroData, items: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """The model's :meth:`~alignrec_pyg.models.Recommender.scorer`, in evaluation mode.

    The model's mode is afterwards what it was.
    """
    return _evaluated(model, lambda: model.scorer(data, items))


def has_vectors(model: Recommender) -> bool:
    """Whether the model's scores are inner products of its vectors."""
    return type(model).scorer is Recommender.scorer


def embeddings(model: Recommender, data: HeteroData) -> tuple[Tensor, Tensor]:
    """The vectors of all users and items in evaluation mode, without gradient.

    The model's mode is afterwards what it was.

    Shapes:
        - **output:** :math:`(|U|, d)`, :math:`(|I|, d)`

    Raises:
        ValueError: If the model's scores are not inner products of its vectors.
    """
    if not has_vectors(model):
        raise no_vectors(type(model).__name__)
    user_x, item_x = _evaluated(model, lambda: model(data))
    return user_x.detach(), item_x.detach()  # a model may hand out its parameters themselves


def no_vectors(name: str) -> ValueError:
    """The error where a model needs vectors and has none; ``name`` is that of its class."""
    return ValueError(
        f"vectors are needed whose inner products are the scores ({name} has none, since it "
        "overrides 'scorer'): recommendations and evaluation take any model"
    )


@torch.no_grad()
def _evaluated(model: Recommender, call: Callable[[], ResultT]) -> ResultT:
    was_training = model.training
    model.eval()
    try:
        return call()
    finally:
        model.train(was_training)


@torch.no_grad()
def top_items(
    scores: Callable[[Tensor], Tensor],
    users: Tensor,
    known: Tensor,
    k: int,
    *,
    num_items: int,
    items: Tensor | None = None,
    of: str,
) -> Iterator[RankedBlock]:
    """The items of highest score to each user, block by block.

    ``scores`` gives the scores of a block of ``users`` for ``items`` (see
    :meth:`~alignrec_pyg.models.Recommender.scorer`); both are ascending, and ``None`` means all
    items. ``known`` are links, which are left out; ``of`` says in messages whose scores they are.

    Shapes:
        - **input:** users int64 :math:`(n)`, known int64 :math:`(2, E)`, items int64 :math:`(c)`

    Raises:
        FloatingPointError: If a score is NaN.
        ValueError: If ``scores`` gives another shape.
    """
    num_columns = num_items
    if items is not None:
        num_columns = items.numel()
        column = items.new_full((num_items,), -1)
        column[items] = torch.arange(num_columns, device=items.device)
        known = torch.stack([known[0], column[known[1]]])
        known = known[:, known[1] >= 0]
    known = known[:, known[0].argsort(stable=True)]
    block_scores = _BLOCK_SCORES_LARGE if num_columns > _LARGE else _BLOCK_SCORES
    block_scores = _BLOCK_SCORES_CUDA if users.is_cuda else block_scores
    for block in users.split(max(1, block_scores // max(1, num_columns))):
        score = scores(block)
        if score.shape != (block.numel(), num_columns):
            raise ValueError(
                f"{of}.scorer needs to give functions whose scores have the shape "
                f"{[block.numel(), num_columns]} for these users and items (got "
                f"{list(score.shape)})"
            )
        inside = row_slice(known[0], block)
        from_block = torch.isin(known[0, inside], block)
        row = torch.searchsorted(block, known[0, inside][from_block])
        score[row, known[1, inside][from_block]] = -math.inf
        value, item = _topk(score, min(k, num_columns))
        if bool(value.isnan().any()):
            raise FloatingPointError(
                f"{of} gives NaN scores: its parameters or features are not "
                "finite, so there is no ranking"
            )
        if items is not None:
            item = items[item]
        item = item.masked_fill(value == -math.inf, num_items)
        if k > num_columns:
            item = torch.nn.functional.pad(item, (0, k - num_columns), value=num_items)
            value = torch.nn.functional.pad(value, (0, k - num_columns), value=-math.inf)
        yield RankedBlock(block, item, value)


def _topk(score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row and their columns, largest first, equal ones in any order.

    Those of a large row are the largest members of the k groups with the largest maxima: a member
    of another group has these k maxima, which are at least as large, before it.
    """
    num_columns = score.size(1)
    num_groups = num_columns // _GROUP
    # on a GPU, and where the groups hold much of the row, it would take longer
    if num_columns <= _LARGE or 4 * k > num_groups or score.device.type != "cpu":
        return score.topk(k, dim=1)
    # Group g has the columns g, g + num_groups, ...: its maxima are those of whole rows of memory.
    grouped = score[:, : _GROUP * num_groups].unflatten(1, (_GROUP, num_groups))
    group = grouped.amax(dim=1).topk(k, dim=1, sorted=False).indices
    member = num_groups * torch.arange(_GROUP).unsqueeze(1) + group.unsqueeze(1)
    rest = torch.arange(_GROUP * num_groups, num_columns).expand(score.size(0), -1)
    column = torch.cat([member.flatten(1), rest], dim=1)
    value, place = score.gather(1, column).topk(k, dim=1)
    return value, column.gather(1, place)


def row_slice(sorted_rows: Tensor, block: Tensor) -> slice:
    """The slice of ascending rows from the first to the last of a block."""
    first = int(torch.searchsorted(sorted_rows, block[0]))
    return slice(first, int(torch.searchsorted(sorted_rows, block[-1], right=True)))
