"""Weights of feature tables by what they tell about the links, without training."""

from __future__ import annotations

from collections.abc import Sequence

from torch_geometric.data import HeteroData

from alignrec_pyg.feature_eval.protocols import item_cf
from alignrec_pyg.graph import INTERACTS


def table_weights(
    data: HeteroData,
    features: Sequence[str],
    *,
    k: int = 20,
    eval_items: int | None = 10_000,
    seed: int = 0,
) -> dict[str, float]:
    r"""Weights of feature tables from their recall in the item-CF protocol.

    With the recall :math:`r_m` of table :math:`m` alone (:func:`item_cf`) and that of a random
    ranking, :math:`r_0`,

    .. math:: w_m = \frac{\max(r_m - r_0, 0)}{\sum_{m'} \max(r_{m'} - r_0, 0)}.

    If no table is better than random, or no user has two items, so that there is nothing to
    measure, all weigh the same. A single table fused with equal weights gives a table that says
    little about the links the influence of one that says much;
    :class:`~alignrec_pyg.transforms.ConcatFeatures` and
    :class:`~alignrec_pyg.transforms.KNNItemGraph` take these weights.

    All links of ``data`` are used: pass a training graph, so that no test link decides.

    Args:
        data: Training graph with the feature tables.
        features: Names of the tables.
        k: Cut-off of the recall.
        eval_items: Number of items, drawn by ``seed``, whose recall is measured, as :func:`item_cf`
            takes it; ``None`` for all. Of 10,000 items, the standard error of a recall of 0.1 is
            0.003.
        seed: Seed of ``eval_items``.

    Returns:
        The weight of each table; they add up to 1.

    Raises:
        ValueError: If ``features`` is empty, or a table is missing or not finite.

    Example:
        >>> import torch
        >>> from torch_geometric.data import HeteroData
        >>> from alignrec_pyg import table_weights
        >>> data = HeteroData()
        >>> data["user"].num_nodes, data["item"].num_nodes = 2, 4
        >>> data["item"].x_text = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> data["item"].x_image = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
        >>> links = data["user", "interacts", "item"]
        >>> links.edge_index = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]])
        >>> table_weights(data, ["text", "image"], k=1)
        {'text': 1.0, 'image': 0.0}
    """
    if not features:
        raise ValueError("'features' needs the name of at least one feature table (got none)")
    users = data[INTERACTS].edge_index.unique(dim=1)[0]
    if users.unique().numel() == users.numel():
        return dict.fromkeys(features, 1 / len(features))
    gains = {}
    for name in features:
        result = item_cf(data, name, ks=k, eval_items=eval_items, seed=seed)
        gains[name] = max(result.recall[k] - result.random[k], 0.0)
    total = sum(gains.values())
    if total == 0:
        return dict.fromkeys(gains, 1 / len(gains))
    return {name: gain / total for name, gain in gains.items()}
