"""The data format of the models: node and edge types, links, features, batches and content hashes.

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
  figures do, unless ``exclude_known_pairs`` leaves them out;
- ``data["item", "knn_<name>", "item"].edge_index / .edge_weight``: a kNN item graph, whose messages
  flow from row 0 (the neighbour) to row 1 (the item).

Everything that trains, evaluates, exports or reports takes its links from :func:`positive_links`
(or :func:`links_to_predict`), and what is left out from :func:`known_links`.
"""

from alignrec_pyg.graph.batches import InteractionBatch, NeighborSampling, Nodes
from alignrec_pyg.graph.features import (
    ADDED,
    added_items,
    feature_key,
    feature_mask,
    feature_names,
    feature_table,
    item_graph_names,
    knn_edge_type,
    mask_key,
)
from alignrec_pyg.graph.hashing import content_hash
from alignrec_pyg.graph.links import (
    add_known_pairs,
    all_links,
    core_links,
    has_links_to_predict,
    known_links,
    known_pairs,
    link_values,
    links_to_predict,
    num_positive_links,
    positive_links,
    symmetric_norm,
    with_known_pairs,
    with_links_to_predict,
)
from alignrec_pyg.graph.schema import (
    INTERACTS,
    ITEM,
    KNOWS,
    USER,
    on_device,
    require_graph,
)

__all__ = [
    "ADDED",
    "INTERACTS",
    "ITEM",
    "KNOWS",
    "USER",
    "InteractionBatch",
    "NeighborSampling",
    "Nodes",
    "add_known_pairs",
    "added_items",
    "all_links",
    "content_hash",
    "core_links",
    "feature_key",
    "feature_mask",
    "feature_names",
    "feature_table",
    "has_links_to_predict",
    "item_graph_names",
    "knn_edge_type",
    "known_links",
    "known_pairs",
    "link_values",
    "links_to_predict",
    "mask_key",
    "num_positive_links",
    "on_device",
    "positive_links",
    "require_graph",
    "symmetric_norm",
    "with_known_pairs",
    "with_links_to_predict",
]
