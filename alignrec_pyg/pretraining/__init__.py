"""Training of encoders before any recommender: stage 1 (ICA), and CLIP on the catalogue."""

from alignrec_pyg.pretraining.clip import CLIPFinetuneResult, contrastive_loss, finetune_clip
from alignrec_pyg.pretraining.clip_config import CLIPFinetuneConfig
from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.fit import PretrainResult, pretrain
from alignrec_pyg.pretraining.objective import MaskedDataModelling, Objective
from alignrec_pyg.pretraining.pairs import PairBatch, PairConfig, PairDataset
from alignrec_pyg.pretraining.visual_tokens import CodebookReport, PatchCodebook, VisualTokenizer
from alignrec_pyg.pretraining.vqkd import VQKDTokenizer

__all__ = [
    "CLIPFinetuneConfig",
    "CLIPFinetuneResult",
    "CodebookReport",
    "MaskedDataModelling",
    "Objective",
    "PairBatch",
    "PairConfig",
    "PairDataset",
    "PatchCodebook",
    "PretrainConfig",
    "PretrainResult",
    "VQKDTokenizer",
    "VisualTokenizer",
    "contrastive_loss",
    "finetune_clip",
    "pretrain",
]
