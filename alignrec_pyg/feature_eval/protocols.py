"""Zero-shot and item-CF: can features alone find what users take next, and what goes together?"""

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
    """What item-CF finds, with ties of the item-CF score settled.

    Args:
        any_tied: The same if any item of the highest score is one to be found.
        num_tied: Items with several such.
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
    normalize_parts: bool = False,
    normalize_items: bool = False,
    seed: int = 0,
    block_size: int = 512,
) -> FeatureRecall:
    r"""Zero-shot recommendation: do a user's earlier items look like the next one?

    The first of the training-free evaluations of `AlignRec <https://arxiv.org/abs/2403.12384>`_
    (Section 4.4.2). Each user's latest item :math:`i^*` is to be found, the others are the history
    :math:`H_u`. With the features :math:`h_j` of item j,

    .. math:: h_u = \frac1{|H_u|} \sum_{j \in H_u} h_j, \qquad
        \text{recall@}k = \frac1{|U|} \sum_u [\, i^* \in \text{top-}k_i\; s(h_u, h_i) \,].

    The paper leaves much open; the defaults are the plainest reading. Its links are all there are,
    so on unsplit data the links of a later test take part: a training graph leaves them out.

    Ranks are exact: similarities that differ by less than about 1e-9 are equal, and equal ones
    stand in the order of item numbers. Items without features have similarity 0 to everything;
    users whose history has none find nothing. Users with a single link are left out.

    Args:
        data: Graph with the links (``edge_index``) and their ``.time``.
        features: Name of a feature table ``data["item"].x_<name>``, or of several to be
            concatenated.
        ks: Cut-off or cut-offs :math:`k`.
        targets: ``"time"``, or ``"labels"`` where times are not known: the links to predict of a
            split's validation or test graph are to be found, its known links are the history. A
            user with several counts with the share that is found.
        similarity: ``"cosine"`` or ``"dot"``, the inner product.
        exclude_history: Whether items of the history are no candidates.
        ties: Which of several latest items of equal time (stamps are often whole days) is to be
            found: the last in the order of the links, a random one, or that of the smallest or
            largest item number.
        normalize_parts: Whether each table's rows have length 1 before they are concatenated, so
            that none outweighs the others by its scale.
        normalize_items: Whether rows have length 1 before their mean is taken.
        seed: Seed of ``ties="random"``.
        block_size: Users per block; memory is ``block_size * num_items * 12`` bytes and some
            100 MiB. It changes no rank.

    Raises:
        ValueError: If an argument is out of range, a table is missing or not finite, times are
            asked for and not known, or there is nothing to find.

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
    for name, value, choices in (
        ("targets", targets, get_args(Targets)),
        ("similarity", similarity, get_args(Similarity)),
        ("ties", ties, get_args(Ties)),
    ):
        check_choice(name, value, choices)
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
    normalize_parts: bool = False,
    block_size: int = 512,
) -> ItemCFRecall:
    r"""Item-CF: do items that users take together look alike?

    The second of the training-free evaluations of `AlignRec <https://arxiv.org/abs/2403.12384>`_
    (Section 4.4.2). For each item :math:`j` the item :math:`i^*(j) = \arg\max_{i \ne j} w_{ij}` is
    to be found among all others by :math:`s(h_j, h_i)`; the mean is over the items with at least
    one such score. With :math:`n_u, n_i` the links of a user and of an item, :math:`n_{ij}` the
    users of both and :math:`U_{ij}` their set, the score (`Sarwar et al. 2001
    <https://doi.org/10.1145/371920.372071>`_; the paper does not say which) is

    - ``"cosine"`` of the binary matrix: :math:`w_{ij} = n_{ij} / \sqrt{n_i n_j}`;
    - ``"iuf"``: :math:`\sum_{u \in U_{ij}} \frac1{\log(1 + n_u)} / \sqrt{n_i n_j}`;
    - ``"pearson"``: the correlation of the ratings of :math:`U_{ij}`, at least two users;
    - ``"adjusted_cosine"``: :math:`\sum_{U_{ij}} (r_{ui} - \bar r_u)(r_{uj} - \bar r_u) /
      \sqrt{\sum_{U_{ij}} (r_{ui} - \bar r_u)^2 \sum_{U_{ij}} (r_{uj} - \bar r_u)^2}`.

    The last two need ``.rating`` and are 1 or -1 for small :math:`U_{ij}`, which ``min_common``
    leaves out. A pair without spread has no score.

    Many scores tie. The one target is then the item of larger :math:`n_{ij}`, then of larger
    :math:`n_i`, then of smaller number; ``any_tied`` of the result takes any of the tied ones. The
    links are all of ``edge_index``: of a split, the training graph leaves test links out.

    Args:
        data: Graph with the links, and ``.rating`` for scores of ratings.
        features: Name of a feature table ``data["item"].x_<name>``, or of several to be
            concatenated.
        ks: Cut-off or cut-offs :math:`k`.
        score: Item-CF score :math:`w_{ij}`.
        min_common: Common users that a pair needs to have a score.
        similarity: ``"cosine"`` or ``"dot"``, the inner product, of features.
        normalize_parts: Whether each table's rows have length 1 before they are concatenated.
        block_size: Items per block, as for :func:`zero_shot`.

    Raises:
        ValueError: If an argument is out of range, a table is missing or not finite, ratings are
            needed and not there, or no pair of items has a score.
    """
    require_graph(data, "data")
    check_choice("score", score, get_args(Score))
    check_choice("similarity", similarity, get_args(Similarity))
    ks = check_cut_offs(ks)
    check_integer("min_common", min_common, 1)
    check_integer("block_size", block_size, 1)
    rows = FeatureRows(data, features, normalize_parts=normalize_parts)
    found = most_similar_items(data, score=score, min_common=min_common)
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
