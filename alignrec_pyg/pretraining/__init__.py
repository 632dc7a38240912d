"""Stage 1: inter-content alignment by masked image and masked language modelling."""

from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.fit import PretrainResult, pretrain
from alignrec_pyg.pretraining.objective import MaskedDataModelling, Objective
from alignrec_pyg.pretraining.pairs import PairBatch, PairConfig, PairDataset
from alignrec_pyg.pretraining.visual_tokens import CodebookReport, PatchCodebook, VisualTokenizer
from alignrec_pyg.pretraining.vqkd import VQKDTokenizer

__all__ = [
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
    "pretrain",
]
