"""Training-free evaluation of item features for recommendation."""

from alignrec_pyg.feature_eval.bootstrap import (
    BootstrapInterval,
    bootstrap_difference,
    bootstrap_interval,
)
from alignrec_pyg.feature_eval.cosine import CosineStatistics, cosine_statistics
from alignrec_pyg.feature_eval.masking import mask_features, mask_modality, masked_items
from alignrec_pyg.feature_eval.protocols import ItemCFRecall, item_cf, zero_shot
from alignrec_pyg.feature_eval.recall import FeatureRecall
from alignrec_pyg.feature_eval.table_weights import table_weights

__all__ = [
    "BootstrapInterval",
    "CosineStatistics",
    "FeatureRecall",
    "ItemCFRecall",
    "bootstrap_difference",
    "bootstrap_interval",
    "cosine_statistics",
    "item_cf",
    "mask_features",
    "mask_modality",
    "masked_items",
    "table_weights",
    "zero_shot",
]
