"""Building blocks of the models: propagation, losses and feature tables."""

from alignrec_pyg.nn.alignment import Alignment
from alignrec_pyg.nn.features import FeatureProjection, FeatureProjections, FeatureTable
from alignrec_pyg.nn.losses import (
    batch_rows,
    bpr_loss,
    cosine_alignment_loss,
    embedding_norm_loss,
    info_nce_loss,
    l2_loss,
    node_info_nce_loss,
    similarity_loss,
    table_info_nce_loss,
    unit_rows,
)
from alignrec_pyg.nn.perturbation import LinkPruning, dropout, sample_links, signed_noise
from alignrec_pyg.nn.propagation import (
    Adjacency,
    Block,
    ItemPropagation,
    ItemToUserAggregation,
    LGConv,
    MessageFlow,
    UserItemPropagation,
    item_to_user_adjacency,
    rows_of,
    self_loop_adjacency,
    user_item_adjacency,
    user_item_edges,
)
from alignrec_pyg.nn.weighted_edges import EdgeStructure, edge_dot, segment_softmax, weighted_matmul

__all__ = [
    "Adjacency",
    "Alignment",
    "Block",
    "EdgeStructure",
    "FeatureProjection",
    "FeatureProjections",
    "FeatureTable",
    "ItemPropagation",
    "ItemToUserAggregation",
    "LGConv",
    "LinkPruning",
    "MessageFlow",
    "UserItemPropagation",
    "batch_rows",
    "bpr_loss",
    "cosine_alignment_loss",
    "dropout",
    "edge_dot",
    "embedding_norm_loss",
    "info_nce_loss",
    "item_to_user_adjacency",
    "l2_loss",
    "node_info_nce_loss",
    "rows_of",
    "sample_links",
    "segment_softmax",
    "self_loop_adjacency",
    "signed_noise",
    "similarity_loss",
    "table_info_nce_loss",
    "unit_rows",
    "user_item_adjacency",
    "user_item_edges",
    "weighted_matmul",
]
