"""Multimodal recommendation for PyTorch Geometric: AlignRec and its baselines.

AlignRec (CIKM 2024, https://arxiv.org/abs/2403.12384) recommends items from interactions plus each
item's image and text.
"""

from alignrec_pyg.checkpoint import CheckpointError
from alignrec_pyg.evaluate import UnknownUserError, evaluate, evaluate_users, recommend
from alignrec_pyg.models import BM3, BPR, FREEDOM, VBPR, AlignRec, LightGCN, Recommender
from alignrec_pyg.train import FitResult, TrainConfig, TrainingDivergedError, fit

__version__ = "0.1.0"

__all__ = [
    "BM3",
    "BPR",
    "FREEDOM",
    "VBPR",
    "AlignRec",
    "CheckpointError",
    "FitResult",
    "LightGCN",
    "Recommender",
    "TrainConfig",
    "TrainingDivergedError",
    "UnknownUserError",
    "__version__",
    "evaluate",
    "evaluate_users",
    "fit",
    "recommend",
]
