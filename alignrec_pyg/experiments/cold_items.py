"""Items held out of training entirely: how models add them, and rankings without training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.ranking import Ranking, rank, top_items
from alignrec_pyg.experiments.cells import RANKED, TEST, Cell, Parts, link_metrics
from alignrec_pyg.experiments.prepared_data import NUM_NEIGHBORS, PreparedData
from alignrec_pyg.experiments.provenance import origin
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.graph import (
    INTERACTS,
    ITEM,
    USER,
    content_hash,
    feature_table,
    known_pairs,
    links_to_predict,
    with_links_to_predict,
)
from alignrec_pyg.models import Recommender
from alignrec_pyg.models.base import inner_products
from alignrec_pyg.serving import add_items
from alignrec_pyg.serving.new_items import IdVectors
from alignrec_pyg.transforms import KNNItemGraph

COLD = "held-out items only"
NEIGHBORS = "IDs of neighbours"
DEGREES = ((0, 0), (1, 4), (5, 9), (10, 19), (20, None))
"""Groups of test links by the train links of their item, fewest and most."""

_RANKED_BY = "cold items 1"  # raise it with each change of what _rank gives


@dataclass(frozen=True, kw_only=True, eq=False)
class ColdItems:
    """Items without any training link, numbered after the others, and the test links of all items.

    ``num_dropped`` links of held-out items are left out, as their user has no train link.
    """

    data: PreparedData
    items: HeteroData
    test: HeteroData
    num_dropped: int

    @classmethod
    def of(cls, data: PreparedData) -> ColdItems:
        """The items that were held out of ``data``, after its cells were made.

        Cells request the tables that their models read, and ``data`` computes these on request.

        Raises:
            SettingsError: If none was, or none has a user with train links.
        """
        if data.cold is None:
            raise SettingsError(["--held-out: no item is held out"])
        user, item = data.cold[INTERACTS].edge_index
        trained = torch.isin(user, data.train[INTERACTS].edge_index[0])
        cold = torch.stack([user, item + int(data.train[ITEM].num_nodes)])[:, trained]
        if cold.size(1) == 0:
            raise SettingsError(["--held-out: no held-out item has a user with train links"])
        test = with_links_to_predict(
            data.test, torch.cat([links_to_predict(data.test), cold], dim=1)
        )
        return cls(data=data, items=data.cold, test=test, num_dropped=int((~trained).sum()))

    @property
    def numbers(self) -> Tensor:
        """Numbers of the held-out items among all items."""
        first = int(self.data.train[ITEM].num_nodes)
        return torch.arange(first, first + int(self.items[ITEM].num_nodes))

    @property
    def links(self) -> Tensor:
        """Links to predict that lead to held-out items."""
        links = links_to_predict(self.test)
        return links[:, links[1] >= int(self.data.train[ITEM].num_nodes)]

    def links_by_degree(self) -> dict[str, Tensor]:
        """The links to predict by the number of train links of their item."""
        links = links_to_predict(self.test)
        size = int(links[1].max()) + 1
        degree = torch.bincount(self.data.train[INTERACTS].edge_index[1], minlength=size)[links[1]]
        # an item that is not held out may have no train link either: its own split took them
        cold = links[1] >= int(self.data.train[ITEM].num_nodes)
        groups = {}
        for fewest, most in DEGREES:
            inside = (degree >= fewest) & (cold if fewest == 0 else ~cold)
            if most is not None:
                inside &= degree <= most
            name = f"{fewest}+" if most is None else f"{fewest}-{most}" if most else f"{fewest}"
            groups[name] = links[:, inside]
        return groups

    def parts(self) -> Parts:
        """Graphs of cells that add the held-out items before they rank, in both ways."""
        tables = [feature_table(self.items, name) for name in self.data.features]
        names = [TEST, COLD, *(f"{name}, {NEIGHBORS}" for name in (TEST, COLD))]
        return Parts(
            self.data.train,
            self.data.val,
            dict.fromkeys(names, self.test),
            partial(_rank, self),
            content_hash(_RANKED_BY, str(self.data.exclude_known_pairs), *tables),
        )

    def baselines(self, seeds: Iterable[int]) -> list[CellResult]:
        """Rankings that need no training: by popularity, and by similarity to the user's items."""
        train, candidates = self.data.train, {TEST: None, COLD: self.numbers}
        alike = content_vectors(train, self.items, self.data.features)
        results = []
        for seed in seeds:
            popular = popularity_vectors(train, int(self.items[ITEM].num_nodes), seed)
            for row, vectors in (("popularity", popular), ("content", alike)):
                given = (row, seed, vectors, self.test, candidates)
                results.append(untrained_result(*given, self.data.exclude_known_pairs))
        return results


def by_id_vectors(result: CellResult) -> list[CellResult]:
    """A cell's rankings as two rows: new items without ID vectors, and with their neighbours'."""
    alone = {name: result.rankings[name] for name in (TEST, COLD)}
    others = {name: result.rankings[f"{name}, {NEIGHBORS}"] for name in (TEST, COLD)}
    return [
        replace(result, rankings=alone),
        replace(result, row=f"{result.row}, {NEIGHBORS}", rankings=others),
    ]


def popularity_vectors(train: HeteroData, num_cold: int, seed: int) -> tuple[Tensor, Tensor]:
    """An item's number of train links, for everybody; equal numbers in random order.

    Returns:
        Vectors of users ``[num_users, 1]`` and of all items, the cold ones last.
    """
    num_items = int(train[ITEM].num_nodes)
    count = torch.bincount(train[INTERACTS].edge_index[1], minlength=num_items + num_cold)
    order = torch.rand(count.numel(), generator=torch.Generator().manual_seed(seed))
    return torch.ones(int(train[USER].num_nodes), 1), (count + 0.5 * order).unsqueeze(1)


def content_vectors(
    train: HeteroData, cold: HeteroData, features: Iterable[str]
) -> tuple[Tensor, Tensor]:
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


def untrained_result(
    row: str,
    seed: int,
    vectors: tuple[Tensor, Tensor],
    test: HeteroData,
    candidates: Mapping[str, Tensor | None],
    exclude_known_pairs: bool = False,
) -> CellResult:
    """Rankings by inner products of vectors of users and items, as a cell that trained for no time.

    ``candidates`` holds the items that may be ranked (``None``: all) by the name of the test.
    """
    label, known = links_to_predict(test), test[INTERACTS].edge_index
    if exclude_known_pairs:
        known = torch.cat([known, known_pairs(test)], dim=1)
    users = label[0].unique()
    rankings = {}
    for name, items in candidates.items():
        scores = inner_products(*vectors, items)
        blocks = top_items(
            scores, users, known, RANKED, num_items=vectors[1].size(0), items=items, of=row
        )
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
        still_rising=False,
        seconds=0.0,
        cpu_seconds=0.0,
        peak_bytes=None,
        content_bytes=0,
        num_parameters=0,
        rankings=rankings,
        history=[],
        origin=origin(torch.device("cpu")),
    )


def _rank(cold: ColdItems, cell: Cell, model: Recommender, name: str, test: HeteroData) -> Ranking:
    """Adds the held-out items, and ranks for one of the tests."""
    data = cold.data
    named = [cell.hparams["item_graph"]] if "item_graph" in cell.hparams else []
    transforms = [
        data.graph_transforms[graph] for graph in named + cell.hparams.get("item_graphs", [])
    ]
    graphs = [transform for transform in transforms if isinstance(transform, KNNItemGraph)]
    id_vectors: IdVectors = "neighbors" if name.endswith(NEIGHBORS) else "none"
    if id_vectors == "neighbors" and not graphs:
        graphs = [KNNItemGraph(data.features, NUM_NEIGHBORS, name="id_vectors")]
    served, graph = add_items(model, test, cold.items, item_graphs=graphs, id_vectors=id_vectors)
    items = cold.numbers.to(test[INTERACTS].edge_index.device)
    return rank(
        served,
        graph,
        RANKED,
        items=items if name.startswith(COLD) else None,
        exclude_known_pairs=data.exclude_known_pairs,
    )
