"""Pure pieces shared by the models: propagation and losses."""

from alignrec_pyg.nn.features import FeatureProjection, FeatureTable
from alignrec_pyg.nn.losses import (
    bpr_loss,
    cosine_alignment_loss,
    embedding_norm_loss,
    info_nce_loss,
    l2_loss,
    similarity_loss,
)
from alignrec_pyg.nn.propagation import (
    Adjacency,
    ItemPropagation,
    LGConv,
    UserItemPropagation,
    item_to_user_adjacency,
    user_item_adjacency,
    user_item_edges,
)

__all__ = [
    "Adjacency",
    "FeatureProjection",
    "FeatureTable",
    "ItemPropagation",
    "LGConv",
    "UserItemPropagation",
    "bpr_loss",
    "cosine_alignment_loss",
    "embedding_norm_loss",
    "info_nce_loss",
    "item_to_user_adjacency",
    "l2_loss",
    "similarity_loss",
    "user_item_adjacency",
    "user_item_edges",
]
