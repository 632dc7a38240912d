"""Recommendation models, one file per paper."""

from alignrec_pyg.models.alignrec import AlignRec
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.bm3 import BM3
from alignrec_pyg.models.bpr import BPR
from alignrec_pyg.models.freedom import FREEDOM
from alignrec_pyg.models.lightgcn import LightGCN
from alignrec_pyg.models.vbpr import VBPR

__all__ = ["BM3", "BPR", "FREEDOM", "VBPR", "AlignRec", "LightGCN", "Recommender"]
