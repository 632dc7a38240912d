"""The vocabulary of the data: node and edge types, batches, normalisation, content hashes.

One :class:`~torch_geometric.data.HeteroData` describes everything a model may see:

- ``data["user"].num_nodes``, ``data["item"].num_nodes`` and, beside them, the ids of the outside
  world: ``data["user"].id``, ``data["item"].id`` (1-D NumPy arrays);
- ``data["item"].x_<name>``: one float32 feature table ``[num_items, dim]`` per feature set, and
  ``data["item"].mask_<name>`` (bool ``[num_items]``), true where an item lacks it (zero row);
- ``data["item"].added`` (bool ``[num_items]``, where it is there), true for items that came after
  training: they are nobody's neighbour;
- ``data["user", "interacts", "item"].edge_index`` (int64 ``[2, E]``): the links the model may see,
  ``.edge_label_index``: the links to predict, ``.time`` ``[E]`` where known;
- ``data["item", "knn_<name>", "item"].edge_index / .edge_weight``: a kNN item graph, messages flow
  from row 0 (the neighbour) to row 1 (the item).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

USER = "user"
ITEM = "item"
INTERACTS = (USER, "interacts", ITEM)

ADDED = "added"

_FEATURE = "x_"
_MASK = "mask_"
_KNN = "knn_"


class _Triples(NamedTuple):
    user: Tensor
    pos_item: Tensor
    neg_item: Tensor


class InteractionBatch(_Triples):
    """Training triples: ``user[b]`` interacted with ``pos_item[b]`` and not with ``neg_item[b]``.

    A whole batch, or the :class:`BatchShare` of one of several workers.

    Args:
        user: Users.
        pos_item: Items that they interacted with.
        neg_item: Items that they did not interact with.
        full_size: Triples of a full batch, as configured (default: those of this one).

    Shapes:
        - **user, pos_item, neg_item:** int64 :math:`(B)`
    """

    def __new__(
        cls, user: Tensor, pos_item: Tensor, neg_item: Tensor, full_size: int | None = None
    ) -> InteractionBatch:
        """Puts the triples together."""
        batch = super().__new__(cls, user, pos_item, neg_item)
        batch._full_size = full_size
        return batch

    _full_size: int | None = None

    @property
    def whole(self) -> InteractionBatch:
        """The batch that this is a share of (here, itself)."""
        return self

    @property
    def num_shares(self) -> int:
        """How many shares the whole batch has (here, one)."""
        return 1

    @property
    def size(self) -> int:
        """Number of triples of the whole batch."""
        return self.whole.user.numel()

    @property
    def full_size(self) -> int:
        """Number of triples of a full batch, as configured, also where this one is shorter."""
        return self.size if self._full_size is None else self._full_size

    @property
    def rows(self) -> slice:
        """Where these triples stand in the whole batch."""
        return self.rows_of(self.size)

    def rows_of(self, number: int) -> slice:
        """This share of any ``number`` rows, which all shares together divide in their order."""
        return slice(0, number)

    def share(self, index: int, num_shares: int) -> InteractionBatch:
        """Share ``index`` of ``num_shares``, whose sizes differ by one at most; may be empty."""
        return self if num_shares == 1 else BatchShare(self, index, num_shares)


class BatchShare(InteractionBatch):
    r"""The triples of a batch that one of several workers answers for.

    Shares add up: on share :math:`s` of a batch, every loss term of a model is :math:`L_s` with
    :math:`\sum_s L_s` the term on the whole batch. Of a mean over triples, a share gives its own
    triples over the ``size`` of the whole; of an in-batch contrast, its own anchors against all
    candidates of :attr:`whole`; of what cannot be divided (norms, roots, whole tables), the value
    of the whole over :attr:`num_shares`.

    Args:
        whole: The batch.
        index: Which share, from 0.
        num_shares: How many there are.
    """

    def __new__(cls, whole: InteractionBatch, index: int, num_shares: int) -> BatchShare:
        """Cuts the share out of the batch."""
        rows = _share_of(whole.user.numel(), index, num_shares)
        share = _Triples.__new__(cls, *(column[rows] for column in whole))
        share._whole, share._index, share._num_shares = whole, index, num_shares
        share._full_size = whole._full_size
        return share

    _whole: InteractionBatch
    _index: int
    _num_shares: int

    @property
    def whole(self) -> InteractionBatch:
        """The batch that this is a share of."""
        return self._whole

    @property
    def num_shares(self) -> int:
        """How many shares the whole batch has."""
        return self._num_shares

    def rows_of(self, number: int) -> slice:
        """This share of any ``number`` rows, which all shares together divide in their order."""
        return _share_of(number, self._index, self._num_shares)


def _share_of(number: int, index: int, num_shares: int) -> slice:
    return slice(number * index // num_shares, number * (index + 1) // num_shares)


def feature_key(name: str) -> str:
    """Attribute of ``data["item"]`` that holds the feature table ``name``."""
    return _FEATURE + name


def mask_key(name: str) -> str:
    """Attribute of ``data["item"]`` that marks the items lacking feature ``name``."""
    return _MASK + name


def knn_edge_type(name: str) -> tuple[str, str, str]:
    """Edge type of the kNN item graph ``name``."""
    return (ITEM, _KNN + name, ITEM)


def feature_names(data: HeteroData) -> list[str]:
    """Names of the item feature tables in ``data``, sorted."""
    stored = data[ITEM].to_dict()
    return sorted(key.removeprefix(_FEATURE) for key in stored if key.startswith(_FEATURE))


def item_graph_names(data: HeteroData) -> list[str]:
    """Names of the kNN item graphs in ``data``, sorted."""
    return sorted(
        relation.removeprefix(_KNN)
        for source, relation, target in data.edge_types
        if source == target == ITEM and relation.startswith(_KNN)
    )


def feature_table(data: HeteroData, name: str) -> Tensor:
    """The feature table ``name``, float32 ``[num_items, dim]``.

    Raises:
        ValueError: If ``data`` has no such table.
    """
    if feature_key(name) not in data[ITEM]:
        raise ValueError(
            f"'{name}' needs to be one of the feature tables {feature_names(data)} "
            f'(data["item"].{feature_key(name)} is missing)'
        )
    return data[ITEM][feature_key(name)]


def feature_mask(data: HeteroData, name: str) -> Tensor:
    """Bool ``[num_items]``, true where an item lacks feature ``name``."""
    table = feature_table(data, name)
    if mask_key(name) not in data[ITEM]:
        return torch.zeros(table.size(0), dtype=torch.bool, device=table.device)
    return data[ITEM][mask_key(name)]


def added_items(data: HeteroData) -> Tensor:
    """Bool ``[num_items]``, true for items that came after training."""
    added: Tensor | None = data[ITEM].get(ADDED)
    if added is None:
        device = data[INTERACTS].edge_index.device
        return torch.zeros(int(data[ITEM].num_nodes), dtype=torch.bool, device=device)
    return added


def require_graph(data: object, argument: str) -> HeteroData:
    """``data``, if it is a graph with users, items and interactions.

    Raises:
        ValueError: If it is not; ``argument`` names it in the message.
    """
    if not isinstance(data, HeteroData):
        raise ValueError(
            f"'{argument}' needs to be a HeteroData (got {type(data).__name__}): of a data set, "
            "pass its .data, split with SplitInteractions"
        )
    if INTERACTS not in data.edge_types or "edge_index" not in data[INTERACTS]:
        raise ValueError(f"'{argument}' needs links in data[{INTERACTS}].edge_index (it has none)")
    return data


def on_device(data: HeteroData, device: torch.device | str) -> HeteroData:
    """The graph with its tensors on a device; the one given stays as and where it is.

    PyG's ``data.to(device)`` moves the graph itself, and takes raw images held as bytes apart, byte
    by byte, into lists of numbers.
    """
    moved = copy.copy(data)
    for store in moved.stores:
        for name, value in list(store.items()):
            if isinstance(value, Tensor):
                store[name] = value.to(device)
    return moved


def links_to_predict(data: HeteroData, argument: str = "data") -> Tensor:
    """``edge_label_index``, int64 ``[2, L]``.

    Raises:
        ValueError: If there are none; ``argument`` names the graph in the message.
    """
    label: Tensor | None = data[INTERACTS].get("edge_label_index")
    if label is None or label.size(1) == 0:
        raise ValueError(
            f"'{argument}' needs links to predict in data[{INTERACTS}].edge_label_index (it has "
            "none): split the data, e.g. with SplitInteractions"
        )
    return label


def core_links(user: Tensor, item: Tensor, k: int) -> Tensor:
    """Links of the k-core: the largest part whose users and items all have ``k`` links or more.

    A pair that occurs twice counts twice.

    Shapes:
        - **input:** user and item, int64 :math:`(E)`
        - **output:** row numbers, ascending, int64, empty if nothing is left
    """
    links = torch.arange(user.numel(), device=user.device)
    while True:
        kept_user, kept_item = user[links], item[links]
        enough = (torch.bincount(kept_user) >= k)[kept_user]
        enough &= (torch.bincount(kept_item) >= k)[kept_item]
        if bool(enough.all()):
            return links
        links = links[enough]


def symmetric_norm(edge_index: Tensor, num_users: int, num_items: int) -> Tensor:
    r"""Weight :math:`1/\sqrt{d_u d_i}` of every user-item link.

    It serves both directions and equals
    :func:`~torch_geometric.nn.conv.gcn_conv.gcn_norm` without self-loops on the bipartite graph.

    Shapes:
        - **input:** edge_index int64 :math:`(2, E)`, users in row 0
        - **output:** float32 :math:`(E)`
    """
    user, item = edge_index
    user_degree = torch.bincount(user, minlength=num_users).float()
    item_degree = torch.bincount(item, minlength=num_items).float()
    return (user_degree[user] * item_degree[item]).rsqrt()


def content_hash(*parts: Tensor | np.ndarray | str | float | None | Iterable[str]) -> str:
    """A short hexadecimal hash of tensors, arrays, strings and numbers, order included.

    Two inputs share a hash only if their dtypes, shapes and bytes agree, so caches keyed by it are
    never reused for other content.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous().numpy()
        if isinstance(part, np.ndarray) and part.dtype != object:
            digest.update(f"array {part.dtype} {part.shape} ".encode())
            flat = np.ascontiguousarray(part).reshape(-1)
            for start in range(0, flat.size, 1 << 24):  # blocks: the table may be memory-mapped
                digest.update(flat[start : start + (1 << 24)].tobytes())
        elif isinstance(part, str | int | float | bool) or part is None:
            digest.update(f"{type(part).__name__} {part!r} ".encode())
        else:
            digest.update(b"sequence ")
            for element in part:
                digest.update(f"{element!r} ".encode())
            digest.update(b"end ")
    return digest.hexdigest()
