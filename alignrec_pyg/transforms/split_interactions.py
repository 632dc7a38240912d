"""Splits of the interactions into training, validation and test sets."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform

from alignrec_pyg.checks import check_choice, check_integer, check_number
from alignrec_pyg.graph import INTERACTS, ITEM, USER, add_known_pairs, link_values
from alignrec_pyg.transforms.subset import check_unsplit, select_rows

SplitRule = Literal["random", "leave_last_out", "global_time", "labels"]

_TRAIN, _VAL, _TEST = 0, 1, 2
_MIN_LINKS = 3  # users with fewer links cannot have one in each of the three parts
_WAY_OUT = "; by='random' and by='labels' need no times"


class SplitInteractions(BaseTransform):
    r"""Splits the interactions into a training, a validation and a test graph.

    The three graphs share all tensors except for these of ``data["user", "interacts", "item"]``:

    - ``edge_index``: the known links, which models use and rankings exclude. These are the training
      links (the same tensor in all three graphs) and, in the test graph with
      ``val_known_at_test=True``, also the validation links; ``time`` and ``rating``, if present,
      belong to them;
    - ``edge_label_index``: the links to predict (in the training graph, the training links);
    - ``num_dropped_cold``: number of links removed from ``edge_label_index`` because their user has
      no training link; ``num_known_labels``: number of links to predict that are also known (pairs
      that occur twice), which no ranking can find. Both are in the validation and test graph only.

    The test graph also has the validation links among its known pairs, unless it has them as links:
    the evaluation ranks them, and they are not recommended. All three graphs have the known pairs
    of ``data``.

    Links keep their order; ``split`` labels and PyG's ``edge_label`` are removed.

    The rules are:

    - ``"random"``: per user, in random order, as in MMRec: of :math:`n < 10` links the last is a
      test link, the one before a validation link; of :math:`n \geq 10`,
      :math:`h = \lfloor 0.2 n \rfloor` are held out, :math:`\lfloor h / 2 \rfloor` for validation
      and the others for test;
    - ``"leave_last_out"``: per user, the latest link is a test link, the one before a validation
      link; among equal times the later row is the later link;
    - ``"global_time"``: two points in time separate the parts such that their sizes are about
      ``ratios``; links of equal time are in the same part, the later one;
    - ``"labels"``: the ``split`` of the data (0 train, 1 validation, 2 test).

    With the two per-user rules, all links of users with fewer than 3 links are training links.

    Args:
        by: The rule.
        seed: Seed of the random order of ``"random"``, and of ``val_from_train``.
        val_known_at_test: Whether validation links are known at test time. In the evaluation
            protocol of MMRec and papers based on it, they are not: validation links are then
            candidates that compete with the test links.
        keep_cold_users: Whether to predict links of users without training links.
        ratios: Shares of training, validation and test links for ``"global_time"``.
        val_from_train: For labels without a validation part, as several published splits have them:
            the share of the training links that becomes it, in (0, 1), drawn by ``seed``. Every
            user keeps a training link.

    Raises:
        ValueError: If an argument is out of range; when applied, if the data is split already,
            lacks the times or labels of the rule, a part would be empty, or ``val_from_train`` is
            given where the labels have a validation part.

    Example:
        >>> import torch
        >>> from torch_geometric.data import HeteroData
        >>> from alignrec_pyg.transforms import SplitInteractions
        >>> data = HeteroData()
        >>> data["user"].num_nodes, data["item"].num_nodes = 1, 4
        >>> links = data["user", "interacts", "item"]
        >>> links.edge_index = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]])
        >>> links.time = torch.tensor([4, 1, 3, 2])
        >>> train, val, test = SplitInteractions("leave_last_out")(data)
        >>> test["user", "interacts", "item"].edge_index  # what is known
        tensor([[0, 0],
                [1, 3]])
        >>> test["user", "interacts", "item"].edge_label_index  # what is to be predicted
        tensor([[0],
                [0]])
    """

    def __init__(
        self,
        by: SplitRule = "random",
        *,
        seed: int = 0,
        val_known_at_test: bool = False,
        keep_cold_users: bool = False,
        ratios: Sequence[float] = (0.8, 0.1, 0.1),
        val_from_train: float | None = None,
    ) -> None:
        check_choice("by", by, get_args(SplitRule))
        if len(ratios) != 3 or not all(r > 0 for r in ratios) or not math.isclose(sum(ratios), 1):
            raise ValueError(f"'ratios' needs three positive shares that sum to 1 (got {ratios!r})")
        if val_from_train is not None:
            check_number("val_from_train", val_from_train, above=0, below=1)
            if by != "labels":
                raise ValueError(
                    f"'val_from_train' needs by='labels' (got by='{by}'): the other rules make a "
                    "validation part themselves"
                )
        self.by = by
        self.val_from_train = val_from_train
        self.seed = check_integer("seed", seed, 0)
        self.val_known_at_test = val_known_at_test
        self.keep_cold_users = keep_cold_users
        self.ratios = tuple(ratios)

    def forward(self, data: HeteroData) -> tuple[HeteroData, HeteroData, HeteroData]:
        """Returns the training, validation and test graph."""
        links = data[INTERACTS]
        check_unsplit(data, "SplitInteractions")
        num_users, num_items = data[USER].num_nodes, data[ITEM].num_nodes
        edge_index: Tensor = links.edge_index
        part = self._parts(data, num_users)
        for index, name in ((_TRAIN, "training"), (_VAL, "validation"), (_TEST, "test")):
            if not bool((part == index).any()):
                raise ValueError(
                    f"by='{self.by}' leaves no {name} links of {part.numel()}: "
                    f"{self._way_out(index)}"
                )

        values = {
            name: value
            for name, value in links.items()
            if name not in ("edge_index", "edge_label", "split")
        }
        trained = torch.zeros(num_users, dtype=torch.bool, device=edge_index.device)
        trained[edge_index[0, part == _TRAIN]] = True

        def known_links(rows: Tensor) -> dict[str, Any]:
            known = select_rows(values, rows, part.numel(), "interactions")
            return {"edge_index": edge_index[:, rows]} | known

        known = known_links((part == _TRAIN).nonzero()[:, 0])
        test_known = known
        if self.val_known_at_test:
            test_known = known_links((part != _TEST).nonzero()[:, 0])

        train = _with_links(data, known | {"edge_label_index": known["edge_index"]})
        held_out = []
        for index, visible in ((_VAL, known), (_TEST, test_known)):
            label_index = edge_index[:, part == index]
            cold = ~trained[label_index[0]]
            if self.keep_cold_users:
                cold = torch.zeros_like(cold)
            label_index = label_index[:, ~cold]
            if label_index.size(1) == 0:
                raise ValueError(
                    f"by='{self.by}' leaves links to predict only of users without training "
                    f"links: choose another rule, or keep_cold_users=True"
                )
            keys = label_index[0] * num_items + label_index[1]
            visible_index = visible["edge_index"]
            repeated = torch.isin(keys, visible_index[0] * num_items + visible_index[1])
            held_out.append(
                _with_links(
                    data,
                    visible
                    | {
                        "edge_label_index": label_index,
                        "num_dropped_cold": int(cold.sum()),
                        "num_known_labels": int(repeated.sum()),
                    },
                )
            )
        val, test = held_out
        if not self.val_known_at_test:
            rows = (part == _VAL).nonzero()[:, 0]
            validation = known_links(rows)
            add_known_pairs(test, validation.pop("edge_index"), validation)
        return train, val, test

    def _parts(self, data: HeteroData, num_users: int) -> Tensor:
        """The part of each link (0 train, 1 validation, 2 test), int64 ``[E]``."""
        user = data[INTERACTS].edge_index[0]
        if self.by == "labels":
            return self._with_validation(_checked_labels(data), user)
        if self.by == "global_time":
            return self._global_time_parts(_checked_times(data))
        if self.by == "random":
            generator = torch.Generator().manual_seed(self.seed)
            order = torch.randperm(user.numel(), generator=generator).to(user.device)
        else:
            order = _checked_times(data).argsort(stable=True)
        rank, size = rank_within_groups(user[order], num_users)

        held_out = torch.full_like(size, 2)
        num_test = torch.ones_like(size)
        if self.by == "random":
            held_out = torch.where(size < 10, held_out, size // 5)
            num_test = held_out - held_out // 2
        few = size < _MIN_LINKS
        held_out, num_test = held_out.masked_fill(few, 0), num_test.masked_fill(few, 0)

        from_end = size - 1 - rank
        ordered = torch.full_like(rank, _TRAIN)
        ordered[from_end < held_out] = _VAL
        ordered[from_end < num_test] = _TEST
        part = torch.empty_like(ordered)
        part[order] = ordered
        return part

    def _with_validation(self, part: Tensor, user: Tensor) -> Tensor:
        """The labels, with some training links for validation if ``val_from_train`` is given."""
        if self.val_from_train is None:
            return part
        there = int((part == _VAL).sum())
        if there:
            raise ValueError(
                f"'val_from_train' needs labels without a validation part (there are {there} "
                "validation links): leave it out"
            )
        train = (part == _TRAIN).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(self.seed)
        train = train[torch.randperm(train.numel(), generator=generator).to(part.device)]
        count = max(1, round(self.val_from_train * train.numel()))
        rank, _ = rank_within_groups(user[train], int(user.max()) + 1)
        part = part.clone()
        part[train[rank > 0][:count]] = _VAL
        return part

    def _way_out(self, empty: int) -> str:
        if self.by == "labels" and empty == _VAL:
            return "val_from_train=0.1 draws a tenth of the training links for validation"
        return "give more interactions, or choose another rule"

    def _global_time_parts(self, time: Tensor) -> Tensor:
        ordered = time.sort().values
        part = torch.full(time.shape, _TRAIN, device=time.device)
        for index, share in ((_VAL, self.ratios[0]), (_TEST, self.ratios[0] + self.ratios[1])):
            boundary = ordered[min(round(share * time.numel()), time.numel() - 1)]
            part[time >= boundary] = index
        return part

    def __repr__(self) -> str:
        drawn = self.by == "random" or self.val_from_train is not None
        detail = f", seed={self.seed}" if drawn else ""
        if self.val_from_train is not None:
            detail += f", val_from_train={self.val_from_train}"
        return f"{self.__class__.__name__}(by='{self.by}'{detail})"


def rank_within_groups(group: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Position of each entry within its group, in the given order, and the size of the group.

    Shapes:
        - **input:** group int64 :math:`(E)`, values below ``num_groups``
        - **output:** rank int64 :math:`(E)`, size int64 :math:`(E)`
    """
    size = torch.bincount(group, minlength=num_groups)
    start = size.cumsum(0) - size
    order = group.argsort(stable=True)
    rank = torch.empty_like(group)
    rank[order] = torch.arange(group.numel(), device=group.device) - start[group[order]]
    return rank, size[group]


def _with_links(data: HeteroData, values: dict[str, Any]) -> HeteroData:
    """A shallow copy of ``data`` with ``values`` as the only attributes of the interactions."""
    result = copy.copy(data)
    store = result[INTERACTS]
    for name in list(store.keys()):
        del store[name]
    store.update(values)
    return result


def _checked_times(data: HeteroData) -> Tensor:
    time = link_values(data, "time", _WAY_OUT)
    missing = int(time.isnan().sum())
    if missing:
        raise ValueError(
            f"'time' needs to be known for each interaction (got {missing} NaN): drop these "
            f"interactions{_WAY_OUT}"
        )
    return time


def _checked_labels(data: HeteroData) -> Tensor:
    labels = link_values(data, "split", "; by='random' needs no labels").long()
    unknown = labels[(labels < _TRAIN) | (labels > _TEST)].unique().tolist()
    if unknown:
        raise ValueError(
            f"'split' needs to be 0 (train), 1 (validation) or 2 (test) (got {unknown[:5]}): "
            f"relabel or drop these interactions"
        )
    return labels
