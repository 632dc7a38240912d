"""Links: those that a model uses, those to predict, and what users are known to have had."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.graph.schema import INTERACTS, ITEM, KNOWS, USER

_LABELS = ("edge_label", "pos_edge_label")


def positive_links(data: HeteroData) -> Tensor:
    """The positive links that a graph is trained or evaluated on, each once.

    These are the links of ``edge_label_index`` (or of ``pos_edge_label_index``, which
    :class:`~torch_geometric.transforms.RandomLinkSplit` writes with ``split_labels=True``) whose
    ``edge_label`` is above 0; without an ``edge_label`` all of them, and without any of the two
    those of ``edge_index``. The order is kept; a repeated link appears once, at its first position.

    Shapes:
        - **output:** int64 :math:`(2, L)`

    Raises:
        ValueError: If ``edge_label`` does not have one value for each link.
    """
    return _distinct(_positive(data), data)


def num_positive_links(data: HeteroData) -> int:
    """Number of the positive links that a graph is trained on, counting repeated ones."""
    return _positive(data).size(1)


def _positive(data: HeteroData) -> Tensor:
    """The positive links, repeated ones included."""
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

    Pairs that are also in ``edge_index`` or among the :func:`positive_links` are left out.
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

    Pairs that are links of the graph, repeated pairs and other ``values`` are left out. Ratings or
    times are dropped if only the previous or only the new pairs have them.
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
    """All items that users are known to have had, as links, each once, int64 ``[2, N]``.

    These are :func:`all_links` and the :func:`known_pairs`, whose items are not recommended: those
    of all users, or of ``users``, int64 ``[n]``.
    """
    parts = [data[INTERACTS].edge_index, _positive(data)]
    if KNOWS in data.edge_types and "edge_index" in data[KNOWS]:
        parts.append(data[KNOWS].edge_index)
    if users is not None:  # before anything is sorted
        asked = torch.zeros(int(data[USER].num_nodes), dtype=torch.bool, device=users.device)
        asked[users] = True
        parts = [part[:, asked[part[0]]] for part in parts]
    return _distinct(torch.cat(parts, dim=1), data)


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


def _key(links: Tensor, data: HeteroData) -> Tensor:
    """A number for each link; equal only for equal links."""
    return links[0] * int(data[ITEM].num_nodes) + links[1]


def _distinct(links: Tensor, data: HeteroData) -> Tensor:
    """The links, each at its first place; the same tensor where none is repeated."""
    places = _first_places(links, data)
    return links if places.numel() == links.size(1) else links[:, places]


def _first_places(links: Tensor, data: HeteroData) -> Tensor:
    """The first position of each distinct link, ascending."""
    key, order = _key(links, data).sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return order[first].sort().values
