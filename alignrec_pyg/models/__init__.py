"""Recommendation models, one file per paper."""

from alignrec_pyg.models.aligned import Aligned
from alignrec_pyg.models.alignrec import AlignRec
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.bm3 import BM3
from alignrec_pyg.models.bpr import BPR
from alignrec_pyg.models.content import ContentRecommender, Representations
from alignrec_pyg.models.contentlightgcn import ContentLightGCN
from alignrec_pyg.models.dualgnn import DualGNN
from alignrec_pyg.models.freedom import FREEDOM
from alignrec_pyg.models.grcn import GRCN
from alignrec_pyg.models.lattice import LATTICE
from alignrec_pyg.models.lightgcn import LightGCN
from alignrec_pyg.models.mgcn import MGCN
from alignrec_pyg.models.mmgcn import MMGCN
from alignrec_pyg.models.slmrec import SLMRec
from alignrec_pyg.models.vbpr import VBPR

__all__ = [
    "BM3",
    "BPR",
    "FREEDOM",
    "GRCN",
    "LATTICE",
    "MGCN",
    "MMGCN",
    "VBPR",
    "AlignRec",
    "Aligned",
    "ContentLightGCN",
    "ContentRecommender",
    "DualGNN",
    "LightGCN",
    "Recommender",
    "Representations",
    "SLMRec",
]
