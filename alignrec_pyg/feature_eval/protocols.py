"""The zero-shot and item-CF protocols, which evaluate features without training a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_choice, check_cut_offs, check_integer
from alignrec_pyg.feature_eval.feature_rows import FeatureRows
from alignrec_pyg.feature_eval.item_targets import Score, most_similar_items
from alignrec_pyg.feature_eval.ranks import Queries, Similarity, TargetRanks, target_ranks
from alignrec_pyg.feature_eval.recall import FeatureRecall, recall_fields
from alignrec_pyg.feature_eval.user_targets import Ties, held_out_links, latest_links
from alignrec_pyg.graph import require_graph

Targets = Literal["time", "labels"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ItemCFRecall(FeatureRecall):
    """Result of the item-CF protocol, with ties of the item-CF score broken.

    Args:
        any_tied: The result if all items with the highest score are targets.
        num_tied: Number of items with several targets of equal score.
    """

    any_tied: FeatureRecall
    num_tied: int


def zero_shot(
    data: HeteroData,
    features: str | Sequence[str],
    *,
    ks: int | Sequence[int] = (10, 20, 50),
    targets: Targets = "time",
    similarity: Similarity = "cosine",
    exclude_history: bool = False,
    ties: Ties = "last",
    normalize_parts: bool = True,
    normalize_items: bool = False,
    seed: int = 0,
    block_size: int = 512,
) -> FeatureRecall:
    r"""Zero-shot recommendation: are the earlier items of a user similar to the next one?

    This is the first training-free evaluation of `AlignRec <https://arxiv.org/abs/2403.12384>`_
    (Section 4.4.2). The latest item :math:`i^*` of each user is the target, the others are the
    history :math:`H_u`. With the features :math:`h_j` of item j,

    .. math:: h_u = \frac1{|H_u|} \sum_{j \in H_u} h_j, \qquad
        \text{recall@}k = \frac1{|U|} \sum_u [\, i^* \in \text{top-}k_i\; s(h_u, h_i) \,].

    The paper does not specify all details; the defaults are the simplest interpretation. All links
    of the data are used: to exclude the test links of a later experiment, pass a training graph.

    Ranks are exact: similarities that differ by less than about 1e-9 are considered equal, and ties
    are broken by the lower item index. Items without features have similarity 0 to all others;
    users whose history has no features have recall 0. Users with a single link are excluded.

    Args:
        data: Graph with the links (``edge_index``) and their ``.time``.
        features: Name of a feature table ``data["item"].x_<name>``, or of several tables, which are
            concatenated.
        ks: Cut-off or cut-offs :math:`k`.
        targets: ``"time"``, or, without times, ``"labels"``: the targets are the links to predict
            of the validation or test graph of a split, the history its known links. The recall of a
            user with several targets is the share that is found.
        similarity: ``"cosine"`` or ``"dot"`` (inner product).
        exclude_history: Whether to exclude the items of the history from the candidates.
        ties: Which of several latest items of equal time is the target (times are often whole
            days): the last one in the order of the links, a random one, or the one with the
            smallest or largest item index.
        normalize_parts: Whether to scale the rows of each table to length 1, as
            :class:`~alignrec_pyg.transforms.ConcatFeatures` and the commands do for models, or to
            take them as they are stored, where the table with longer rows dominates.
        normalize_items: Whether to scale the rows, of several tables the concatenated ones, to
            length 1 before averaging them.
        seed: Seed of ``ties="random"``.
        block_size: Number of users per block; memory is ``block_size * num_items * 12`` bytes and
            about 100 MiB. The ranks do not depend on it.

    Raises:
        ValueError: If an argument is out of range, a table is missing or not finite, times are
            needed but missing, or there are no targets.

    Example:
        >>> import torch
        >>> from torch_geometric.data import HeteroData
        >>> from alignrec_pyg import zero_shot
        >>> data = HeteroData()
        >>> data["user"].num_nodes, data["item"].num_nodes = 2, 4
        >>> data["item"].x_mm = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> links = data["user", "interacts", "item"]
        >>> links.edge_index = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]])
        >>> links.time = torch.tensor([1, 2, 1, 2])
        >>> zero_shot(data, "mm", ks=1, exclude_history=True).recall
        {1: 1.0}
    """
    require_graph(data, "data")
    check_choice("targets", targets, get_args(Targets))
    check_choice("similarity", similarity, get_args(Similarity))
    check_choice("ties", ties, get_args(Ties))
    ks = check_cut_offs(ks)
    check_integer("block_size", block_size, 1)
    rows = FeatureRows(data, features, normalize_parts=normalize_parts)
    if targets == "time":
        queries = latest_links(data, ties=ties, seed=seed)
    else:
        queries = held_out_links(data)
    ranks = target_ranks(
        rows,
        queries,
        similarity=similarity,
        exclude_history=exclude_history,
        normalize_items=normalize_items,
        block_size=block_size,
    )
    return FeatureRecall(**recall_fields(queries, ranks, ks, exclude_history=exclude_history))


def item_cf(
    data: HeteroData,
    features: str | Sequence[str],
    *,
    ks: int | Sequence[int] = (10, 20, 50),
    score: Score = "cosine",
    min_common: int = 1,
    similarity: Similarity = "cosine",
    normalize_parts: bool = True,
    eval_items: int | None = None,
    seed: int = 0,
    block_size: int = 512,
) -> ItemCFRecall:
    r"""Item-CF: do items with common users have similar features?

    This is the second training-free evaluation of `AlignRec <https://arxiv.org/abs/2403.12384>`_
    (Section 4.4.2). The target of each item :math:`j` is the item
    :math:`i^*(j) = \arg\max_{i \ne j} w_{ij}`, and all other items are ranked by
    :math:`s(h_j, h_i)`. The recall is the mean over the items with at least one score. With the
    numbers of links :math:`n_u, n_i` of a user and an item, the set :math:`U_{ij}` of common users
    and their number :math:`n_{ij}`, the score (`Sarwar et al. 2001
    <https://doi.org/10.1145/371920.372071>`_; the paper does not specify it) is

    - ``"cosine"`` of the binary matrix: :math:`w_{ij} = n_{ij} / \sqrt{n_i n_j}`;
    - ``"iuf"``: :math:`\sum_{u \in U_{ij}} \frac1{\log(1 + n_u)} / \sqrt{n_i n_j}`;
    - ``"pearson"``: the correlation of the ratings of :math:`U_{ij}`, at least two users;
    - ``"adjusted_cosine"``: :math:`\sum_{U_{ij}} (r_{ui} - \bar r_u)(r_{uj} - \bar r_u) /
      \sqrt{\sum_{U_{ij}} (r_{ui} - \bar r_u)^2 \sum_{U_{ij}} (r_{uj} - \bar r_u)^2}`.

    The last two need ``.rating``. They are 1 or -1 for small :math:`U_{ij}`, which ``min_common``
    excludes. Pairs with constant ratings have no score.

    Many scores are tied. Ties are broken by the larger :math:`n_{ij}`, then by the larger
    :math:`n_i`, then by the smaller item index; ``any_tied`` of the result treats all tied items as
    targets. All links of the data are used: to exclude test links, pass a training graph.

    Args:
        data: Graph with the links, and ``.rating`` for scores of ratings.
        features: Name of a feature table ``data["item"].x_<name>``, or of several tables, which are
            concatenated.
        ks: Cut-off or cut-offs :math:`k`.
        score: Item-CF score :math:`w_{ij}`.
        min_common: Minimum number of common users of a pair with a score.
        similarity: Similarity of features, ``"cosine"`` or ``"dot"`` (inner product).
        normalize_parts: Whether to scale the rows of each table to length 1, as in
            :func:`zero_shot`.
        eval_items: Number of items :math:`j`, drawn by ``seed``, that are evaluated; all items are
            ranked for each. By default all, whose time grows with the square of their number.
        seed: Seed of ``eval_items``.
        block_size: Number of items per block, as in :func:`zero_shot`.

    Raises:
        ValueError: If an argument is out of range, a table is missing or not finite, ratings are
            needed but missing, or no pair of items has a score.
    """
    require_graph(data, "data")
    check_choice("score", score, get_args(Score))
    check_choice("similarity", similarity, get_args(Similarity))
    ks = check_cut_offs(ks)
    check_integer("min_common", min_common, 1)
    if eval_items is not None:
        check_integer("eval_items", eval_items, 1)
    check_integer("block_size", block_size, 1)
    rows = FeatureRows(data, features, normalize_parts=normalize_parts)
    found = most_similar_items(
        data, score=score, min_common=min_common, eval_items=eval_items, seed=seed
    )
    item, row = found.pair[0].unique(return_inverse=True)
    queries = Queries(
        id=item,
        history=torch.stack([torch.arange(item.numel()), item]),
        target=torch.stack([row, found.pair[1]]),
        popularity=found.item_degree,
    )
    ranks = target_ranks(
        rows,
        queries,
        similarity=similarity,
        exclude_history=True,
        normalize_items=False,
        block_size=block_size,
    )
    tied = recall_fields(queries, ranks, ks, exclude_history=True)
    one = queries._replace(target=queries.target[:, found.chosen])
    ranks = TargetRanks(ranks.rank[found.chosen.to(ranks.rank.device)], ranks.unranked)
    return ItemCFRecall(
        **recall_fields(one, ranks, ks, exclude_history=True),
        any_tied=FeatureRecall(**tied, any_target=True),
        num_tied=int((torch.bincount(row) > 1).sum()),
    )
