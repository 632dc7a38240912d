"""The data format of the models: node and edge types, batches, normalisation and content hashes.

A :class:`~torch_geometric.data.HeteroData` contains everything that a model reads:

- ``data["user"].num_nodes``, ``data["item"].num_nodes``, and optionally the original ids
  ``data["user"].id``, ``data["item"].id`` (1-D NumPy arrays);
- ``data["item"].x_<name>``: a float32 feature table ``[num_items, dim]`` for each feature, and
  ``data["item"].mask_<name>`` (bool ``[num_items]``), true for items without the feature, whose
  rows are zero;
- ``data["item"].added`` (bool ``[num_items]``, optional), true for items that were added after
  training, which are neighbours of no other item;
- ``data["user", "interacts", "item"].edge_index`` (int64 ``[2, E]``): the links that the model
  uses, with ``.time`` ``[E]`` if known; ``.edge_label_index`` ``[2, L]``: the links to predict or,
  in a training graph, to train on (without it, those of ``edge_index``). As in PyG, a link whose
  ``.edge_label`` ``[L]`` is 0 is a negative, and where there is no ``edge_label`` all are positive;
- ``data["user", "knows", "item"].edge_index`` (int64 ``[2, K]``, optional): the known pairs, which
  a user has had but which are no positives, such as ratings below a minimum, views, or the
  validation links at test time, with ``.time`` and ``.rating`` ``[K]`` if known. They are neither
  trained on nor drawn as negatives, and never recommended; evaluation ranks them, as published
  figures do, unless it is told to leave them out;
- ``data["item", "knn_<name>", "item"].edge_index / .edge_weight``: a kNN item graph, whose messages
  flow from row 0 (the neighbour) to row 1 (the item).

Everything that trains, evaluates, exports or reports takes its links from :func:`positive_links`
(or :func:`links_to_predict`), and what is left out from :func:`known_links`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

USER = "user"
ITEM = "item"
INTERACTS = (USER, "interacts", ITEM)
KNOWS = (USER, "knows", ITEM)

ADDED = "added"

_FEATURE = "x_"
_MASK = "mask_"
_KNN = "knn_"
_LABELS = ("edge_label", "pos_edge_label")


@dataclass(frozen=True, eq=False)
class NeighborSampling:
    """How many neighbours of each node a training step draws, instead of reading all.

    Args:
        num_neighbors: Neighbours drawn of each node in each hop, from the batch outwards; -1 takes
            all. A model with fewer layers ignores the rest.
        generator: Where the draws come from; an epoch's step has its own.
    """

    num_neighbors: Sequence[int]
    generator: torch.Generator

    def of_hop(self, hop: int) -> int:
        """Neighbours to draw in a hop, counted from 0.

        Raises:
            ValueError: If there is no entry for it.
        """
        if hop >= len(self.num_neighbors):
            raise ValueError(
                f"'fan_out' needs an entry for each of the model's layers (got "
                f"{len(self.num_neighbors)}, and a layer {hop + 1})"
            )
        return self.num_neighbors[hop]


@dataclass(frozen=True, eq=False)
class Nodes:
    """Users and items whose vectors are asked for, by number, ascending, each once.

    Args:
        user: Users.
        item: Items.
        sampling: Draws of their neighbourhoods (``None``: all of them are read).

    Shapes:
        - **user:** int64 :math:`(n)`
        - **item:** int64 :math:`(m)`
    """

    user: Tensor
    item: Tensor
    sampling: NeighborSampling | None = None


@dataclass(frozen=True, eq=False)
class InteractionBatch:
    """Training triplets: ``user[b]`` interacted with ``pos_item[b]``, but not with ``neg_item[b]``.

    Args:
        user: Users.
        pos_item: Items that the users interacted with.
        neg_item: Items that the users did not interact with.
        full_size: Configured number of triplets of a full batch, which is also that of a shorter
            last batch (0: the size of this one).
        nodes: The users and items among which the triplets are numbered (``None``: all of the
            graph).
        sampling: Draws of the neighbourhoods of these nodes (``None``: all of them are read).

    Shapes:
        - **user, pos_item, neg_item:** int64 :math:`(B)`
    """

    user: Tensor
    pos_item: Tensor
    neg_item: Tensor
    full_size: int = 0
    nodes: Nodes | None = None
    sampling: NeighborSampling | None = None

    def __post_init__(self) -> None:
        """Fills in the size."""
        if self.full_size == 0:
            object.__setattr__(self, "full_size", self.user.numel())

    def __iter__(self) -> Iterator[Tensor]:
        """The three columns: ``user, pos_item, neg_item = batch``."""
        return iter((self.user, self.pos_item, self.neg_item))

    def compact(self) -> InteractionBatch:
        """The same triplets, numbered among the users and items that occur, its ``nodes``.

        ``model(data, batch.nodes)`` gives the vectors that the new batch numbers.
        """
        users, user = self.user.unique(return_inverse=True)
        items, item = torch.cat([self.pos_item, self.neg_item]).unique(return_inverse=True)
        pos_item, neg_item = item.split(self.pos_item.numel())
        nodes = Nodes(users, items, self.sampling)
        return InteractionBatch(user, pos_item, neg_item, self.full_size, nodes)


def feature_key(name: str) -> str:
    """Attribute of ``data["item"]`` with the feature table ``name``."""
    return _FEATURE + name


def mask_key(name: str) -> str:
    """Attribute of ``data["item"]`` that marks items without the feature ``name``."""
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
    """The mask of items without the feature ``name``, bool ``[num_items]``."""
    table = feature_table(data, name)
    if mask_key(name) not in data[ITEM]:
        return torch.zeros(table.size(0), dtype=torch.bool, device=table.device)
    return data[ITEM][mask_key(name)]


def added_items(data: HeteroData) -> Tensor:
    """The mask of items that were added after training, bool ``[num_items]``."""
    added: Tensor | None = data[ITEM].get(ADDED)
    if added is None:
        device = data[INTERACTS].edge_index.device
        return torch.zeros(int(data[ITEM].num_nodes), dtype=torch.bool, device=device)
    return added


def require_graph(data: object, argument: str) -> HeteroData:
    """Checks that ``data`` is a graph with users, items and interactions, and returns it.

    Raises:
        ValueError: If it is not; the message contains ``argument``.
    """
    if not isinstance(data, HeteroData):
        raise ValueError(
            f"'{argument}' needs to be a HeteroData (got {type(data).__name__}): pass the .data of "
            "a dataset, split with SplitInteractions"
        )
    if INTERACTS not in data.edge_types or "edge_index" not in data[INTERACTS]:
        raise ValueError(f"'{argument}' needs links in data[{INTERACTS}].edge_index (it has none)")
    return data


def on_device(data: HeteroData, device: torch.device | str) -> HeteroData:
    """Returns a copy of the graph with its tensors on a device; the given graph is not changed.

    In contrast, PyG's ``data.to(device)`` moves the given graph, and converts images that are
    stored as bytes to lists of numbers.
    """
    moved = copy.copy(data)
    for store in moved.stores:
        for name, value in list(store.items()):
            if isinstance(value, Tensor):
                store[name] = value.to(device)
    return moved


def positive_links(data: HeteroData) -> Tensor:
    """The positive links that a graph is trained or evaluated on, each once.

    These are the links of ``edge_label_index`` (or of ``pos_edge_label_index``, which
    :class:`~torch_geometric.transforms.RandomLinkSplit` writes with ``split_labels=True``) whose
    ``edge_label`` is above 0; without an ``edge_label`` all of them, and without any of the two
    those of ``edge_index``. They stay in their order, repeated ones in the place of the first.

    Shapes:
        - **output:** int64 :math:`(2, L)`

    Raises:
        ValueError: If ``edge_label`` does not have one value for each link.
    """
    return _distinct(_positive(data), data)


def num_positive_links(data: HeteroData) -> int:
    """Number of the positive links that a graph is trained on, repeated ones as often as there."""
    return _positive(data).size(1)


def _positive(data: HeteroData) -> Tensor:
    """The same, but repeated links as often as they occur."""
    store = data[INTERACTS]
    prefix = next((prefix for prefix in _LABELS if f"{prefix}_index" in store), None)
    if prefix is None:
        return store.edge_index
    links: Tensor = store[f"{prefix}_index"]
    label: Tensor | None = store.get(prefix)
    if label is not None:
        if label.shape != links.shape[1:]:
            raise ValueError(
                f"'{prefix}' needs one value for each link of '{prefix}_index', 0 for negatives, "
                f"shape ({links.size(1)},) (got {tuple(label.shape)})"
            )
        if not bool((label > 0).all()):
            links = links[:, label > 0]
    return links


def has_links_to_predict(data: HeteroData) -> bool:
    """Whether the links are split into those that are used and those to predict."""
    return any(f"{prefix}_index" in data[INTERACTS] for prefix in _LABELS)


def links_to_predict(data: HeteroData, argument: str = "data") -> Tensor:
    """The :func:`positive_links` of a graph that has links to predict, int64 ``[2, L]``.

    Raises:
        ValueError: If there are none; the message contains ``argument``.
    """
    links = positive_links(data) if has_links_to_predict(data) else None
    if links is None or links.size(1) == 0:
        raise ValueError(
            f"'{argument}' needs links to predict in data[{INTERACTS}].edge_label_index (it has "
            "none): split the data, e.g. with SplitInteractions"
        )
    return links


def with_links_to_predict(data: HeteroData, links: Tensor) -> HeteroData:
    """A shallow copy of the graph with other links to predict, int64 ``[2, L]``, all positive."""
    result = copy.copy(data)
    store = result[INTERACTS]
    for prefix in (*_LABELS, "neg_edge_label"):
        for name in (prefix, f"{prefix}_index"):
            if name in store:
                del store[name]
    store.edge_label_index = links
    return result


def known_pairs(data: HeteroData) -> Tensor:
    """The pairs that users have had but that are no positives, int64 ``[2, K]``.

    A pair that is among ``edge_index`` or the :func:`positive_links` too is none of them.
    """
    links = data[INTERACTS].edge_index
    if KNOWS not in data.edge_types or "edge_index" not in data[KNOWS]:
        return links[:, :0]
    pairs = _distinct(data[KNOWS].edge_index, data)
    return pairs[:, ~torch.isin(_key(pairs, data), _key(all_links(data), data))]


def all_links(data: HeteroData) -> Tensor:
    """The links of ``edge_index`` and the :func:`positive_links`, each once, int64 ``[2, N]``.

    In a training graph these are the links of training, also where some are only used and the
    others only trained on (``RandomLinkSplit(disjoint_train_ratio=...)``).
    """
    links, positive = data[INTERACTS].edge_index, _positive(data)
    if positive.shape != links.shape or not torch.equal(positive, links):
        links = torch.cat([links, positive], dim=1)
    return _distinct(links, data)


def add_known_pairs(data: HeteroData, pairs: Tensor, values: Mapping[str, Any]) -> None:
    """Adds known pairs, int64 ``[2, K]``, with the ``rating`` and ``time`` of each, in place.

    Links of the graph and repeated pairs are left out, and what ``values`` hold besides. Ratings or
    times that only the pairs of before or only the new ones have are dropped.
    """
    values = {name: torch.as_tensor(values[name]) for name in ("rating", "time") if name in values}
    if KNOWS in data.edge_types:
        store = data[KNOWS]
        values = {
            name: torch.cat([store[name], value]) for name, value in values.items() if name in store
        }
        pairs = torch.cat([store.edge_index, pairs], dim=1)
        del data[KNOWS]
    rows = _first_places(pairs, data)
    rows = rows[~torch.isin(_key(pairs[:, rows], data), _key(all_links(data), data))]
    if rows.numel():
        data[KNOWS].edge_index = pairs[:, rows]
        data[KNOWS].update({name: value[rows] for name, value in values.items()})


def with_known_pairs(data: HeteroData, pairs: Tensor) -> HeteroData:
    """A shallow copy of the graph with other known pairs, int64 ``[2, K]``."""
    result = copy.copy(data)
    if KNOWS in result.edge_types:
        del result[KNOWS]
    if pairs.size(1):
        result[KNOWS].edge_index = pairs
    return result


def known_links(data: HeteroData, users: Tensor | None = None) -> Tensor:
    """All that users have had as far as the graph tells, each once, int64 ``[2, N]``.

    These are :func:`all_links` and the :func:`known_pairs`, the items that are not recommended, of
    all users or of some, int64 ``[n]``.
    """
    parts = [data[INTERACTS].edge_index, _positive(data)]
    if KNOWS in data.edge_types and "edge_index" in data[KNOWS]:
        parts.append(data[KNOWS].edge_index)
    if users is not None:  # before anything is sorted
        asked = torch.zeros(int(data[USER].num_nodes), dtype=torch.bool, device=users.device)
        asked[users] = True
        parts = [part[:, asked[part[0]]] for part in parts]
    return _distinct(torch.cat(parts, dim=1), data)


def _key(links: Tensor, data: HeteroData) -> Tensor:
    """A number for each link, which is equal for equal links only."""
    return links[0] * int(data[ITEM].num_nodes) + links[1]


def _distinct(links: Tensor, data: HeteroData) -> Tensor:
    """The links, each at its first place; the same tensor where none is repeated."""
    places = _first_places(links, data)
    return links if places.numel() == links.size(1) else links[:, places]


def _first_places(links: Tensor, data: HeteroData) -> Tensor:
    """Where each link is first, ascending."""
    key, order = _key(links, data).sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return order[first].sort().values


def link_values(data: HeteroData, name: str, way_out: str = "") -> Tensor:
    """The attribute ``name`` of the interactions, one value for each, ``[E]``.

    Raises:
        ValueError: If it is missing or has another shape; the message contains ``way_out``.
    """
    links = data[INTERACTS]
    if name not in links:
        raise ValueError(
            f"'{name}' needs to be known for each interaction "
            f'(data["user", "interacts", "item"].{name} is missing){way_out}'
        )
    values = torch.as_tensor(links[name])
    count = links.edge_index.size(1)
    if values.shape != (count,):
        raise ValueError(f"'{name}' needs shape ({count},) (got {tuple(values.shape)})")
    return values


def core_links(user: Tensor, item: Tensor, k: int) -> Tensor:
    """The links of the k-core, the largest subgraph whose nodes all have at least ``k`` links.

    Repeated links count as often as they occur.

    Shapes:
        - **input:** user and item, int64 :math:`(E)`
        - **output:** indices of the links, ascending, int64; empty if nothing is left
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
    r"""The weight :math:`1/\sqrt{d_u d_i}` of every user-item link.

    It is the same for both directions and equals
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
    """A hexadecimal hash of a sequence of tensors, arrays, strings and numbers.

    Hashes are equal only if dtypes, shapes and bytes are equal, so that a cache with these keys is
    never used for other content.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().contiguous()
            if part.dtype == torch.bfloat16:  # which NumPy lacks
                digest.update(b"bfloat16 ")
                part = part.view(torch.int16)
            part = part.numpy()
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
