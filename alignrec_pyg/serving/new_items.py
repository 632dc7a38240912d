"""Items that are added to a trained model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_choice
from alignrec_pyg.graph import (
    ADDED,
    INTERACTS,
    ITEM,
    added_items,
    feature_key,
    feature_mask,
    feature_names,
    feature_table,
    item_graph_names,
    knn_edge_type,
    mask_key,
)
from alignrec_pyg.ids import as_id_list, item_ids
from alignrec_pyg.models import ClosedFormRecommender, Recommender
from alignrec_pyg.nn import FeatureTable
from alignrec_pyg.transforms import KNNItemGraph
from alignrec_pyg.transforms.attach_items import attach_items, new_rows

IdVectors = Literal["none", "neighbors"]
"""How the ID vector of a new item is initialised: as zeros, or as the mean of its neighbours."""

ModelT = TypeVar("ModelT", bound=Recommender)


def new_items(
    ids: Any = None,
    *,
    text: Sequence[str | None] | None = None,
    image: Sequence[Any] | None = None,
    features: Mapping[str, Any] | None = None,
) -> HeteroData:
    """Creates a graph of new items, as input of the transforms that encode items.

    ``EncodeItems(encoder, "mm", fit=False)(new_items(ids, text=..., image=...))`` encodes texts and
    images with the encoder that the model was trained with. Given ``features`` need no transform.

    Args:
        ids: Original ids of the items, new and distinct; ``None`` if items have no ids.
        text: A text for each item, or ``None``.
        image: An image for each item, in any form that
            :func:`~alignrec_pyg.encoders.read_image` accepts, or ``None``.
        features: Feature rows by name, ``[n, dim]``; a row of zeros marks an item without the
            feature.

    Raises:
        ValueError: If the lengths differ, or an id is given twice.
    """
    identified = None if ids is None else as_id_list(ids, "ids")
    parts = {"text": text, "image": image, **(features or {}), "ids": identified}
    lengths = {name: len(part) for name, part in parts.items() if part is not None}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            "'ids', 'text', 'image' and 'features' need one entry for each new item, and at least "
            f"one of them is required (got lengths {lengths})"
        )
    new = HeteroData()
    new[ITEM].num_nodes = next(iter(lengths.values()))
    if identified is not None:
        if len(set(identified)) < len(identified):
            raise ValueError("'ids' needs to be distinct (some ids are repeated)")
        new[ITEM].id = np.array(identified, dtype=None if _numbers(identified) else object)
    for name, content in (("text", text), ("image", image)):
        if content is not None:
            new[ITEM][name] = list(content)
    for name, rows in (features or {}).items():
        table = torch.as_tensor(rows).float()
        new[ITEM][feature_key(name)] = table
        new[ITEM][mask_key(name)] = ~table.reshape(len(table), -1).any(dim=1)
    return new


def add_items(
    model: ModelT,
    data: HeteroData,
    new: HeteroData,
    *,
    item_graphs: Sequence[KNNItemGraph] = (),
    id_vectors: IdVectors = "none",
) -> tuple[ModelT, HeteroData]:
    r"""Adds items to a trained model by their content, without training.

    The returned model and graph support everything that others do:
    ``recommend(model, data, users, candidates=ids)``, ``evaluate``, ``save_pretrained``, further
    training. The vectors of users and known items do not change (up to rounding, since products
    have another size). The vector of a new item does not depend on other new items: in the item
    graphs, new items receive messages from their ``k - 1`` nearest known items and themselves, and
    send messages to no other item.

    A new item has no links and, with ``id_vectors="none"``, :math:`e_i = 0`. Its final vector then
    follows from the equations of the models, in the notation of their docstrings and with
    :math:`s_{ij}` the edges of the item graph into the new item:

    - :class:`~alignrec_pyg.models.AlignRec`:
      :math:`h_i = m_i = \sum_j s_{ij} (e_j \odot \sigma(W_g (W_f f_j + b_f) + b_g))`, which
      training has aligned with :math:`c_i`;
    - :class:`~alignrec_pyg.models.FREEDOM`: :math:`\sum_j s_{ij} e_j`;
      :class:`~alignrec_pyg.models.LATTICE`: :math:`\operatorname{norm}(\sum_j a_{ij} e_j)`, with
      the frozen graphs' part of :math:`A` (learned neighbours stay among the items of training);
    - :class:`~alignrec_pyg.models.MGCN`: the fused views
      :math:`x_{m,i} = \sum_j s_{m,ij} (e_j \odot g_m(T_m f_j))`, with :math:`c_i = 0`;
      :class:`~alignrec_pyg.models.SMORE`: likewise, with its filters and the union of the graphs;
    - :class:`~alignrec_pyg.models.VBPR`: :math:`[\, 0 \,\Vert\, W f_i + b \,]`, as in its paper;
      :class:`~alignrec_pyg.models.ContentLightGCN`: :math:`W f_i + b`;
    - :class:`~alignrec_pyg.models.DualGNN`:
      :math:`\sum_m \operatorname{norm}(\phi(f_i W_m + b_m) V_m + c_m)`;
      :class:`~alignrec_pyg.models.GRCN`: :math:`[\, 0 \,\Vert\, t_{1,i} \,\Vert\, \dots \,]`;
      :class:`~alignrec_pyg.models.MMGCN`, :class:`~alignrec_pyg.models.SLMRec`: the layers of the
      features alone;
    - :class:`~alignrec_pyg.models.PGL`: :math:`e_i / (L + 1) + \sum_j s_{ij} e_j`, where :math:`e`
      are the projected features of the items;
    - :class:`~alignrec_pyg.models.LGMRec`: the global vector of the hyperedges that its features
      assign it to, :math:`\alpha \operatorname{norm}(\sum_m q_{m,i})`, which distinguishes few
      items;
    - :class:`~alignrec_pyg.models.MENTOR`: :math:`x^0_{m,i} + \sum_j s_{ij} x_{m,j}` of each
      feature set, with the encoded features :math:`x^0_{m,i}`;
    - :class:`~alignrec_pyg.models.Aligned`: as its backbone;
    - :class:`~alignrec_pyg.models.BPR`, :class:`~alignrec_pyg.models.LightGCN`,
      :class:`~alignrec_pyg.models.BM3`: not supported, since their scores depend on the ID vectors
      only (BM3 uses features in training only).

    With ``id_vectors="neighbors"``, :math:`e_i` is the weighted mean of the ID vectors of the
    neighbours in ``item_graphs``, as `Gantner et al. <https://doi.org/10.1109/ICDM.2010.129>`_
    (ICDM 2010) map attributes to factors. All models support it, including those of IDs only.

    If the model trains its feature table, new items have their features as extracted. Without
    links and ID vector, the scores of new items tend to be lower than those of known items, so that
    they rarely appear in rankings of all items; ``recommend(..., candidates=new_ids)`` ranks them
    separately.

    Args:
        model: A trained model; it is not changed.
        data: The graph to serve, with the items of the model; it is not changed.
        new: New items with the features of the model (see :func:`new_items`).
        item_graphs: The transforms that built the item graphs of the model; with
            ``id_vectors="neighbors"`` any transforms that find neighbours by features of ``data``.
        id_vectors: How to initialise the ID vectors of new items: ``"none"`` (zeros) or
            ``"neighbors"``.

    Returns:
        The model and the graph with the new items, which follow the known ones in the order of
        ``new``. New items are masked in feature tables that ``new`` does not have, and have only a
        self-loop in graphs that ``item_graphs`` does not have. The graph has no texts, images and
        other attributes that are known for the old items only. ``data["item"].added`` marks the
        new items.

    Raises:
        ValueError: If the model uses ID vectors only or is one in closed form, an id is known
            already, or features or item graphs of the model are missing or do not fit.

    Example:
        >>> import pandas as pd
        >>> from alignrec_pyg import VBPR, recommend
        >>> from alignrec_pyg.datasets import from_frames
        >>> from alignrec_pyg.serving import add_items, new_items
        >>> links = pd.DataFrame({"user": ["ann", "ann", "bob"], "item": ["cup", "tea", "cup"]})
        >>> data = from_frames(links, features={"text": (["cup", "tea"], [[1, 0], [0, 1]])}).data
        >>> new = new_items(["pot"], features={"text": [[0.6, 0.8]]})
        >>> model, data = add_items(VBPR(data), data, new)
        >>> recommend(model, data, ["ann"], k=5)
        [array(['pot'], dtype=object)]
    """
    model.check_fits(data, "data")
    check_choice("id_vectors", id_vectors, get_args(IdVectors))
    if isinstance(model, ClosedFormRecommender):
        raise ValueError(
            f"'model' needs to be trained by steps (got {type(model).__name__}, which is solved on "
            "all items): take a model that scores content (such as AlignRec or VBPR), or solve it "
            "anew on a graph with the new items"
        )
    if id_vectors == "none" and not model.supports_new_items:
        raise ValueError(
            f"{type(model).__name__} scores items by their ID vectors only, which new items do not "
            "have: use a model that scores content (such as AlignRec or VBPR), or "
            "id_vectors='neighbors' with item_graphs=[KNNItemGraph(...)] over any feature table"
        )
    if id_vectors == "neighbors" and not item_graphs:
        raise ValueError("id_vectors='neighbors' needs 'item_graphs', which define the neighbours")
    num_items = int(data[ITEM].num_nodes)
    attached = {graph.name: attach_items(graph, data, new) for graph in item_graphs}
    _check_reads(model, new, attached)
    extended = _extend_graph(data, new, attached)
    neighbors = _neighbors(attached.values(), num_items) if id_vectors == "neighbors" else None
    return extend_model(model, extended, neighbors), extended


@torch.no_grad()
def extend_model(
    model: ModelT, data: HeteroData, neighbors: tuple[Tensor, Tensor] | None = None
) -> ModelT:
    r"""Copies a trained model onto a graph with additional items.

    All trained weights are copied. Tables with one row per item get additional rows: trainable
    feature tables the features of ``data``, all others, such as ID vectors, zeros or

    .. math::
        e_i = \sum_j w_{ij} e_j \Big/ \sum_j w_{ij}

    over ``neighbors``: edges :math:`(j, i)` from known to additional items, int64 ``[2, E]``, and
    their positive weights ``[E]``. The model is in evaluation mode, on its device.
    """
    known = model.num_items
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and then replaced
        extended = model.clone_for(data)
    tables = {
        f"{name}.weight"
        for name, module in extended.named_modules()
        if isinstance(module, FeatureTable)
    }
    trained = model.state_dict()
    for name, value in extended.state_dict().items():
        old = trained[name].to(value.device)
        if old.shape == value.shape:
            value.copy_(old)
        elif old.size(0) == known and value.size(0) == extended.num_items:
            value[:known] = old
            if name in tables:
                continue
            value[known:] = 0
            if neighbors is not None:
                value[known:] = _weighted_means(old, *neighbors, extended.num_items - known)
    tensors = [*model.parameters(), *model.buffers()]
    return extended.to(tensors[0].device).eval()


def _weighted_means(table: Tensor, edge_index: Tensor, weight: Tensor, num_new: int) -> Tensor:
    """Weighted mean of rows of ``table`` for each new row; zero without neighbours."""
    source, target = edge_index.to(table.device)
    weight = weight.to(table.device, table.dtype).unsqueeze(1)
    row = target - table.size(0)
    total = table.new_zeros(num_new, 1).index_add_(0, row, weight)
    rows = table.new_zeros(num_new, table.size(1))
    rows.index_add_(0, row, table[source] * weight)
    return torch.where(total > 0, rows / total.clamp(min=1e-12), 0)


def _check_reads(model: Recommender, new: HeteroData, graphs: Mapping[str, Any]) -> None:
    """Checks that the new items have the features and item graphs of the model."""
    parts = [part.hparams for part in model.modules() if isinstance(part, Recommender)]
    read = dict.fromkeys(name for part in parts for name in part.get("features") or ())
    features = [name for name in read if name not in feature_names(new)]
    if features:
        raise ValueError(
            f"'new' needs the feature tables {features} of {type(model).__name__} (got "
            f"{feature_names(new)}): give new_items(features=...), or apply the transforms that "
            "computed them (EncodeItems with fit=False)"
        )
    needed = [part["item_graph"] for part in parts if "item_graph" in part]
    needed += [name for part in parts for name in part.get("item_graphs") or ()]
    missing = [name for name in dict.fromkeys(needed) if name not in graphs]
    if missing:
        raise ValueError(
            f"'item_graphs' needs the KNNItemGraph that built each of the item graphs {missing} "
            f"of {type(model).__name__} (got {list(graphs)})"
        )


def _extend_graph(
    data: HeteroData, new: HeteroData, attached: Mapping[str, tuple[Tensor, Tensor]]
) -> HeteroData:
    """A copy of the graph in which the new items follow the known ones."""
    num_items, num_new = int(data[ITEM].num_nodes), int(new[ITEM].num_nodes)
    device = data[INTERACTS].edge_index.device
    values: dict[str, Any] = {"num_nodes": num_items + num_new, "id": _joined_ids(data, new)}
    for name in feature_names(data):
        table = feature_table(data, name)
        if name in feature_names(new):
            rows, mask = new_rows(name, data, new).to(table), feature_mask(new, name)
        else:
            rows = table.new_zeros(num_new, table.size(1))
            mask = torch.ones(num_new, dtype=torch.bool)
        mask = mask.to(table.device)
        values[feature_key(name)] = torch.cat([table, rows])
        values[mask_key(name)] = torch.cat([feature_mask(data, name), mask])
    added = added_items(data)
    values[ADDED] = torch.cat([added, added.new_ones(num_new)])
    extended = copy.copy(data)
    store = extended[ITEM]
    for name in list(store.keys()):
        del store[name]
    for name, value in values.items():
        if value is not None:
            store[name] = value
    alone = torch.arange(num_items, num_items + num_new, device=device)
    for name in item_graph_names(data):
        edges = extended[knn_edge_type(name)]
        edge_index, weight = attached.get(
            name, (torch.stack([alone, alone]), torch.ones(num_new, device=device))
        )
        edges.edge_index = torch.cat([edges.edge_index, edge_index.to(device)], dim=1)
        edges.edge_weight = torch.cat([edges.edge_weight, weight.to(device)])
    return extended


def _joined_ids(data: HeteroData, new: HeteroData) -> np.ndarray | None:
    known, others = data[ITEM].get("id"), new[ITEM].get("id")
    if known is None and others is None:
        return None
    if known is None or others is None:
        raise ValueError(
            "'new' needs ids if 'data' has ids, and none if it has none "
            f"(data: {'none' if known is None else 'ids'})"
        )
    there = set(item_ids(data).tolist())
    first, other = next(iter(there)), np.asarray(others).tolist()
    if any(isinstance(entry, str) != isinstance(first, str) for entry in other):
        raise ValueError(
            f"'new' needs ids of the type of the known ones, which are like {first!r} (got "
            f"{other[:5]})"
        )
    twice = [entry for entry in np.asarray(others).tolist() if entry in there]
    if twice:
        raise ValueError(
            f"'new' needs ids that are not in 'data' ({len(twice)} are known, the first: "
            f"{twice[:5]})"
        )
    both = [*item_ids(data).tolist(), *np.asarray(others).tolist()]
    return np.array(both, dtype=None if _numbers(both) else object)


def _neighbors(attached: Iterable[tuple[Tensor, Tensor]], num_items: int) -> tuple[Tensor, Tensor]:
    """All edges from known items with positive weights, for a weighted mean."""
    edge_indices, weights = zip(*attached, strict=True)
    edges, weight = torch.cat(edge_indices, dim=1), torch.cat(weights)
    useful = (edges[0] < num_items) & (weight > 0)
    return edges[:, useful], weight[useful]


def _numbers(ids: Sequence[Any]) -> bool:
    return all(isinstance(entry, int) and not isinstance(entry, bool) for entry in ids)
