"""Rankings that need no training: what is popular, and what is like the user's items."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.ranking import Ranking, top_items
from alignrec_pyg.experiments.cells import RANKED, TEST, link_metrics
from alignrec_pyg.experiments.provenance import origin
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.graph import INTERACTS, ITEM, USER, feature_table


def popularity(train: HeteroData, num_cold: int, seed: int) -> tuple[Tensor, Tensor]:
    """An item's number of train links, for everybody; equal numbers in random order.

    Returns:
        Vectors of users ``[num_users, 1]`` and of all items, the cold ones last.
    """
    num_items = int(train[ITEM].num_nodes)
    count = torch.bincount(train[INTERACTS].edge_index[1], minlength=num_items + num_cold)
    order = torch.rand(count.numel(), generator=torch.Generator().manual_seed(seed))
    return torch.ones(int(train[USER].num_nodes), 1), (count + 0.5 * order).unsqueeze(1)


def content(train: HeteroData, cold: HeteroData, features: list[str]) -> tuple[Tensor, Tensor]:
    """The mean cosine of an item's features with those of the user's train items.

    Feature sets count equally: each is scaled to length 1 before they are put side by side.

    Returns:
        Vectors of users and of all items, the cold ones last.
    """
    tables = [
        torch.cat([normalize(feature_table(part, name)) for name in features], dim=1)
        for part in (train, cold)
    ]
    item_x = normalize(torch.cat(tables))
    user, item = train[INTERACTS].edge_index
    user_x = item_x.new_zeros(int(train[USER].num_nodes), item_x.size(1))
    user_x.index_add_(0, user, item_x[item])
    return user_x, item_x


def as_result(
    row: str,
    seed: int,
    vectors: tuple[Tensor, Tensor],
    test: HeteroData,
    candidates: dict[str, Tensor | None],
) -> CellResult:
    """The rankings of a baseline, in the form of a cell that trained for no time.

    Args:
        row: Name of the row.
        seed: Seed of the row.
        vectors: Of users and all items.
        test: Known links, and links to predict.
        candidates: Items that may be ranked, by the name of the test.
    """
    label, known = test[INTERACTS].edge_label_index, test[INTERACTS].edge_index
    users = label[0].unique()
    rankings = {}
    for name, items in candidates.items():
        blocks = top_items(*vectors, users, known, RANKED, items=items, of=row)
        rankings[name] = Ranking(users, torch.cat([block.item.int() for block in blocks]))
    return CellResult(
        row=row,
        model=row,
        seed=seed,
        key="",
        settings={"model": row},
        metrics=link_metrics(rankings[TEST], label),
        val_metrics={},
        best_epoch=0,
        num_epochs=0,
        stopped_early=True,
        seconds=0.0,
        peak_bytes=None,
        content_bytes=0,
        num_parameters=0,
        rankings=rankings,
        origin=origin(torch.device("cpu")),
    )
