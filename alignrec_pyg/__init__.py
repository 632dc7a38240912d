"""Multimodal recommendation for PyTorch Geometric: AlignRec and its baselines.

AlignRec (CIKM 2024, https://arxiv.org/abs/2403.12384) recommends items from interactions plus each
item's image and text.
"""

from alignrec_pyg.evaluation.beyond_accuracy import (
    BeyondAccuracy,
    ListDiversity,
    beyond_accuracy,
    intra_list_diversity,
)
from alignrec_pyg.evaluation.groups import (
    ActivityGroup,
    PopularityGroup,
    activity_groups,
    long_tail_links,
    popularity_groups,
)
from alignrec_pyg.evaluation.metrics import (
    UserMetrics,
    evaluate,
    evaluate_users,
    recommend,
    user_metrics,
)
from alignrec_pyg.evaluation.ranking import Ranking, rank
from alignrec_pyg.feature_eval import (
    CosineStatistics,
    FeatureRecall,
    bootstrap_difference,
    bootstrap_interval,
    cosine_statistics,
    item_cf,
    mask_modality,
    zero_shot,
)
from alignrec_pyg.ids import UnknownItemError, UnknownUserError
from alignrec_pyg.models import (
    BM3,
    BPR,
    FREEDOM,
    GRCN,
    LATTICE,
    MGCN,
    MMGCN,
    VBPR,
    Aligned,
    AlignRec,
    ContentLightGCN,
    DualGNN,
    LightGCN,
    Recommender,
    SLMRec,
)
from alignrec_pyg.storage import CheckpointError
from alignrec_pyg.training.loop import FitResult, TrainConfig, TrainingDivergedError, fit
from alignrec_pyg.training.ray import fit_with_ray

__version__ = "0.1.0"

__all__ = [
    "BM3",
    "BPR",
    "FREEDOM",
    "GRCN",
    "LATTICE",
    "MGCN",
    "MMGCN",
    "VBPR",
    "ActivityGroup",
    "AlignRec",
    "Aligned",
    "BeyondAccuracy",
    "CheckpointError",
    "ContentLightGCN",
    "CosineStatistics",
    "DualGNN",
    "FeatureRecall",
    "FitResult",
    "LightGCN",
    "ListDiversity",
    "PopularityGroup",
    "Ranking",
    "Recommender",
    "SLMRec",
    "TrainConfig",
    "TrainingDivergedError",
    "UnknownItemError",
    "UnknownUserError",
    "UserMetrics",
    "__version__",
    "activity_groups",
    "beyond_accuracy",
    "bootstrap_difference",
    "bootstrap_interval",
    "cosine_statistics",
    "evaluate",
    "evaluate_users",
    "fit",
    "fit_with_ray",
    "intra_list_diversity",
    "item_cf",
    "long_tail_links",
    "mask_modality",
    "popularity_groups",
    "rank",
    "recommend",
    "user_metrics",
    "zero_shot",
]
